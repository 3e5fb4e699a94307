"""Embedding look-up: rows of coded weights onto the residual stream, and the addition to it."""

from __future__ import annotations

import torch
from torch import Tensor

from kbit.errors import FixedPointError
from kbit.fixedpoint.linear import LinearWeight
from kbit.fixedpoint.rounding import saturate, scaled


def embed(ids: Tensor, weight: LinearWeight) -> Tensor:
    """y = codes * m * M * 2^-S of the rows `ids`, rounded half to even: int32 (..., n_in) of integer ids (...).

    8 + 8 + 15 = 31 bits. M, S = row unit / scale of the residual. |y - y*| <= 1/2.
    Raises FixedPointError where an id has no row.
    """
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < len(weight.codes):
        raise FixedPointError(
            f"{weight.name}: ids run from {int(ids.min())} to {int(ids.max())}, but there are {len(weight.codes)} rows."
        )
    rows = weight.codes[ids].long()
    if weight.m is not None:
        rows = rows * weight.m[ids].long().repeat_interleave(weight.block, -1)[..., : rows.shape[-1]]
    return scaled(rows * weight.multiplier[ids].long()[..., None], weight.shift[ids].long()[..., None]).int()


def add(x: Tensor, y: Tensor) -> Tensor:
    """x + y, saturated to 32 bits: int32 of integers of up to 32 bits in one scale. Exact where nothing saturates."""
    return saturate(x.long() + y.long(), 32).to(torch.int32)
