"""What quantizing a checkpoint did: each layer's format, bits and error, and the sizes before and after."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from kbit.recipes.bits import BitCount
from kbit.recipes.recipe import Recipe

if TYPE_CHECKING:
    from rich.console import Group

ROWS_SHOWN = 12  # of a long table: the layers with the largest error
PREFIXES = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True)
class LayerResult:
    """One matrix. error: root of the mean squared error over the root of the mean squared weight; 0 for a layer of zeros."""

    layer: str
    format: str
    method: str | None
    shape: tuple[int, int]
    bits_per_weight: float
    error: float


@dataclass(frozen=True)
class QuantizeResult:
    """The layers in the order of the model; sizes in bytes, headers left out; peak_bytes is the most memory held at once."""

    source: str
    out: str
    recipe: Recipe
    rows: tuple[LayerResult, ...]
    bits: BitCount
    source_bytes: int
    seconds: float
    peak_bytes: int

    @property
    def quantized(self) -> tuple[LayerResult, ...]:
        """The layers that are stored in codes."""
        return tuple(row for row in self.rows if row.method is not None)

    @property
    def worst(self) -> LayerResult | None:
        """The quantized layer with the largest error."""
        return max(self.quantized, key=lambda row: row.error, default=None)

    @property
    def mean_error(self) -> float:
        """The mean of the quantized layers' errors, a layer counting as one."""
        return sum(row.error for row in self.quantized) / max(1, len(self.quantized))

    def to_json(self) -> dict[str, Any]:
        """Totals under the names of kbit's other results, and a list of layers."""
        return {
            "source": self.source,
            "out": self.out,
            "recipe": self.recipe.to_dict(),
            **self.bits.to_json(),
            "source_bytes": self.source_bytes,
            "mean_error": self.mean_error,
            "worst_error": self.worst.error if self.worst else 0.0,
            "worst_layer": self.worst.layer if self.worst else None,
            "seconds": self.seconds,
            "peak_bytes": self.peak_bytes,
            "layers": [asdict(row) for row in self.rows],
        }

    def __rich__(self) -> Group:
        """Totals, then the layers: all of them, or those with the largest errors."""
        from rich.console import Group
        from rich.table import Table

        totals = Table(title=f"{self.source} -> {self.out}", title_justify="left", show_header=False, box=None)
        for name, value in self._totals():
            totals.add_row(name, value)
        shown = sorted(self.rows, key=lambda row: -row.error)[:ROWS_SHOWN] if len(self.rows) > 2 * ROWS_SHOWN else self.rows
        title = "layers" if len(shown) == len(self.rows) else f"the {len(shown)} layers with the largest error"
        layers = Table(title=title, title_justify="left", box=None)
        for heading in ("layer", "format", "method"):
            layers.add_column(heading)
        for heading in ("shape", "bits per weight", "error"):
            layers.add_column(heading, justify="right")
        for row in shown:
            shape = f"{row.shape[0]} x {row.shape[1]}"
            layers.add_row(row.layer, row.format, row.method or "", shape, f"{row.bits_per_weight:.3f}", f"{row.error:.2%}")
        return Group(totals, "", layers)

    def _totals(self) -> list[tuple[str, str]]:
        kept = len(self.rows) - len(self.quantized)
        after = self.bits.total_bytes
        worst = f"{self.worst.error:.2%} in {self.worst.layer}" if self.worst else "none: no layer is quantized"
        return [
            ("layers", f"{len(self.quantized)} quantized" + (f", {kept} kept as floats" if kept else "")),
            ("linear weights", f"{self.bits.parameters_linear:,} at {self.bits.bits_per_weight:.3f} bits per weight"),
            ("size before", human_bytes(self.source_bytes)),
            ("size after", f"{human_bytes(after)} ({after / max(1, self.source_bytes):.1%})"),
            ("mean layer error", f"{self.mean_error:.2%}"),
            ("worst layer error", worst),
            ("seconds", f"{self.seconds:.1f}"),
            ("peak memory", human_bytes(self.peak_bytes)),
        ]


def human_bytes(count: int) -> str:
    """A size as people read it: 98.4 MB, powers of 1000."""
    size = float(count)
    for prefix in PREFIXES[:-1]:
        if size < 1000:
            return f"{size:.0f} {prefix}" if prefix == "B" else f"{size:.1f} {prefix}"
        size /= 1000
    return f"{size:.1f} {PREFIXES[-1]}"
