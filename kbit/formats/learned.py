"""Codebooks learned from the values of a tensor: k-means (the optimum in one dimension) and quantiles.

Both look at sorted points with weights, in float64: a large tensor is first summarised in 65536 bins, each by its mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

BINS = 65536
EXACT_POINTS = (
    2048  # at least so many points get the exact optimum; beyond, dynamic programming over as many starts Lloyd's iteration
)
EXACT_WORK = 2**18  # points times levels that do: 16384 at k = 4, in about 0.2 s
LLOYD_ROUNDS = 300


def summarise(chunks: Iterable[tuple[Tensor, Tensor]], low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """(points, weights), ascending, of (values, weights) chunks within [low, high]: the means of 65536 equal bins."""
    weights, sums = np.zeros(BINS), np.zeros(BINS)
    width = max(high - low, np.finfo(np.float64).tiny)
    for value_chunk, weight_chunk in chunks:
        x, w = value_chunk.flatten().double().numpy(), weight_chunk.flatten().double().numpy()
        bins = np.clip((x - low) * (BINS / width), 0, BINS - 1).astype(np.int64)
        weights += np.bincount(bins, w, BINS)
        sums += np.bincount(bins, w * x, BINS)
    held = weights > 0
    return sums[held] / weights[held], weights[held]


def sorted_points(values: Tensor, weights: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    """(points, weights), ascending: equal values are one point, values of no weight are none; summarised beyond 65536."""
    weights = torch.ones_like(values) if weights is None else weights
    if values.numel() > BINS:
        return summarise([(values, weights)], float(values.min()), float(values.max()))
    points, place = np.unique(values.flatten().double().numpy(), return_inverse=True)
    mass = np.bincount(place.ravel(), weights.flatten().double().numpy(), len(points))
    return points[mass > 0], mass[mass > 0]


def kmeans_levels(k: int, values: Tensor, weights: Tensor | None = None, start: Tensor | None = None) -> Tensor:
    """The at most 2^k levels of least weighted squared error to `values`, float32 and strictly ascending.

    Exact (dynamic programming over sorted points, Wu 1991) for up to max(2048, 2^18 / 2^k) distinct values. Beyond, the same over
    as many groups of values starts Lloyd's iteration, which has one fixed point where the density is log-concave, as a Gaussian's
    (Trushkin 1982). start: levels to iterate from instead, where values have changed a little since they were learned.
    """
    points, mass = sorted_points(values, weights)
    if len(points) <= 2**k:
        return ascending(points)
    if start is None:
        levels = optimal_levels(*coarse(points, mass, max(EXACT_POINTS, EXACT_WORK // 2**k)), 2**k)
    else:
        levels = start.double().numpy()
    return ascending(lloyd(points, mass, levels))


def quantile_levels(k: int, values: Tensor, weights: Tensor | None = None) -> Tensor:
    """Medians of the 2^k parts of equal mass, ascending, fewer where values repeat: every code is used as often."""
    points, mass = sorted_points(values, weights)
    if not len(points):
        return torch.zeros(1)
    middle = (np.cumsum(mass) - mass / 2) / mass.sum()
    return ascending(np.interp((np.arange(2**k) + 0.5) / 2**k, middle, points))


def ascending(levels: np.ndarray) -> Tensor:
    """Levels as float32 with repeats removed; a lone 0 where there are none."""
    return torch.from_numpy(np.unique(levels.astype(np.float32))) if len(levels) else torch.zeros(1)


def coarse(points: np.ndarray, mass: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """At most `most` points: as they are, or means of groups made by the density^(1/3) rule, by which optimal levels spread."""
    if len(points) <= most:
        return points, mass
    counts, edges = np.histogram(points, most // 4, weights=mass)
    spread = np.concatenate([[0.0], np.cumsum(np.cbrt(counts))])
    group = np.minimum(np.interp(points, edges, spread) / spread[-1] * most, most - 1).astype(np.int64)
    total = np.bincount(group, mass, most)
    sums = np.bincount(group, mass * points, most)
    return sums[total > 0] / total[total > 0], total[total > 0]


def prefix_sums(points: np.ndarray, mass: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Running sums of mass, mass * x and mass * x^2, each starting at 0."""
    return tuple(np.concatenate([[0.0], np.cumsum(mass * points**power)]) for power in range(3))  # type: ignore[return-value]


def optimal_levels(points: np.ndarray, mass: np.ndarray, n_levels: int) -> np.ndarray:
    """The `n_levels` levels of least squared error, exactly: best split of the first j points into q cells, for q = 1 ..
    n_levels.

    best[q][j] = min over i of best[q - 1][i] + error(i, j); the minimising i grows with j, so it is sought between those of the
    neighbours already solved (divide and conquer): n_levels * m * log m steps for m points.
    """
    m = len(points)
    n_levels = min(n_levels, m)
    centre = np.average(points, weights=mass)
    sum0, sum1, sum2 = prefix_sums(points - centre, mass)

    def error(i: np.ndarray, j: np.ndarray) -> np.ndarray:
        total = sum0[j] - sum0[i]
        return sum2[j] - sum2[i] - (sum1[j] - sum1[i]) ** 2 / np.where(total > 0, total, 1)

    every = np.arange(m + 1)
    best = error(np.zeros(m + 1, np.int64), every)
    splits = [np.zeros(m + 1, np.int64)]
    for _ in range(1, n_levels):
        best, split = best_splits(best, error, m)
        splits.append(split)
    ends = [m]
    for split in reversed(splits):
        ends.append(int(split[ends[-1]]))
    bounds = np.array(ends[::-1])
    total = np.diff(sum0[bounds])
    held = total > 0
    return np.diff(sum1[bounds])[held] / total[held] + centre


def best_splits(
    previous: np.ndarray, error: Callable[[np.ndarray, np.ndarray], np.ndarray], m: int
) -> tuple[np.ndarray, np.ndarray]:
    """For every j: the least previous[i] + error(i, j) over i <= j, and its first i; solved at ever finer strides of j."""
    best, split = np.empty(m + 1), np.zeros(m + 1, np.int64)
    stride = 1 << m.bit_length()  # more than m: before the loop, only j = 0 is solved
    best[0] = previous[0]
    while stride > 1:
        stride //= 2
        j = np.arange(stride, m + 1, 2 * stride)
        low = split[j - stride]
        above = j + stride  # a multiple of the stride before, so it is solved unless it lies beyond m
        high = np.minimum(np.where(above <= m, split[np.minimum(above, m)], j), j)
        lengths = high - low + 1
        starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        i = np.arange(lengths.sum()) - np.repeat(starts - low, lengths)
        candidates = previous[i] + error(i, np.repeat(j, lengths))
        least = np.minimum.reduceat(candidates, starts)
        hits = np.flatnonzero(candidates == np.repeat(least, lengths))
        first = hits[np.searchsorted(hits, starts)]
        best[j], split[j] = least, i[first]
    return best, split


def lloyd(points: np.ndarray, mass: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Levels moved to the means of their cells until no cell changes (at most 300 rounds); a level whose cell is empty stays."""
    sum0, sum1, _ = prefix_sums(points, mass)
    before = None
    for _ in range(LLOYD_ROUNDS):
        cuts = np.searchsorted(points, (levels[1:] + levels[:-1]) / 2)
        if before is not None and np.array_equal(cuts, before):
            break
        before = cuts
        bounds = np.concatenate([[0], cuts, [len(points)]])
        total = np.diff(sum0[bounds])
        levels = np.where(total > 0, np.diff(sum1[bounds]) / np.where(total > 0, total, 1), levels)
    return levels
