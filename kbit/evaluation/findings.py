"""All that was found about one model: its quality, its size, and how it does on tasks; one table or one JSON object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kbit.evaluation.quality import Quality

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table


@dataclass(frozen=True)
class Findings:
    """model, reference, text: as the user named them. format: what the model was quantized to here, None as it lies.

    sizes: total_bits and its kin. quality: None without a text. tasks: of run_tasks.
    """

    model: str
    format: str | None
    reference: str | None
    text: str | None
    sizes: Mapping[str, float]
    quality: Quality | None
    tasks: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    peak_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        """One flat object; tasks under "tasks"."""
        named = {"model": self.model, "format": self.format, "reference": self.reference, "text": self.text}
        quality = self.quality.to_json() if self.quality else {}
        tasks = {"tasks": {name: dict(figures) for name, figures in self.tasks.items()}} if self.tasks else {}
        return {**named, **quality, **self.sizes, **tasks, "peak_bytes": self.peak_bytes}

    def __rich__(self) -> Group:
        """Title, quality, size, tasks."""
        from rich.console import Group
        from rich.text import Text

        quantized = f" in {self.format}" if self.format else ""
        against = f", against {self.reference}" if self.reference and self.quality else ""
        on = f" on {self.text}" if self.text else ""
        title = Text(f"{self.model}{quantized}{on}{against}", style="bold")
        parts: list[Any] = [title, ""]
        parts += [self.quality, self._size()] if self.quality else [self._size()]
        parts += ["", self._tasks()] if self.tasks else []
        return Group(*parts)

    def _size(self) -> str:
        bits = self.sizes.get("bits_per_weight")
        weights = f"{int(self.sizes['parameters_linear']):,} linear weights" + (f" at {bits:.3f} bits" if bits else "")
        total = f"{int(self.sizes['total_bytes']):,} bytes in all"
        return f"{weights}, {total}; peak memory {self.peak_bytes / 1e6:,.0f} MB"

    def _tasks(self) -> Table:
        from rich.table import Table

        grid = Table(box=None, pad_edge=False, header_style="bold")
        grid.add_column("task (zero-shot)")
        grid.add_column("rows", justify="right")
        for head in ("acc (%)", "acc_norm (%)"):
            grid.add_column(head, justify="right")
            grid.add_column("± stderr")
        for name, figures in self.tasks.items():
            cells = [_percent(figures.get(key), mark) for key, mark in _TASK_CELLS]
            grid.add_row(name, f"{figures['rows']:.0f}", *cells)
        return grid


_TASK_CELLS = (("acc", ""), ("acc_stderr", "± "), ("acc_norm", ""), ("acc_norm_stderr", "± "))


def _percent(value: float | None, mark: str) -> str:
    return "" if value is None else f"{mark}{100 * value:.2f}"
