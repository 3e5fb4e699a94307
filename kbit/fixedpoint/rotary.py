"""Rotary position embedding (Su et al. 2021) from integer tables of 14 places."""

from __future__ import annotations

import math
from decimal import Decimal

import torch
from torch import Tensor

from kbit.errors import FixedPointError
from kbit.fixedpoint.dyadic import Dyadic
from kbit.fixedpoint.rounding import rounding_shift, saturate
from kbit.fixedpoint.tables import circle

TURN = 46  # a whole turn is 2^46: times a position below 2^17 that stays below 2^63
COARSE, FINE = 9, 9  # bits of the angle that two tables of 512 resolve; the other 28 are less than 2^-18 turns
TABLE = 30  # places of those tables
UNIT = 14  # places of the result: an amplitude up to 2 fits int16
MOST_POSITIONS = 2**17


def frequencies(inverse: Tensor) -> Tensor:
    """Turns a position in units of 2^-46, rounded: int64, of radians a position (transformers' inv_freq); for conversion."""
    return (inverse.double() / (2 * math.pi) * 2**TURN).round().long()


def rotary_tables(frequency: Tensor, length: int, amplitude: Dyadic | None = None) -> tuple[Tensor, Tensor]:
    """cos and sin of position * frequency for positions 0 .. length - 1, times 2^14: int16 (length, half), of int64 (half,).

    amplitude: what both are multiplied by (the attention factor of YaRN), at most 2.
    The angle is exact to 2^-30 turns; cos(A + B) and sin(A + B) come from A, B in tables of 30 places and a first-order term for
    the rest, in all within 2^-27, so an entry is within 1/2 + 2^-13 of its value. Widths: 31 + 31 bits and one for the sum.
    """
    if not 0 <= length <= MOST_POSITIONS:
        raise FixedPointError(f"rotary tables for {length} positions. Angles are exact up to {MOST_POSITIONS}.")
    phase = torch.arange(length)[:, None] * frequency & (2**TURN - 1)
    rest_bits = TURN - COARSE - FINE
    coarse, fine, rest = phase >> (TURN - COARSE), (phase >> rest_bits) & (2**FINE - 1), phase & (2**rest_bits - 1)
    cos_a, sin_a = (table[coarse] for table in circle(2**COARSE, Decimal(2) ** -COARSE, TABLE))
    cos_b, sin_b = (table[fine] for table in circle(2**FINE, Decimal(2) ** -(COARSE + FINE), TABLE))
    cos = rounding_shift(cos_a * cos_b - sin_a * sin_b, TABLE)
    sin = rounding_shift(sin_a * cos_b + cos_a * sin_b, TABLE)
    radians = rounding_shift(rest * 6588397, TURN - TABLE + 20)  # 6588397 = 2 pi * 2^20: the rest of the angle in 30 places
    cos, sin = cos - rounding_shift(sin * radians, TABLE), sin + rounding_shift(cos * radians, TABLE)
    multiplier, shift = (1, 0) if amplitude is None else (amplitude.multiplier, amplitude.shift)
    return tuple(  # type: ignore[return-value]
        saturate(rounding_shift(value * multiplier, shift + TABLE - UNIT), 16).to(torch.int16) for value in (cos, sin)
    )


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x1 cos - x2 sin and x2 cos + x1 sin, each / 2^14, rounded half to even and saturated: int16 (..., n) of int16 x (..., n).

    x1, x2: the halves of the first 2 * half columns (transformers' rotate_half); further columns pass as they are (NeoX rotates
    a part of a head). cos, sin: int16 (..., half), which broadcast against x.
    A sum is at most 2 * 2^15 * 2^15 = 2^31. |y - y*| <= 1/2 + (|x1| + |x2|) (1/2 + 2^-13) 2^-14 for a table of exact angles.
    """
    half = cos.shape[-1]
    first, second = x[..., :half].long(), x[..., half : 2 * half].long()
    cos, sin = cos.long(), sin.long()
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
    return torch.cat([saturate(rounding_shift(turned, UNIT), 16).to(torch.int16), x[..., 2 * half :]], -1)
