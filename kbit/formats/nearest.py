"""The nearest level of each value: which cell between midpoints it falls into."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

FEW_BOUNDS = 3  # up to here comparing with each bound is faster than a look-up (0.5 ns a bound against 2 ns, one EPYC core)
CELLS = 2**16  # of the look-up: the sign, exponent and first 7 bits of a float32's fraction
FRACTION_BELOW = 2**16 - 1  # the bits of a float32 that do not choose a cell


def cell_bounds(levels: Tensor) -> Tensor:
    """The last float32 of each level's cell but the top one's, (n_levels - 1,): a value takes the first level whose bound it does
    not exceed.

    The bound is the midpoint of two levels. A value exactly between them takes the one that lies an even number of places from
    the first level that is not negative: for fp the even fraction, for whole numbers the even number. levels: float32, ascending.
    """
    double = levels.double()
    middle = (double[1:] + double[:-1]) / 2
    bounds = middle.float()
    lower = torch.arange(len(levels) - 1)
    tie_goes_up = (lower - int((levels < 0).sum())) % 2 != 0
    step_back = (bounds.double() > middle) | ((bounds.double() == middle) & tie_goes_up)
    return torch.where(step_back, torch.nextafter(bounds, torch.tensor(-torch.inf)), bounds)


@dataclass(frozen=True)
class Cells:
    """The bounds of a codebook, ready to be searched; `Cells.of(levels)` makes it, in less than a millisecond.

    first_codes, first_bounds: for the upper 16 bits of a float32, the code of the least value with those bits, and that code's
    bound. None where there are few bounds, or where two lie so close that they share their upper 16 bits.
    """

    bounds: Tensor
    first_codes: Tensor | None
    first_bounds: Tensor | None

    @staticmethod
    def of(levels: Tensor) -> Cells:
        """The cells of the values nearest to each of `levels`, float32 (n_levels,) strictly ascending."""
        return Cells.bounded(cell_bounds(levels))

    @staticmethod
    def between(levels: Tensor) -> Cells:
        """The gaps between levels: gap i runs from above levels[i] to levels[i + 1], and the outer two reach on to infinity."""
        return Cells.bounded(levels[1:-1])

    @staticmethod
    def bounded(bounds: Tensor) -> Cells:
        """The cells that end with each of `bounds`, and one more."""
        least, order = least_of_each_cell()
        passed = torch.searchsorted(least, bounds, right=True)  # the first cell whose least value lies above the bound
        new = torch.bincount(passed, minlength=CELLS + 1)
        if len(bounds) <= FEW_BOUNDS or int(new.max()) > 1:
            return Cells(bounds, None, None)
        codes = new[:CELLS].cumsum(0)
        ends = torch.cat([bounds, torch.tensor([torch.inf])])[codes]
        first_codes, first_bounds = torch.empty(CELLS, dtype=torch.uint8), torch.empty(CELLS)
        first_codes[order], first_bounds[order] = codes.to(torch.uint8), ends
        return Cells(bounds, first_codes, first_bounds)

    def codes(self, x: Tensor) -> Tensor:
        """Code of the nearest level for each value: uint8, the shape of x (contiguous float32, not NaN)."""
        if len(self.bounds) <= FEW_BOUNDS:
            codes = torch.zeros(x.shape, dtype=torch.uint8)
            for bound in self.bounds.tolist():
                codes += x > bound
            return codes
        if self.first_codes is None or self.first_bounds is None:
            return torch.bucketize(x, self.bounds, out_int32=True).to(torch.uint8)
        flat = x.flatten()
        cell = flat.view(torch.int32).bitwise_right_shift(16).bitwise_and_(CELLS - 1)
        codes = self.first_codes.index_select(0, cell)
        codes += flat > self.first_bounds.index_select(0, cell)
        return codes.view(x.shape)


@cache
def least_of_each_cell() -> tuple[Tensor, Tensor]:
    """(least value, index) of every set of float32 that share their upper 16 bits, ascending; a NaN counts as beyond its
    infinity.
    """
    upper = torch.arange(CELLS, dtype=torch.int64)
    negative = upper >= CELLS // 2
    bits = (upper << 16) | torch.where(negative, FRACTION_BELOW, 0)
    values = (bits - (negative.long() << 32)).to(torch.int32).view(torch.float32).double()
    values = torch.where(values.isnan(), torch.where(negative, -torch.inf, torch.inf), values)
    least, order = values.float().sort(stable=True)
    return least, order


def nearest(x: Tensor, levels: Tensor) -> Tensor:
    """Code of the nearest level for each value: uint8, the shape of x; ties as `cell_bounds` says; values outside take the end.

    x: float32, not NaN. levels: float32 (n_levels,), strictly ascending.
    """
    return Cells.of(levels).codes(x.contiguous())
