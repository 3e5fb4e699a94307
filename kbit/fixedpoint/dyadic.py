"""Dyadic numbers, multiplier * 2^-shift: the scales of the integer operators, made from float64 once, at conversion.

Here alone do floats come in. I-BERT (Kim et al. 2021, section 3.1) and Jacob et al. (2018, equation 6) rescale by such numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    def of(cls, value: float | Tensor, bits: int = 15, what: str = "scale") -> Dyadic:
        """The nearest dyadic numbers with multipliers of `bits` bits, 2^(bits-1) <= |multiplier| < 2^bits, and 0 <= shift <= 62.

        value: a number, or a tensor of them; taken as float64. Ties go to the even multiplier. The relative error is at most
        2^-bits. Below 2^(bits-1-62) the shift stays 62 and the multiplier shrinks, to 0 at last: the error is then at most
        2^-63, which a factor below 2^46 cannot raise to 2^-17.
        Raises FixedPointError, naming `what`, where a value is not finite or would need a negative shift.
        """
        given = torch.as_tensor(value, dtype=torch.float64)
        if not bool(given.isfinite().all()):
            raise FixedPointError(f"{what}: a value is not finite. Mend the weights, or calibrate again.")
        _, exponent = torch.frexp(given)
        shift = (bits - exponent.long()).clamp(max=MOST_SHIFT)
        multiplier = torch.ldexp(given, shift).round().long()
        carried = multiplier.abs() == 2**bits  # rounded up to the next power of two
        multiplier, shift = torch.where(carried, multiplier // 2, multiplier), shift - carried.long()
        shift = torch.where(multiplier == 0, 0, shift)
        if bool((shift < 0).any()):
            raise FixedPointError(
                f"{what}: {float(given.abs().max()):g} is too large for a multiplier of {bits} bits. "
                "Give the result a coarser scale."
            )
        if isinstance(value, Tensor):
            return cls(multiplier, shift)
        return cls(int(multiplier), int(shift))

    @property
    def value(self) -> float | Tensor:
        """The number as float64, for reports and tests."""
        if isinstance(self.multiplier, Tensor):
            return torch.ldexp(self.multiplier.double(), -torch.as_tensor(self.shift))
        return float(self.multiplier) * 2.0 ** -int(self.shift)
