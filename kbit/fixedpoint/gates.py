"""Activations of 16-bit values: x * S(x), S from a table (tables.py), alone or as the gate of another value."""

from __future__ import annotations

import torch
from torch import Tensor

from kbit.fixedpoint.rounding import rounding_shift
from kbit.fixedpoint.tables import EDGE, KNOTS_PER_ONE, UNIT

KNOT = 6  # 64 knots for each 1


def curve_at(g: Tensor, places: int, table: Tensor) -> Tensor:
    """S(g / 2^places) * 2^15: int64, 0 .. 2^15, of int16 g; places 0 .. 15. table: tables.curve.

    x = g held to -16 .. 16; f = places - 6, i = floor(x / 2^f), T[i] + (T[i+1] - T[i]) (x mod 2^f) / 2^f, rounded half to even.
    With places below 6 every value is a knot. Error at most 1.3: 1/2 for the knots, 1/2 for the rounding and
    2^15 * 2^-12 / 8 * max |S''| <= 0.28 between them.
    """
    x = g.long().clamp(-EDGE << places, EDGE << places) + (EDGE << places)
    if places < KNOT:
        return table.long()[x << (KNOT - places)]
    f = places - KNOT
    i = x >> f
    here = table.long()[i]
    there = table.long()[(i + 1).clamp(max=2 * EDGE * KNOTS_PER_ONE)]
    return here + rounding_shift((there - here) * (x & (2**f - 1)), f)


def activate(g: Tensor, places: int, table: Tensor) -> Tensor:
    """g * S(g), exactly: int32 with places + 15 places, of int16 g. 16 + 16 bits, |result| <= 2^30. Error at most 1.3 |g|."""
    return (g.long() * curve_at(g, places, table)).int()


def gate(g: Tensor, places: int, u: Tensor, table: Tensor) -> Tensor:
    """(g * S(g) / 2^15, rounded half to even) * u, exactly: int32 with the places of g beside those of u, of int16 g and u.

    S <= 2^15, so the rounded factor stays 16 bits, and |result| <= 2^30. Error at most |u| (1/2 + 1.3 |g| / 2^15).
    """
    return (rounding_shift(g.long() * curve_at(g, places, table), UNIT) * u.long()).int()


def multiply(x: Tensor, y: Tensor) -> Tensor:
    """x * y, exactly: int32 of two int16."""
    return x.to(torch.int32) * y.to(torch.int32)
