"""What theory says about the squared error of a format on a tensor, without rounding a single weight.

Bennett's model: within a gap g between two neighbouring levels the weights are spread evenly, so that the error of the nearer one
has variance g^2 / 12; for even steps s this is s^2 / 12 (Bennett 1948). What lies beyond the last level is off by its excess. So,
with x = weight / scale of its block, the error of a block is scale^2 times the mean over its weights of g(x)^2 / 12, or of the
squared excess.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kbit.formats.encoded import CHUNK, Grid, coded_columns, pieces, reach, unflatten
from kbit.formats.encoding import choose_grid, widest_columns
from kbit.formats.format import Format
from kbit.formats.nearest import Cells
from kbit.formats.scales import FLOAT16_MAX, to_float16

LAST_PLACE = {"f16": 10, "bf16": 7}  # bits of the fraction
# how far rounded scales move the weight that made them
ON_END = {"f16": 2.0**-10, "s8": 2.0**-8, "i8": 2.0**-8, "e8m0": 0.0, "e4m3": 2.0**-5}
LEAST_EXPONENT = {"f16": -14, "bf16": -126}  # below it the last place stays as it is


def predicted_mse(fmt: Format, w: Tensor, *, grid: Grid | None = None) -> float:
    """Mean squared error that theory predicts for `w` (n_out, n_in) in `fmt`: s^2 / 12 for even steps, clipping counted.

    grid: the stored scales to predict for, of the coded columns; None takes those of round-to-nearest. Gaps are those of the
    levels that the weights fall between. Kept columns, f16 and bf16 have the even spread of their own last place; f32 has no
    error.
    """
    if fmt.is_float:
        return 0.0 if fmt.codebook == "f32" else float_error(w, fmt.codebook) / w.numel()
    kept_error = 0.0
    if fmt.kept_percent:
        kept = widest_columns(w, fmt).long()
        kept_error = float_error(w[:, kept], "f16")
        w = w[:, coded_columns(w.shape[1], kept)]
    return (grid_error(w, choose_grid(w, fmt) if grid is None else grid) + kept_error) / w.numel()


def grid_error(w: Tensor, grid: Grid) -> float:
    """Sum of the squared errors predicted for the coded columns `w` on a grid."""
    levels = grid.levels
    gaps = Cells.between(levels)
    variance = levels.double().diff().square() / 12
    on_end = ON_END[grid.fmt.scales] * float(reach(grid.fmt, levels))
    total = 0.0
    for rows, blocks, columns in pieces(w.shape, grid.fmt):
        part, x = grid.part(rows, blocks), unflatten(w[rows, columns].float(), blocks)
        relative = part.relative(x) if part.zero is None else part.relative(x) + part.zero
        inside = relative.clamp(levels[0], levels[-1])
        gap = gaps.codes(inside).flatten().int().clamp_(max=max(0, len(variance) - 1))
        expected = variance.index_select(0, gap).view(x.shape) if len(variance) else torch.zeros(x.shape, dtype=torch.float64)
        if not part.whole:  # the weight that made a block's range lies on its end, not within the last gap, which may be wide
            expected = torch.where((relative - levels[0]).abs().minimum((relative - levels[-1]).abs()) <= on_end, 0.0, expected)
        excess = (relative - inside).double()
        expected = torch.where(excess.abs() > on_end, excess.square(), expected) * part.scale.double().square()
        total += float(torch.where(part.scale > 0, expected, x.double().square()).sum())
    return total


def float_error(w: Tensor, name: str) -> float:
    """Sum of u^2 / 12 over weights that `name` (f16, bf16) cannot hold, u their last place; beyond 65504 the squared excess."""
    total = 0.0
    for x in w.float().split(max(1, CHUNK // w.shape[1])):
        last_place = torch.frexp(x)[1].sub(1).clamp(min=LEAST_EXPONENT[name]).sub(LAST_PLACE[name])
        expected = torch.ldexp(torch.ones(x.shape, dtype=torch.float64), last_place).square() / 12
        held = to_float16(x) if name == "f16" else x.bfloat16().float()
        excess = (x.abs() - FLOAT16_MAX).clamp(min=0).double() if name == "f16" else torch.zeros(())
        total += float(torch.where(excess > 0, excess.square(), torch.where(held == x, 0.0, expected)).sum())
    return total
