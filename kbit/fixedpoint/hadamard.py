"""The Walsh-Hadamard transform in integers: sums and differences alone, so that outliers of a row spread over all of it.

QuaRot (Ashkboos et al. 2024, section 4) puts it before the down projection, whose inputs have the largest outliers; the weights
take its inverse, so that in exact arithmetic nothing changes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kbit.errors import FixedPointError
from kbit.fixedpoint.quantize import Rows, quantize_rows, quantize_static
from kbit.fixedpoint.rounding import bits, largest, rounding_shift

SUM = 30  # bits that no sum exceeds


def hadamard(x: Tensor, width: int) -> Tensor:
    """H x of every `width` = 2^p numbers of the last axis, in natural order, not normalised: int64 of int64 x, exact.

    (u, v) -> (u + v, u - v) at distances 1, 2, 4 .. width / 2; |result| <= width * max |x|, which the caller keeps below 2^63.
    H H = width I. Raises FixedPointError where width is no power of two or does not divide the row.
    """
    n = x.shape[-1]
    if width < 1 or width & (width - 1) or n % width:
        raise FixedPointError(
            f"a Hadamard transform of {width} numbers does not fit rows of {n}. Give a power of two that divides."
        )
    distance = 1
    while distance < width:
        pairs = x.reshape(*x.shape[:-1], n // (2 * distance), 2, distance)
        u, v = pairs[..., 0, :], pairs[..., 1, :]
        x = torch.stack([u + v, u - v], -2).reshape(x.shape)
        distance *= 2
    return x


def turn(x: Tensor, width: int, shift: int) -> Tensor:
    """H x / 2^shift of int32 x (..., n), rounded half to even: int32, with an error of at most 1/2, or none for shift 0.

    Each x is held to +-2^(30-p), width = 2^p, so that no sum exceeds 2^30; beyond that it saturates.
    """
    most = 2 ** (SUM - width.bit_length() + 1)
    return rounding_shift(hadamard(x.long().clamp(-most, most), width), shift).int()


def quantize_rotated(x: Tensor, k: int, width: int, a: int = 0, e: int = 0) -> Rows:
    """Codes of H x, with the row's own step, or with a and e (a > 0) as calibrated: H x ~ q * a * 2^e / L, e that of the result.

    e0 = max(0, bits(max |x|) + p - 30); where a is given p + 1, or 0 for x of 16 bits;  x' = x / 2^e0, rounded half to even;
    codes of H x', e + e0.
    |x'| <= 2^(30-p), so |H x'| <= 2^30. Where e0 > 0 the rounding of x' adds to each number an error of at most width / 2, of
    standard deviation sqrt(width / 12), in units of 2^e0.
    """
    places, narrow = width.bit_length() - 1, x.dtype == torch.int16
    x = x.long()
    if a:
        e0 = torch.full_like(x[..., :1], 0 if narrow else places + 1)
    else:
        peak = x.abs().amax(-1, keepdim=True).clamp(max=largest(32))
        e0 = (bits(peak) + places - SUM).clamp(min=0)
    turned = hadamard(rounding_shift(x, e0), width).int()
    if a:
        return Rows(quantize_static(turned, a, e, k), torch.full_like(e0, a).int(), (e0 + e).int())
    rows = quantize_rows(turned, k)
    return Rows(rows.q, rows.a, rows.e + e0.int())
