"""Encoded: a weight matrix as codes and the numbers that give them meaning; the way there (encode) and back (dequantize).

A value is level * scale, and with the options: (code - zero) * scale, code * scale + minimum, or level * scale + mean.
The numbers of a block are a Grid: rounded as they are stored, so that codes are chosen against what a decoder will see.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kbit.errors import FormatError
from kbit.formats.format import Format
from kbit.formats.nearest import Cells
from kbit.formats.scales import stored_scale, to_float16

CHUNK = 2**17  # weights handled at once: the temporaries of a chunk stay in the cache


@dataclass(frozen=True)
class Grid:
    """Everything of an encoded tensor but its codes and kept columns; float32, and rounded as it is stored.

    scale: (n_out, n_blocks), or (1, 1) for granularity tensor; zero (whole numbers), minimum, mean: the same shape, where the
    format has them. levels: (n_levels,) ascending. tensor_scale: the float32 of the tensor under -e4m3.
    """

    fmt: Format
    scale: Tensor
    levels: Tensor
    zero: Tensor | None = None
    minimum: Tensor | None = None
    mean: Tensor | None = None
    tensor_scale: Tensor | None = None

    def part(self, rows: slice, blocks: slice) -> Grid:
        """The grid of some rows and blocks, with an axis added that broadcasts over the weights of a block."""
        rows = rows if self.scale.shape[0] > 1 else slice(None)
        cut = {
            name: value[rows, blocks, None]
            for name in ("scale", "zero", "minimum", "mean")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, **cut)

    def relative(self, x: Tensor) -> Tensor:
        """x (rows, blocks, size) in units of its scale, less the mean or the minimum, for a grid cut by `part`; a new tensor.

        A scale of 0 makes every value 0, whatever the code, so it gives 0.
        """
        shift = self.mean if self.mean is not None else self.minimum
        x = x if shift is None else x - shift
        return x / torch.where(self.scale > 0, self.scale, torch.inf)

    @property
    def whole(self) -> bool:
        """Levels are consecutive whole numbers, so that rounding finds the nearest: int, but for {-1, +1}."""
        return self.fmt.is_linear and (self.fmt.k > 1 or self.fmt.affine in ("asym", "min"))

    def codes(self, x: Tensor, cells: Cells) -> Tensor:
        """Nearest codes, uint8, of x (rows, blocks, size) for a grid cut by `part`; cells: `Cells.of(levels)`."""
        x = self.relative(x)
        if not self.whole:
            return cells.codes(x)
        offset = self.zero if self.zero is not None else -self.levels[0]
        return x.round_().add_(offset).clamp_(0, len(self.levels) - 1).to(torch.uint8)

    def values(self, codes: Tensor) -> Tensor:
        """Float32 values of codes (rows, blocks, size) for a grid cut by `part`."""
        if self.zero is not None:
            return (codes - self.zero).mul_(self.scale)
        values = codes + self.levels[0] if self.whole else self.levels.index_select(0, codes.flatten().int()).view(codes.shape)
        values.mul_(self.scale)
        shift = self.mean if self.mean is not None else self.minimum
        return values if shift is None else values.add_(shift)


@dataclass(frozen=True)
class Encoded:
    """A weight of `shape` (n_out, n_in) in format `fmt`: what a decoder sees.

    codes: uint8 (n_out, n_in less kept columns), indices into levels. scale: float32 (n_out, n_blocks), (1, 1) for granularity
    tensor, as decoded from what is stored; zero, minimum and mean likewise, where the format has them. levels: float32
    (n_levels,) ascending. kept_columns: int32, ascending, with kept_weight float32 (n_out, n_kept), exact float16 values; blocks
    run over the other columns. tensor_scale: the float32 of the tensor under -e4m3.
    """

    fmt: Format
    shape: tuple[int, int]
    codes: Tensor
    scale: Tensor
    levels: Tensor
    zero: Tensor | None = None
    minimum: Tensor | None = None
    mean: Tensor | None = None
    tensor_scale: Tensor | None = None
    kept_columns: Tensor | None = None
    kept_weight: Tensor | None = None

    @property
    def grid(self) -> Grid:
        """All but the codes and the kept columns."""
        return Grid(self.fmt, self.scale, self.levels, self.zero, self.minimum, self.mean, self.tensor_scale)

    def dequantize(self) -> Tensor:
        """The weight that the stored bits stand for, float32 (n_out, n_in); products and sums are rounded once each."""
        values = torch.empty(self.codes.shape)
        for rows, blocks, columns in pieces(self.codes.shape, self.fmt):
            part = self.grid.part(rows, blocks)
            values[rows, columns] = part.values(unflatten(self.codes[rows, columns], blocks)).flatten(1)
        if self.kept_columns is None or self.kept_weight is None:
            return values
        weight = torch.empty(self.shape)
        weight[:, coded_columns(self.shape[1], self.kept_columns)] = values
        weight[:, self.kept_columns.long()] = self.kept_weight
        return weight


def pieces(shape: tuple[int, int] | torch.Size, fmt: Format) -> Iterator[tuple[slice, slice, slice]]:
    """(rows, blocks, columns) of pieces that cover a coded matrix: rows by the chunk, whole blocks, then the short last ones."""
    n_out, n_in = shape
    size = fmt.block_size(n_in)
    whole = n_in // size
    step = max(1, CHUNK // n_in)
    for start in range(0, n_out, step):
        rows = slice(start, min(n_out, start + step))
        yield rows, slice(0, whole), slice(0, whole * size)
        if whole * size < n_in:
            yield rows, slice(whole, whole + 1), slice(whole * size, n_in)


def unflatten(x: Tensor, blocks: slice) -> Tensor:
    """(rows, columns) as (rows, blocks, size)."""
    return x.unflatten(1, (blocks.stop - blocks.start, -1))


def coded_columns(n_in: int, kept_columns: Tensor) -> Tensor:
    """Indices of the columns that are not kept, ascending."""
    coded = torch.ones(n_in, dtype=torch.bool)
    coded[kept_columns.long()] = False
    return coded.nonzero().flatten()


def reach(fmt: Format, levels: Tensor) -> Tensor:
    """The level that stands for the end of a symmetric range: the largest, but 1 where levels are learned within +-1."""
    return torch.ones(()) if fmt.codebook in ("kmeans", "quantile") else levels.abs().max()


def unstored_scale(fmt: Format, low: Tensor, high: Tensor, levels: Tensor) -> Tensor:
    """The scale that spans [low, high] of each block, not yet rounded for storage; quotients come first: nothing overflows."""
    if fmt.affine == "min":
        return (high / levels[-1] - low / levels[-1]).clamp(min=0)
    if fmt.affine == "asym":
        return high.clamp(min=0) / levels[-1] - low.clamp(max=0) / levels[-1]
    return torch.maximum(low.abs(), high.abs()) / reach(fmt, levels)


def grid_of_range(
    fmt: Format, low: Tensor, high: Tensor, levels: Tensor, *, mean: Tensor | None = None, tensor_scale: Tensor | None = None
) -> Grid:
    """The stored grid that spans [low, high] of each block, (n_out, n_blocks) float32; for -center, of the block less its `mean`.

    Symmetric codebooks reach to the farther end. -asym widens the range to hold 0. -min rounds the minimum first, then spans from
    it.
    """
    minimum = to_float16(low) if fmt.affine == "min" else None
    unstored = unstored_scale(fmt, low if minimum is None else minimum, high, levels)
    scale = stored_scale(unstored, fmt.scales, tensor_scale, largest=float(levels.abs().max()), ocp=fmt.codebook == "fp")
    zero = None
    if fmt.affine == "asym":
        zero = (-low.clamp(max=0) / torch.where(scale > 0, scale, torch.inf)).round().clamp(0, len(levels) - 1)
    return Grid(fmt, scale, levels, zero, minimum, mean, tensor_scale)


def encode_on_grid(w: Tensor, grid: Grid) -> Tensor:
    """Nearest codes of the coded columns of a weight, uint8 (n_out, n_in), for a grid already chosen."""
    codes = torch.empty(w.shape, dtype=torch.uint8)
    cells = Cells.of(grid.levels)
    for rows, blocks, columns in pieces(w.shape, grid.fmt):
        codes[rows, columns] = grid.part(rows, blocks).codes(unflatten(w[rows, columns].float(), blocks), cells).flatten(1)
    return codes


def check_weight(w: Tensor, fmt: Format) -> None:
    """FormatError where a weight is not a matrix of finite numbers, naming how many are not and the first."""
    if fmt.is_float:
        raise FormatError(
            f"format '{fmt}' has no codes: it keeps weights as they are. Cast to it, or use a k-bit format, such as nf4-b64."
        )
    if w.dim() != 2 or not w.numel() or not w.is_floating_point():
        raise FormatError(
            f"a weight of shape {tuple(w.shape)} and {w.dtype} cannot be quantized. Give a matrix (n_out, n_in) of floats."
        )
    bad = 0
    first: list[int] = []
    step = max(1, CHUNK // w.shape[1])
    for start in range(0, len(w), step):
        rows = w[start : start + step].float()
        if float(rows.mul(0).sum()) != 0:  # NaN and infinities make NaN; ten times faster than isfinite
            wrong = ~rows.isfinite()
            bad += int(wrong.sum())
            row, column = wrong.nonzero()[0].tolist()
            first = first or [start + row, column]
    if bad:
        raise FormatError(
            f"{bad} of {w.numel()} weights are not finite (first at [{first[0]}, {first[1]}]). "
            "Mend the checkpoint, or keep this layer in 16 bits."
        )
