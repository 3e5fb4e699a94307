"""Shifts that round half to even, saturation, and the two together: the arithmetic under every integer operator.

Everything computes in int64, is exact for |x| <= 2^62, and never wraps. Half to even has no bias, which a long sum of rounded
terms would gather (gemmlowp rounds half away from zero, I-BERT down).
"""

from __future__ import annotations

import torch
from torch import Tensor

POWERS = tuple(2**i for i in range(63))


def largest(k: int) -> int:
    """2^(k-1) - 1, the largest number of k bits: L in the formulas."""
    return 2 ** (k - 1) - 1


def rounding_shift(x: Tensor, shift: Tensor | int) -> Tensor:
    """x / 2^shift rounded to a whole number, half to even: int64. shift >= 0, an int or a tensor that broadcasts against x.

    (x + 2^(shift-1) - 1 + (floor(x / 2^shift) mod 2)) >> shift; with |x| <= 2^62 no sum exceeds 2^62 + 2^62 < 2^63 for a shift
    up to 63, and 63 or more give 0. Error at most 1/2.
    """
    x = x.long()
    if isinstance(shift, int):
        if shift == 0:
            return x
        shift = min(shift, 63)
        return (x + (2 ** (shift - 1) - 1) + (x >> shift & 1)) >> shift
    shift = shift.long().clamp(max=63)
    half = torch.ones_like(shift) << (shift - 1).clamp(min=0)
    return (x + (half - 1 + (x >> shift & 1)) * (shift > 0)) >> shift


def saturate(x: Tensor, k: int) -> Tensor:
    """x held to -2^(k-1) .. 2^(k-1) - 1: an integer of 16 or 32 bits, or the affine codes of fewer."""
    return x.clamp(-largest(k) - 1, largest(k))


def saturate_evenly(x: Tensor, k: int) -> Tensor:
    """x held to -L .. L, L = 2^(k-1) - 1: a symmetric stored value."""
    return x.clamp(-largest(k), largest(k))


def scaled(x: Tensor, shift: Tensor | int, k: int = 32) -> Tensor:
    """x * 2^-shift, rounded half to even and saturated to k <= 32 bits: int64. A negative shift goes left, saturating.

    What a left shift takes is held to k bits first: what exceeds them does so after it too. A shift beyond 31 is one of 31.
    """
    if isinstance(shift, int):
        right = saturate(rounding_shift(x, max(shift, 0)), k)
        return right if shift >= 0 else saturate(right << min(-shift, 31), k)
    right = saturate(rounding_shift(x, shift.clamp(min=0)), k)
    return saturate(right << (-shift.long()).clamp(0, 31), k)


def requantize(x: Tensor, multiplier: Tensor | int, shift: Tensor | int, k: int, zero: Tensor | int = 0) -> Tensor:
    """x * multiplier * 2^-shift + zero, rounded half to even, saturated to k bits (-L .. L for k <= 8 without a zero): int64.

    |x| < 2^31 and |multiplier| < 2^31, so that the product has at most 62 bits. Error at most 1/2 where nothing saturates
    (Jacob et al. 2018, equation 5, whose rounding is half away from zero).
    """
    y = scaled(x.long() * multiplier, shift) + zero
    return saturate_evenly(y, k) if k <= 8 and isinstance(zero, int) and zero == 0 else saturate(y, k)


def bits(x: Tensor) -> Tensor:
    """The bit length of each x >= 0 (0 for 0): the number of powers 1, 2, 4, ... that are at most x. int64."""
    return torch.searchsorted(torch.tensor(POWERS, device=x.device), x.long().contiguous(), right=True)


def narrow(x: Tensor, k: int) -> Tensor:
    """x, which fits k bits, in the smallest of int8, int16 and int32 that holds them."""
    return x.to(torch.int8 if k <= 8 else torch.int16 if k <= 16 else torch.int32)
