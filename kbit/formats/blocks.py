"""Reductions over the blocks of a weight, a chunk of rows at a time: least and largest value, mean, squared error on a grid."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kbit.formats.encoded import Grid, pieces, unflatten
from kbit.formats.format import Format
from kbit.formats.nearest import Cells
from kbit.formats.scales import to_float16


def reduce_blocks(w: Tensor, fmt: Format, reduce: Callable[[Tensor], Tensor], combine: Callable[[Tensor], Tensor]) -> Tensor:
    """`reduce` of each block, (rows, blocks, size) -> (rows, blocks), as (n_out, n_blocks); for a tensor `combine` of all."""
    n_blocks = fmt.n_blocks(w.shape[1])
    result: Tensor | None = None
    for rows, blocks, columns in pieces(w.shape, fmt):
        reduced = reduce(unflatten(w[rows, columns].float(), blocks))
        result = torch.empty(len(w), n_blocks, dtype=reduced.dtype) if result is None else result
        result[rows, blocks] = reduced
    assert result is not None
    return combine(result).reshape(1, 1) if fmt.granularity == "tensor" else result


def min_max(w: Tensor, fmt: Format, mean: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Least and largest value of each block, less the block's `mean` where one is given."""
    low = reduce_blocks(w, fmt, lambda x: x.amin(-1), torch.amin)
    high = reduce_blocks(w, fmt, lambda x: x.amax(-1), torch.amax)
    return (low, high) if mean is None else (low - mean, high - mean)


def stored_mean(w: Tensor, fmt: Format) -> Tensor | None:
    """The mean of each block as -center stores it, in float16; None for other formats."""
    if fmt.affine != "center":
        return None
    return to_float16(reduce_blocks(w, fmt, lambda x: x.double().mean(-1), torch.mean).float())


def squared_error(w: Tensor, grid: Grid, cells: Cells) -> Tensor:
    """Float64 sum of squared errors of each block, its weights at their nearest values on `grid`, whose levels have `cells`.

    Errors are squared in units of a power of two near the largest scale, so that neither huge nor tiny weights leave float32.
    """
    unit = torch.ldexp(torch.ones(()), torch.frexp(grid.scale.max())[1])
    errors = torch.empty(len(w), grid.fmt.n_blocks(w.shape[1]))
    for rows, blocks, columns in pieces(w.shape, grid.fmt):
        part, x = grid.part(rows, blocks), unflatten(w[rows, columns].float(), blocks)
        error = part.values(part.codes(x, cells)).sub_(x).div_(unit)
        errors[rows, blocks] = error.mul_(error).sum(-1)
    total = errors.double() * unit.double().square()
    return total.sum().reshape(1, 1) if grid.fmt.granularity == "tensor" else total
