"""Fixed-point tensors with one scale: what the operators of ordinary networks take and give.

The operators of a transformer work on plain tensors with a step a row; those of convolutional networks, and the stand-alone
activations, on these.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from kbit.errors import FixedPointError
from kbit.fixedpoint.dyadic import Dyadic
from kbit.fixedpoint.rounding import largest, narrow, scaled
from kbit.formats import Format
from kbit.formats.encoding import choose_grid

KS = (*range(2, 9), 16, 32)
WIDE = 30  # bits of a multiplier where the number that it multiplies has at most 31


@dataclass(frozen=True)
class FixedType:
    """What the integers of a tensor mean: value = (q - zero) * scale, k bits.

    Without a zero point, k <= 8 bits hold -L .. L, L = 2^(k-1) - 1; else -2^(k-1) .. 2^(k-1) - 1.
    Raises FixedPointError where k is none of 2..8, 16 and 32, the zero point is no code, or the scale is not above 0.
    """

    scale: Dyadic
    k: int
    zero: int = 0

    def __post_init__(self) -> None:
        check_width(self.k)
        if not self.low <= self.zero <= self.high:
            raise FixedPointError(f"zero point {self.zero} is no code of {self.k} bits. Give {self.low} to {self.high}.")
        if int(self.scale.multiplier) <= 0:
            raise FixedPointError("the scale of a fixed-point tensor is 0 or underflows. Calibrate a wider range.")

    @property
    def low(self) -> int:
        """The least code."""
        return -largest(self.k) - (self.k > 8 or self.zero != 0)

    @property
    def high(self) -> int:
        """The largest code."""
        return largest(self.k)

    @property
    def reach(self) -> int:
        """The largest |q - zero|."""
        return max(self.high - self.zero, self.zero - self.low)

    @classmethod
    def fit(cls, x: Tensor, k: int, *, affine: bool = False, range_name: str | None = None) -> FixedType:
        """For the values of x; for calibration. affine: with a zero point, so that a one-sided range uses every code.

        range_name: a word of kbit.formats' RANGES, which up to 8 bits find the range (None: min-max, but mse where k <= 2);
        more bits take the largest |x|. A range of zero width gets the scale 1, in which 0 is exact.
        Raises FixedPointError where x is empty or not finite.
        """
        check_width(k)
        if not x.numel() or not bool(x.isfinite().all()):
            raise FixedPointError("the values to calibrate on are none or not finite. Give finite ones.")
        peak = float(constant(x).abs().max())
        if peak == 0:
            return cls(Dyadic(1, 0), k)
        if k > 8:
            return cls(Dyadic.of(peak / largest(k), WIDE), k)
        fmt = Format.parse(f"int{k}-tensor{'-asym' if affine else ''}")
        grid = choose_grid((constant(x) / peak).reshape(1, -1).float(), fmt, range_name)
        zero = 0 if grid.zero is None else int(grid.zero) - 2 ** (k - 1)
        return cls(Dyadic.of(float(grid.scale) * peak), k, zero)

    def quantize(self, x: Tensor) -> Fixed:
        """The nearest values of this type, ties to even; where floats come in."""
        q = (x.double() / self.scale.value).round() + self.zero
        return Fixed(narrow(q.clamp(self.low, self.high).long(), self.k), self)

    def hold(self, x: Tensor) -> Fixed:
        """int64 codes less the zero point, saturated."""
        return Fixed(narrow((x + self.zero).clamp(self.low, self.high), self.k), self)

    def take(self, x: Tensor, unit: Fraction, bits: int = WIDE) -> Fixed:
        """x * unit, x int64 of 31 bits (62 - bits), in this type: one multiplier and shift, rounded half to even, saturated."""
        by = Dyadic.of(unit / self.scale.fraction, bits, what="scale of a result over that of its input")
        return self.hold(scaled(x * by.multiplier, int(by.shift)))


@dataclass(frozen=True)
class Fixed:
    """A tensor of integers and what they mean. q: int8 up to 8 bits, int16 for 16, int32 for 32."""

    q: Tensor
    type: FixedType

    @property
    def centred(self) -> Tensor:
        """q - zero: int64."""
        return self.q.long() - self.type.zero

    @property
    def value(self) -> Tensor:
        """The values in float64, for reports and tests."""
        return self.centred.double() * self.type.scale.value

    def like(self, q: Tensor) -> Fixed:
        """Other integers of the same meaning."""
        return Fixed(narrow(q, self.type.k), self.type)


def check_width(k: int) -> None:
    """FixedPointError where k bits are not to be had."""
    if k not in KS:
        raise FixedPointError(f"fixed point of {k} bits is not to be had. Give 2 to 8, 16 or 32.")


def constant(x: Tensor) -> Tensor:
    """A float tensor as float64 without its history; for conversion."""
    return x.detach().to(torch.float64)
