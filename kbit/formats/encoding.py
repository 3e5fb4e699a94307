"""encode: from a weight to its Encoded form, on a grid that a range of RANGES gives, or on one already chosen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from operator import itemgetter

import torch
from torch import Tensor

from kbit.errors import FormatError
from kbit.formats.blocks import min_max, squared_error, stored_mean
from kbit.formats.codebooks import CODEBOOKS, SIGNS
from kbit.formats.encoded import (
    CHUNK,
    Encoded,
    Grid,
    check_weight,
    coded_columns,
    encode_on_grid,
    grid_of_range,
    pieces,
    unflatten,
    unstored_scale,
)
from kbit.formats.format import Format, with_table
from kbit.formats.learned import BINS, kmeans_levels, summarise
from kbit.formats.nearest import Cells
from kbit.formats.ranges import RANGES
from kbit.formats.scales import tensor_scale_of, to_float16

FEW_BITS = 2  # up to this k a scale that reaches the largest weight does worse than writing zeros
ALTERNATIONS = 4  # of scales for the levels, and levels for the scales
LARGEST = torch.finfo(torch.float32).max * (1 - 2.0**-20)  # of a weight that levels are learned from


def encode(
    w: Tensor,
    fmt: Format,
    *,
    range_name: str | None = None,
    grid: Grid | None = None,
    levels: Tensor | None = None,
    kept_columns: Tensor | None = None,
) -> Encoded:
    """Each weight as the code of its nearest value on a grid.

    w: (n_out, n_in), any float dtype. range_name: a word of RANGES; None is min-max, but mse where k <= 2.
    grid: a grid already chosen for the coded columns, instead of a range. levels: of a user's table, or learned before.
    kept_columns: the n_kept(n_in) columns that stay in 16 bits; None takes those whose weights have the largest standard
    deviation. Raises FormatError where the format keeps floats, the weight is no matrix or not finite, or an argument does not
    fit.
    """
    check_weight(w, fmt)
    if fmt.codebook == "table" and levels is not None:
        fmt = with_table(fmt, levels)
    if kept_columns is not None and not fmt.kept_percent:
        raise FormatError(f"format '{fmt}' keeps no columns in 16 bits. Add -o1 to -o50, or name none.")
    coded = w = w.detach().contiguous()  # sums run in one order, however the weight lies
    kept = kept_weight = None
    if fmt.kept_percent:
        kept = widest_columns(w, fmt) if kept_columns is None else check_kept(kept_columns, w.shape[1], fmt)
        kept_weight = to_float16(w[:, kept.long()].float())
        coded = w[:, coded_columns(w.shape[1], kept)]
    grid = choose_grid(coded, fmt, range_name, levels) if grid is None else grid
    return Encoded(
        fmt=fmt,
        shape=(w.shape[0], w.shape[1]),
        codes=encode_on_grid(coded, grid),
        scale=grid.scale,
        levels=grid.levels,
        zero=grid.zero,
        minimum=grid.minimum,
        mean=grid.mean,
        tensor_scale=grid.tensor_scale,
        kept_columns=kept,
        kept_weight=kept_weight,
    )


def choose_grid(w: Tensor, fmt: Format, range_name: str | None = None, levels: Tensor | None = None) -> Grid:
    """The stored grid of the coded columns `w` for a range of RANGES; levels are learned where they must be and none come."""
    name = range_name or ("mse" if fmt.k <= FEW_BITS else "min-max")
    if name not in RANGES:
        raise FormatError(f"'{name}' is not a range. Ranges are {', '.join(RANGES)}.")
    mean = stored_mean(w, fmt)
    if levels is not None or not fmt.learned or fmt.codebook == "table":
        return span(w, fmt, name, fmt.levels() if levels is None else levels, mean)
    grid = span(w, fmt, name if name != "mse" else "min-max", SIGNS, mean)
    if name != "mse":
        return replace(grid, levels=learn_levels(w, grid))
    tried: list[tuple[float, Grid]] = []
    for _ in range(ALTERNATIONS if fmt.codebook == "kmeans" else 1):
        grid = span(w, fmt, name, learn_levels(w, grid, start=grid.levels if tried else None), mean)
        tried.append((float(squared_error(w, grid, Cells.of(grid.levels)).sum()), grid))
    return min(tried, key=itemgetter(0))[1]


def span(w: Tensor, fmt: Format, range_name: str, levels: Tensor, mean: Tensor | None) -> Grid:
    """The stored grid of these levels over the range that `range_name` finds."""
    tensor_scale = None
    if fmt.scales == "e4m3":
        tensor_scale = tensor_scale_of(unstored_scale(fmt, *min_max(w, fmt, mean), levels).max(), float(levels.abs().max()))
    low, high = RANGES[range_name](w, fmt, levels, mean=mean, tensor_scale=tensor_scale)
    return grid_of_range(fmt, low, high, levels, mean=mean, tensor_scale=tensor_scale)


def learn_levels(w: Tensor, grid: Grid, start: Tensor | None = None) -> Tensor:
    """Levels learned from the weights over their scales, for the codebook of the grid's format.

    For k-means a weight counts as scale^2, so that errors count in units of the weights, and `start` are levels to iterate from;
    for quantiles all count alike.
    """
    fmt = grid.fmt
    top = grid.scale.max().clamp(min=torch.finfo(torch.float32).tiny)

    def chunks() -> Iterator[tuple[Tensor, Tensor]]:
        for rows, blocks, columns in pieces(w.shape, fmt):
            part, x = grid.part(rows, blocks), unflatten(w[rows, columns].float(), blocks)
            x = x if part.mean is None else x - part.mean
            weight = (part.scale / top).double().square() if fmt.codebook == "kmeans" else (part.scale > 0).double()
            x = x.clamp(-LARGEST, LARGEST)  # rounding must not carry level * scale past float32
            yield torch.where(part.scale > 0, x / part.scale, 0.0), weight.expand_as(x)

    learn = CODEBOOKS[fmt.codebook].levels if start is None else partial(kmeans_levels, start=start)
    if w.numel() <= BINS:
        values, weights = (torch.cat([each.flatten() for each in side]) for side in zip(*chunks(), strict=True))
        return learn(fmt.k, values, weights)
    ends = [(float(values.min()), float(values.max())) for values, _ in chunks()]
    points, mass = summarise(chunks(), min(low for low, _ in ends), max(high for _, high in ends))
    return learn(fmt.k, torch.from_numpy(points), torch.from_numpy(mass))


def widest_columns(w: Tensor, fmt: Format) -> Tensor:
    """The n_kept columns whose weights have the largest standard deviation, int32 ascending; of equal ones the first."""
    step = max(1, CHUNK // len(w))
    deviation = torch.cat([columns.float().std(0, correction=0) for columns in w.split(step, 1)])
    order = deviation.sort(descending=True, stable=True).indices
    return order[: fmt.n_kept(w.shape[1])].sort().values.int()


def check_kept(kept_columns: Tensor, n_in: int, fmt: Format) -> Tensor:
    """Kept columns as int32 ascending; FormatError where they are not n_kept(n_in) distinct columns of the weight."""
    kept = torch.as_tensor(kept_columns).flatten().long().unique()
    if len(kept) != fmt.n_kept(n_in) or (len(kept) and not 0 <= int(kept[0]) <= int(kept[-1]) < n_in):
        raise FormatError(
            f"format '{fmt}' keeps {fmt.n_kept(n_in)} of {n_in} columns, but {len(kept)} distinct ones were named. "
            f"Name {fmt.n_kept(n_in)} of 0 to {n_in - 1}."
        )
    return kept.int()
