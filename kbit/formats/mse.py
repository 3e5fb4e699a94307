"""The MSE-optimal range: clip ratios tried from coarse to fine, then least squares for the scale that suits the codes."""

from __future__ import annotations

import torch
from torch import Tensor

from kbit.formats.blocks import min_max, reduce_blocks, squared_error
from kbit.formats.encoded import CHUNK, Grid, grid_of_range, pieces, reach, unflatten
from kbit.formats.format import Format
from kbit.formats.nearest import Cells
from kbit.formats.scales import FLOAT32_MAX

COARSE = 2 ** (-1 / 3)  # from one clip ratio to the next
FINE = 2 ** (-1 / 12)
FINE_STEPS = 3  # on either side of the best coarse ratio: FINE^4 is COARSE
PATIENCE = 4  # coarse steps (a factor of 2.5) that may go by without any block gaining
LEAST_SQUARES_ROUNDS = 3


def mse_range(
    w: Tensor, fmt: Format, levels: Tensor, *, mean: Tensor | None = None, tensor_scale: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(low, high) of least squared error among those tried; never worse than min-max on the same grid of stored scales.

    The range shrinks about its middle (about 0 for symmetric codebooks) by ratios 2^(-i/3), then 2^(-j/12) around each block's
    best; then codes and scale (and minimum) are improved in turn by least squares. Each trial is rounded as it will be stored.
    """
    cells = Cells.of(levels)
    if fmt.granularity == "tensor":
        return search(w, fmt, levels, cells, mean, tensor_scale)
    step = max(1, CHUNK // w.shape[1])
    starts = range(0, len(w), step)
    found = [
        search(w[i : i + step], fmt, levels, cells, None if mean is None else mean[i : i + step], tensor_scale) for i in starts
    ]
    low, high = zip(*found, strict=True)
    return torch.cat(low), torch.cat(high)


def search(
    w: Tensor, fmt: Format, levels: Tensor, cells: Cells, mean: Tensor | None, tensor_scale: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`mse_range` of some rows at once."""
    w = w.float()
    low, high = min_max(w, fmt, mean)
    if fmt.affine in ("asym", "min"):
        middle, half = low / 2 + high / 2, high / 2 - low / 2
    else:
        middle, half = torch.zeros_like(low), torch.maximum(low.abs(), high.abs())

    def grid_of(ends: tuple[Tensor, Tensor]) -> Grid:
        return grid_of_range(fmt, *ends, levels, mean=mean, tensor_scale=tensor_scale)

    def shrunk(ratio: Tensor | float) -> tuple[Tensor, Tensor]:
        return (middle - half * ratio).clamp(min=-FLOAT32_MAX), (middle + half * ratio).clamp(max=FLOAT32_MAX)

    best = shrunk(1.0)
    least = squared_error(w, grid_of(best), cells)

    def attempt(ends: tuple[Tensor, Tensor]) -> Tensor:
        """Takes `ends` for the blocks where they do better; returns which."""
        nonlocal best, least
        error = squared_error(w, grid_of(ends), cells)
        better = error < least
        best = (torch.where(better, ends[0], best[0]), torch.where(better, ends[1], best[1]))
        least = torch.minimum(error, least)
        return better

    if fmt.scales == "e8m0":
        attempt(shrunk(2.0))  # OCP's rule may have clipped
    ratio, chosen, idle = 1.0, torch.ones_like(low), 0
    smallest = smallest_ratio(w, fmt, half)
    while ratio > smallest and idle < PATIENCE:
        ratio *= COARSE
        better = attempt(shrunk(ratio))
        chosen = torch.where(better, ratio, chosen)
        idle = 0 if bool(better.any()) else idle + 1
    if fmt.scales == "e8m0":
        return best  # the coarse ratios have met every power of two
    for j in range(-FINE_STEPS, FINE_STEPS + 1):
        if j:
            attempt(shrunk(chosen * FINE**j))
    for _ in range(LEAST_SQUARES_ROUNDS):
        if not bool(attempt(least_squares(w, grid_of(best), cells)).any()):
            break
    return best


def smallest_ratio(w: Tensor, fmt: Format, half: Tensor) -> float:
    """Least over the blocks of mean |x| over half the range: what one magnitude would want, and more levels reach farther."""
    mean = reduce_blocks(w, fmt, lambda x: x.abs().mean(-1), torch.mean)
    return float(torch.where(half > 0, mean / half, 1.0).min())


def least_squares(w: Tensor, grid: Grid, cells: Cells) -> tuple[Tensor, Tensor]:
    """(low, high) of the scale (with -min: scale and minimum) of least squared error for the codes that `grid` gives.

    With l the levels of a block's codes and x its weights less the mean: scale = sum(l x) / sum(l^2), or the line of regression.
    """
    fmt = grid.fmt
    moments = torch.zeros(5, len(w), fmt.n_blocks(w.shape[1]), dtype=torch.float64)
    for rows, blocks, columns in pieces(w.shape, fmt):
        part, x = grid.part(rows, blocks), unflatten(w[rows, columns], blocks)
        level = grid.levels.index_select(0, part.codes(x, cells).flatten().int()).view(x.shape)
        level = level if part.zero is None else level - part.zero
        x = x if part.mean is None else x - part.mean
        sums = (level * x, level.square(), level, x, torch.ones_like(x))
        moments[:, rows, blocks] = torch.stack([each.sum(-1) for each in sums]).double()
    if fmt.granularity == "tensor":
        moments = moments.sum((1, 2), keepdim=True)
    lx, ll, l1, x1, n = moments
    if fmt.affine == "min":
        spread = n * ll - l1 * l1
        scale = torch.where(spread > 0, (n * lx - l1 * x1) / spread, 0.0).clamp(min=0)
        low = (x1 - scale * l1) / n
        return low.float(), (low + scale * grid.levels[-1].double()).float()
    scale = torch.where(ll > 0, lx / ll, 0.0).clamp(min=0)
    if grid.zero is not None:
        return (-grid.zero * scale).float(), ((grid.levels[-1] - grid.zero) * scale).float()
    high = (scale * reach(fmt, grid.levels).double()).float()
    return -high, high
