"""RMSNorm and LayerNorm in integers: the integer square root, and 16-bit results whatever the size of the row.

I-BERT (Kim et al. 2021, section 3.6) takes the root by Newton's method and divides; here rows are first brought to 22 bits and
the reciprocal of the root to 30, so that the bound does not depend on the scale of the row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kbit.errors import FixedPointError
from kbit.fixedpoint.rounding import bits, largest, rounding_shift, saturate, saturate_evenly, scaled

ROW = 22  # bits of a normalised row: 2^17 squares of 22 bits are below 2^61
MOST_WIDTH = 2**17
RECIPROCAL = 60  # 2^60 / root, root in [2^30, 2^31), has 30 bits: an int32
KEPT = RECIPROCAL - ROW  # places of x' / root after the shift by ROW


def isqrt(x: Tensor) -> Tensor:
    """floor(sqrt(x)), exactly: int64, for 0 <= x < 2^62. Bit by bit, 31 of them: no trial squared exceeds 2^62."""
    root = torch.zeros_like(x, dtype=torch.int64)
    for place in reversed(range(31)):
        trial = root | 1 << place
        root = torch.where(trial * trial <= x, trial, root)
    return root


@dataclass(frozen=True)
class NormWeight:
    """The integers of a norm.

    gamma    int16 (n,): gamma * sqrt(n) / (scale of y) in units of 2^-(shift - 38)
    shift    S
    epsilon  int < 2^61, in units of 4^least of the (squared) row: n * eps for RMSNorm, n^3 * eps for LayerNorm
    least    the least exponent e that a row is brought to; -21 where epsilon is small enough
    bias     int32 (n,) in y's scale, or None
    """

    gamma: Tensor
    shift: int
    epsilon: int
    least: int
    bias: Tensor | None = None

    @classmethod
    def of(
        cls, gamma: Tensor, bias: Tensor | None, eps: float, x_scale: float, y_scale: float, *, centred: bool, name: str = "norm"
    ) -> NormWeight:
        """From the floats of a norm; for conversion. x_scale, y_scale: what 1 of the integers x and y stands for.

        centred: LayerNorm, else RMSNorm. gamma is rounded to 15 bits of its largest.
        Raises FixedPointError where the row is longer than 2^17 or a number is not finite.
        """
        n = gamma.numel()
        if n > MOST_WIDTH:
            raise FixedPointError(f"{name}: a row of {n} values. The sum of its squares is proven for at most {MOST_WIDTH}.")
        wanted = gamma.double() * n**0.5 / y_scale
        total = eps * n ** (3 if centred else 1) / x_scale / x_scale
        if not (bool(wanted.isfinite().all()) and 0 <= total < math.inf):
            raise FixedPointError(
                f"{name}: a weight, eps = {eps:g} or a scale is not finite. Mend the checkpoint, or calibrate again."
            )
        peak = wanted.abs().max()
        places = 15 - int(torch.frexp(peak).exponent) if peak > 0 else 0
        if torch.ldexp(peak, torch.tensor(places)).round() > largest(16):  # rounds up to 2^15
            places -= 1
        weights = torch.ldexp(wanted, torch.tensor(places)).round().to(torch.int16)
        least = 1 - ROW
        while total / 4.0**least >= 2**61:
            least += 1
        epsilon = round(total / 4.0**least)
        shifted = None if bias is None else saturate((bias.double() / y_scale).round().long(), 32).int()
        return cls(weights, KEPT + places, epsilon, least, shifted)


def rms_norm(x: Tensor, weight: NormWeight) -> Tensor:
    """x / sqrt(mean x^2 + eps) * gamma: int16 (..., n) of int32 (or int16) x (..., n).

    |y - y*| <= 1/2 + 2^-21 |gamma| + |u| (1/2 + (sqrt(n) + 3) 2^-22 |gamma|) in units of y, where u = x / sqrt(sum x^2 + n eps),
    |u| <= 1, and gamma is sqrt(n) gamma / y_scale, so y* = u * gamma; the 1/2 beside |u| counts units of the integer gamma.
    """
    return _normalised(x.long(), weight)


def layer_norm(x: Tensor, weight: NormWeight) -> Tensor:
    """(x - mean x) / sqrt(var x + eps) * gamma + bias: int16 (..., n) of int32 (or int16) x (..., n).

    d = n x - sum x is n (x - mean) exactly, in 2 + 31 + 17 = 50 bits, so a large mean costs no precision. The rest is rms_norm
    of d, with its bound; bias adds 1/2.
    """
    n = x.shape[-1]
    x = x.long()
    return _normalised(n * x - x.sum(-1, keepdim=True), weight)


def _normalised(x: Tensor, weight: NormWeight) -> Tensor:
    """Steps 1 to 6 of docs/fixedpoint.md. x int64 below 2^50 in size.

    Widths: x' 22; x'^2 44 and n of them 61, with epsilon 62; ss << t 62; root 31; reciprocal 30; x' * reciprocal 52; z 30;
    z * gamma 45.
    """
    assert x.shape[-1] <= MOST_WIDTH
    peak = x.abs().amax(-1, keepdim=True)
    e = (bits(peak) - ROW).clamp(min=weight.least)
    x = saturate_evenly(rounding_shift(x, e.clamp(min=0)) << (-e).clamp(min=0), ROW + 1)
    epsilon = torch.full_like(e, weight.epsilon) >> (2 * (e - weight.least)).clamp(max=63)
    squares = (x * x).sum(-1, keepdim=True) + epsilon
    t = (62 - bits(squares)) & ~1  # even, so that 2^(t/2) is whole
    root = isqrt(squares << t)
    reciprocal = 2**RECIPROCAL // root.clamp(min=1)
    z = rounding_shift(x * reciprocal, ROW)
    y = scaled(z * weight.gamma.long(), weight.shift - (t >> 1))
    return saturate(y if weight.bias is None else y + weight.bias, 16).to(torch.int16)
