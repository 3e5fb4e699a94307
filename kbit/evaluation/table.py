"""A measurement as a table, under the names that llama-perplexity --kl-divergence prints."""

from __future__ import annotations

import io
from math import isfinite, nan
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.table import Table

from kbit.evaluation.protocols import EXACT

if TYPE_CHECKING:
    from kbit.evaluation.quality import Quality

Row = tuple[str, str, float, int, str]  # name, field of Quality, factor, digits, unit
ALONE: list[Row] = [
    ("Mean PPL", "perplexity", 1, 4, ""),
    ("Bits per byte", "bits_per_byte", 1, 5, ""),
    ("Loss", "loss", 1, 5, "nats/token"),
]
COMPARED: list[Row] = [
    ("Mean PPL(Q)", "perplexity", 1, 6, ""),
    ("Mean PPL(base)", "perplexity_base", 1, 6, ""),
    ("Cor(ln(PPL(Q)), ln(PPL(base)))", "ln_perplexity_correlation", 100, 2, "%"),
    ("Mean ln(PPL(Q)/PPL(base))", "ln_perplexity_ratio", 1, 6, ""),
    ("Mean PPL(Q)/PPL(base)", "perplexity_ratio", 1, 6, ""),
    ("Mean PPL(Q)-PPL(base)", "perplexity_difference", 1, 6, ""),
    ("Same top p", "same_top", 100, 3, "%"),
    *ALONE[1:],
]
# (name, suffix of kld_ and delta_p_)
SPREAD = [
    ("Mean", "mean"),
    ("RMS", "rms"),
    ("Maximum", "max"),
    ("99.9%", "p999"),
    ("99.0%", "p99"),
    ("95.0%", "p95"),
    ("90.0%", "p90"),
    ("75.0%", "p75"),
    ("Median", "median"),
    ("25.0%", "p25"),
    ("10.0%", "p10"),
    ("5.0%", "p05"),
    ("1.0%", "p01"),
    ("0.1%", "p001"),
    ("Minimum", "min"),
]


def table(quality: Quality) -> Group:
    """Perplexity with its kin, then the spread of KLD and Δp side by side; values with their standard errors."""
    parts: list[Table | str] = [_rows(quality, COMPARED if quality.has_reference else ALONE)]
    if quality.has_reference:
        parts += ["", _spread(quality)]
    return Group(*parts, "", *_about(quality))


def plain(quality: Quality) -> str:
    """The table as text of at most 100 columns."""
    console = Console(file=io.StringIO(), width=100)
    with console.capture() as captured:
        console.print(table(quality))
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _rows(quality: Quality, rows: list[Row]) -> Table:
    grid = Table(box=None, show_header=False, pad_edge=False)
    for justify in ("left", "right", "left", "left"):
        grid.add_column(justify=justify)
    for name, key, factor, digits, unit in rows:
        grid.add_row(name, *_cells(quality, key, factor, digits), unit)
    return grid


def _spread(quality: Quality) -> Table:
    grid = Table(box=None, pad_edge=False, header_style="bold")
    grid.add_column("over tokens", min_width=30)
    for head in ("KLD (nats)", "Δp (%)"):
        grid.add_column(head, justify="right", min_width=10)
        grid.add_column("± stderr", min_width=12)
    for name, key in SPREAD:
        grid.add_row(name, *_cells(quality, f"kld_{key}", 1, 6), *_cells(quality, f"delta_p_{key}", 100, 3))
    return grid


def _cells(quality: Quality, key: str, factor: float, digits: int) -> tuple[str, str]:
    """Value and error, empty where there is none."""
    value, error = (getattr(quality, name, nan) * factor for name in (key, f"{key}_stderr"))
    return (f"{value:.{digits}f}" if isfinite(value) else "", f"± {error:.{digits}f}" if isfinite(error) else "")


def _about(quality: Quality) -> list[str]:
    p = quality.protocol
    stride = f", stride {p.stride}" if p.stride not in (None, p.window) else ""
    half = ", second halves" if p.score == "second-half" else ""
    lines = [
        f"{quality.tokens} tokens ({quality.bytes} bytes) scored in {quality.windows} windows of {p.window}{stride}{half}",
        f"BOS {p.bos}, {p.dtype}{'' if p.compute == EXACT else f', {p.compute}'}, text {p.prepare} {(p.text_sha256 or '')[:12]}",
    ]
    if isfinite(quality.seconds):
        lines.append(f"{quality.seconds:.1f} s, {quality.tokens_per_second:.0f} tokens/s")
    return lines
