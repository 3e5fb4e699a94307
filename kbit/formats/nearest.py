"""The nearest level of each value, by binary search over the midpoints between levels."""

from __future__ import annotations

import torch
from torch import Tensor


def cell_bounds(levels: Tensor) -> Tensor:
    """The last float32 of each cell but the top one, (n_levels - 1,): a value belongs to the first cell whose bound it does not exceed.

    The bound is the midpoint of two levels. A value exactly between them takes the one that lies an even number of places from the
    first level that is not negative: for fp the even mantissa, for whole numbers the even number. levels: float32, ascending.
    """
    double = levels.double()
    middle = (double[1:] + double[:-1]) / 2
    bounds = middle.float()
    lower = torch.arange(len(levels) - 1)
    tie_goes_up = (lower - int((levels < 0).sum())) % 2 != 0
    step_back = (bounds.double() > middle) | ((bounds.double() == middle) & tie_goes_up)
    return torch.where(step_back, torch.nextafter(bounds, torch.tensor(-torch.inf)), bounds)


def nearest(x: Tensor, levels: Tensor) -> Tensor:
    """Code of the nearest level for each value: uint8, the shape of x; ties as `cell_bounds` says; values outside take the end.

    x: float32, not NaN. levels: float32 (n_levels,), strictly ascending.
    """
    return torch.bucketize(x, cell_bounds(levels), out_int32=True).to(torch.uint8)
