"""Dyadic numbers, multiplier * 2^-shift: the scales of the integer operators, made from float64 once, at conversion.

Here alone do floats come in. I-BERT (Kim et al. 2021, section 3.1) and Jacob et al. (2018, equation 6) rescale by such numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from kbit.errors import FixedPointError

MOST_SHIFT = 62  # the largest shift that leaves a sign and a bit of an int64


@dataclass(frozen=True)
class Dyadic:
    """multiplier * 2^-shift: two ints, or two int64 tensors of one shape."""

    multiplier: int | Tensor
    shift: int | Tensor

    @classmethod
    def of(cls, value: float | Fraction | Tensor, bits: int = 15, what: str = "scale") -> Dyadic:
        """The nearest dyadic numbers with multipliers of `bits` bits, 2^(bits-1) <= |multiplier| < 2^bits, and 0 <= shift <= 62.

        value: a number, or a tensor of them; taken as float64, a Fraction exactly. Ties go to the even multiplier. The relative
        error is at most 2^-bits. Below 2^(bits-1-62) the shift stays 62 and the multiplier shrinks, to 0 at last: the error is
        then at most 2^-63, which a factor below 2^46 cannot raise to 2^-17.
        Raises FixedPointError, naming `what`, where a value is not finite or would need a negative shift.
        """
        if isinstance(value, Tensor):
            return cls(*_nearest_each(value.double(), bits, what))
        if isinstance(value, float) and not math.isfinite(value):
            raise _not_finite(what)
        exact = Fraction(value)
        if exact == 0:
            return cls(0, 0)
        exponent = abs(exact.numerator).bit_length() - exact.denominator.bit_length()
        exponent += abs(exact) >= Fraction(2) ** exponent  # 2^(exponent-1) <= |exact| < 2^exponent
        shift = min(bits - exponent, MOST_SHIFT)
        multiplier = round(exact * Fraction(2) ** shift)
        if abs(multiplier) == 2**bits:  # rounded up to the next power of two
            multiplier, shift = multiplier // 2, shift - 1
        if shift < 0:
            raise _too_large(what, float(exact), bits)
        return cls(multiplier, shift if multiplier else 0)

    @property
    def value(self) -> float | Tensor:
        """The number as float64, for conversion, reports and tests."""
        if isinstance(self.multiplier, Tensor):
            return torch.ldexp(self.multiplier.double(), -torch.as_tensor(self.shift))
        return float(self.multiplier) * 2.0 ** -int(self.shift)

    @property
    def fraction(self) -> Fraction:
        """The number, exactly."""
        return Fraction(int(self.multiplier)) / Fraction(2) ** int(self.shift)


def _nearest_each(value: Tensor, bits: int, what: str) -> tuple[Tensor, Tensor]:
    """Multipliers and shifts of a float64 tensor, int64."""
    if not bool(value.isfinite().all()):
        raise _not_finite(what)
    _, exponent = torch.frexp(value)
    shift = (bits - exponent.long()).clamp(max=MOST_SHIFT)
    multiplier = torch.ldexp(value, shift).round().long()
    carried = multiplier.abs() == 2**bits
    multiplier, shift = torch.where(carried, multiplier // 2, multiplier), shift - carried.long()
    shift = torch.where(multiplier == 0, 0, shift)
    if bool((shift < 0).any()):
        raise _too_large(what, float(value.abs().max()), bits)
    return multiplier, shift


def _not_finite(what: str) -> FixedPointError:
    return FixedPointError(f"{what}: a value is not finite. Mend the weights, or calibrate again.")


def _too_large(what: str, value: float, bits: int) -> FixedPointError:
    return FixedPointError(f"{what}: {value:g} is too large for a multiplier of {bits} bits. Give the result a coarser scale.")
