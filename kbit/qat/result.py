"""What training did: losses on held-out text before and after, tokens and time, and the sizes of what was written."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kbit.qat.plan import TrainPlan
from kbit.recipes import BitCount, Recipe
from kbit.recipes.result import human_bytes

if TYPE_CHECKING:
    from rich.console import Group


@dataclass(frozen=True)
class QatResult:
    """Losses are cross-entropies of the held-out windows, nats per token: of the model in 16 bits, quantized, and trained.

    step: the one with the least loss, whose weights were written. held_out: (step, loss) as training went. stopped: why it ended
    early, where it did. main: whether this process is the one that writes and speaks, of those that trained together. teacher:
    whose predictions it learned, where that was another model.
    """

    source: str
    out: str
    recipe: Recipe
    plan: TrainPlan
    bits: BitCount
    loss_16_bits: float
    loss_before: float
    loss: float
    step: int
    steps: int
    tokens: int
    seconds: float
    held_out: tuple[tuple[int, float], ...]
    main: bool = True
    stopped: str | None = None
    teacher: str | None = None

    @property
    def closed(self) -> float:
        """The share of the loss that quantizing cost which training won back; above 1 where it ends below 16 bits."""
        cost = self.loss_before - self.loss_16_bits
        return (self.loss_before - self.loss) / cost if cost > 0 else 0.0

    def to_json(self) -> dict[str, Any]:
        """All figures by name, sizes under the names of kbit's other results."""
        return {
            "source": self.source,
            "out": self.out,
            "recipe": self.recipe.to_dict(),
            "plan": self.plan.to_dict(),
            **self.bits.to_json(),
            "loss_16_bits": self.loss_16_bits,
            "loss_before": self.loss_before,
            "loss": self.loss,
            "closed": self.closed,
            "step": self.step,
            "steps": self.steps,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "tokens_per_second": self.tokens / self.seconds if self.seconds else 0.0,
            "held_out": [list(entry) for entry in self.held_out],
            "stopped": self.stopped,
            "teacher": self.teacher,
        }

    def training(self, before: dict[str, Any]) -> dict[str, Any]:
        """What training.json says: that of the 16-bit model, as far as it has one, and what was done to it here."""
        kept: dict[str, Any] = {key: before[key] for key in ("family", "training_tokens", "seed") if key in before}
        done = asdict(self.plan) | {"teacher": self.teacher and Path(self.teacher).name, "step": self.step, "loss": self.loss}
        return kept | {"qat_tokens": self.tokens, "qat": done}

    def __rich__(self) -> Group:
        """Totals, then the losses as training went."""
        from rich.console import Group
        from rich.table import Table

        totals = Table(title=f"{self.source} -> {self.out}", title_justify="left", show_header=False, box=None)
        for name, value in self._totals():
            totals.add_row(name, value)
        course = Table(title="held-out text", title_justify="left", box=None)
        course.add_column("step", justify="right")
        course.add_column("nats per token", justify="right")
        for step, loss in self.held_out:
            course.add_row(str(step), f"{loss:.4f}", style="bold" if step == self.step else None)
        return Group(totals, "", course)

    def _totals(self) -> list[tuple[str, str]]:
        speed = self.tokens / self.seconds if self.seconds else 0.0
        return [
            *([("teacher", self.teacher)] if self.teacher else []),
            ("linear weights", f"{self.bits.parameters_linear:,} at {self.bits.bits_per_weight:.3f} bits per weight"),
            ("size", human_bytes(self.bits.total_bytes)),
            ("loss in 16 bits", f"{self.loss_16_bits:.4f} nats per token"),
            ("quantized", f"{self.loss_before:.4f}"),
            ("trained", f"{self.loss:.4f}: {self.closed:.0%} of the cost won back"),
            ("steps", f"{self.steps}, the best is {self.step}"),
            ("tokens", f"{self.tokens:,}, {speed:,.0f} per second"),
            ("seconds", f"{self.seconds:.1f}"),
        ]
