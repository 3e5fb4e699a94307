"""The MSE-optimal range: clip ratios tried from coarse to fine, then least squares for the scale that suits the codes."""

from __future__ import annotations

import torch
from torch import Tensor

from kbit.formats.blocks import min_max, reduce_blocks, squared_error
from kbit.formats.encoded import CHUNK, Grid, grid_of_range, pieces, reach, unflatten
from kbit.formats.format import Format
from kbit.formats.nearest import Cells
from kbit.formats.scales import FLOAT32_MAX, FLOAT32_TINY

COARSE = 2 ** (-1 / 3)  # from one clip ratio to the next
FINE = 2 ** (-1 / 12)
FINE_STEPS = 3  # on either side of the best coarse ratio: FINE^4 is COARSE
PATIENCE = 4  # coarse steps (a factor of 2.5) that may go by without any block gaining
LEAST_SQUARES_ROUNDS = 3


def mse_range(
    w: Tensor, fmt: Format, levels: Tensor, *, mean: Tensor | None = None, tensor_scale: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(low, high) of least squared error among those tried; never worse than min-max on the same grid of stored scales.

    Both ends draw in together by ratios 2^(-i/3), with -asym and -min each also by itself; then both by 2^(-j/12) around each
    block's best; then codes and scale (and minimum) are improved in turn by least squares. Each trial is rounded as it will be
    stored. The ends draw in towards 0, with -min towards the block's mean, on which a level may be laid.
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
    origin, down, up = reach_of_blocks(w, fmt, mean)

    def grid_of(ends: tuple[Tensor, Tensor]) -> Grid:
        return grid_of_range(fmt, *ends, levels, mean=mean, tensor_scale=tensor_scale)

    def drawn_in(low_ratio: Tensor, high_ratio: Tensor) -> tuple[Tensor, Tensor]:
        return (origin - down * low_ratio).clamp(min=-FLOAT32_MAX), (origin + up * high_ratio).clamp(max=FLOAT32_MAX)

    whole = torch.ones_like(origin)
    best = drawn_in(whole, whole)
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
        attempt(drawn_in(2 * whole, 2 * whole))  # OCP's rule may have clipped
    smallest = smallest_ratio(w, fmt, torch.maximum(down, up))
    low_ratio, high_ratio = whole, whole
    for moves_low, moves_high in ((1, 1), (1, 0), (0, 1)) if fmt.affine in ("asym", "min") else ((1, 1),):
        step, idle = 1.0, 0
        from_low, from_high = low_ratio, high_ratio
        while step > smallest and idle < PATIENCE:
            step *= COARSE
            trial = (from_low * step**moves_low, from_high * step**moves_high)
            better = attempt(drawn_in(*trial))
            if fmt.affine == "min":
                better |= attempt(with_level_on(origin, drawn_in(*trial), levels))
            low_ratio, high_ratio = torch.where(better, trial[0], low_ratio), torch.where(better, trial[1], high_ratio)
            idle = 0 if bool(better.any()) else idle + 1
    if fmt.scales == "e8m0":
        return best  # the coarse ratios have met every power of two
    for j in range(-FINE_STEPS, FINE_STEPS + 1):
        if j:
            attempt(drawn_in(low_ratio * FINE**j, high_ratio * FINE**j))
    for _ in range(LEAST_SQUARES_ROUNDS):
        if not bool(attempt(least_squares(w, grid_of(best), cells)).any()):
            break
    return best


def with_level_on(origin: Tensor, ends: tuple[Tensor, Tensor], levels: Tensor) -> tuple[Tensor, Tensor]:
    """Ends as far apart, moved by less than a step so that a level falls on `origin`, where a peaked block has most weights."""
    low, high = ends
    step = (high / levels[-1] - low / levels[-1]).clamp(min=FLOAT32_TINY)
    moved = origin - ((origin - low) / step).round() * step
    return moved, moved + (high - low)


def reach_of_blocks(w: Tensor, fmt: Format, mean: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """(origin, down, up) of each block: what its ends draw in towards, and how far they lie from it; alike for symmetric ones."""
    low, high = min_max(w, fmt, mean)
    if fmt.affine == "min":
        origin = reduce_blocks(w, fmt, lambda x: x.double().mean(-1), torch.mean).float().clamp(low, high)
        return origin, origin - low, high - origin
    zero = torch.zeros_like(low)
    if fmt.affine == "asym":
        return zero, -low.clamp(max=0), high.clamp(min=0)
    half = torch.maximum(low.abs(), high.abs())
    return zero, half, half


def smallest_ratio(w: Tensor, fmt: Format, extent: Tensor) -> float:
    """Least over the blocks of mean |x| over the farther end: what one magnitude would want, and more levels reach farther.

    With -min and -center x is the distance from the mean.
    """

    def magnitude(x: Tensor) -> Tensor:
        x = x - x.mean(-1, keepdim=True) if fmt.affine in ("min", "center") else x
        return x.abs().mean(-1)

    mean = reduce_blocks(w, fmt, magnitude, torch.mean)
    return float(torch.where(extent > 0, mean / extent, 1.0).min())


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
