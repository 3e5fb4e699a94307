"""From 16 and 32 bits to a stored value of k bits: one step a row (a token), found in integers, or one calibrated before."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kbit.fixedpoint.rounding import bits, largest, rounding_shift, saturate_evenly

MANTISSA = 15  # bits of a row's largest value, which is its step times L
PLACES = 23  # the reciprocal of the step is rounded to 2^-23: 8 bits of code and 15 of the mantissa


class Rows(NamedTuple):
    """Rows of codes: x ~ q * a * 2^e / L, L = 2^(k-1) - 1. q int8 (..., n); a and e int32 (..., 1), 0 <= a < 2^15."""

    q: Tensor
    a: Tensor
    e: Tensor


def quantize_rows(x: Tensor, k: int) -> Rows:
    """Codes of k bits of each row, with the row's own step.

    a0 = max |x|, held to 2^15 - 1 for int16 and 2^31 - 1 for int32;  e = max(0, bits(a0) - 15)
    x' = x / 2^e, rounded half to even, held to +-(2^15 - 1);  a = max |x'|
    R = floor(L * 2^23 / a), 0 for a = 0;  q = x' * R / 2^23, rounded half to even

    x: int16 or int32 (..., n), n >= 1. For int16 e is 0. A row of zeros has a = 0 and q = 0.
    |x'| R <= L * 2^23 < 2^30, so |q| <= L without saturating, and one q of a row reaches it.
    |x - q a 2^e / L| <= 0.512 a 2^e / L: 1/2 for the code, 2^-8 for R, and 2^-7 for x', which is rounded only where a >= 2^14.
    """
    width = 8 * x.element_size()
    x = x.long()
    a0 = x.abs().amax(-1, keepdim=True).clamp(max=largest(width))
    e = (bits(a0) - MANTISSA).clamp(min=0)
    x = saturate_evenly(rounding_shift(x, e), MANTISSA + 1)
    a = x.abs().amax(-1, keepdim=True)
    return Rows(codes(x, a, k), a.int(), e.int())


def quantize_static(x: Tensor, a: Tensor | int, e: Tensor | int, k: int) -> Tensor:
    """The same codes with a and e given, as calibrated: int8. Values beyond a * 2^e take the end code.

    x' has 15 bits and R at most 30, so x' * R has 45. Within a * 2^e the error is that of quantize_rows for a >= 2^14, which
    calibration gives; for a smaller a it is 1/2 + 2^-8 steps and 2^(e-1).
    """
    x = saturate_evenly(rounding_shift(x, e), MANTISSA + 1)
    return codes(x, torch.as_tensor(a, device=x.device).long(), k)


def codes(x: Tensor, a: Tensor, k: int) -> Tensor:
    """int8 x * (floor(L 2^23 / a) / 2^23), rounded half to even, held to -L .. L; 0 where a is 0."""
    reciprocal = (largest(k) << PLACES) // a.long().clamp(min=1) * (a > 0)
    return saturate_evenly(rounding_shift(x * reciprocal, PLACES), k).to(torch.int8)
