"""Exact products of integer matrices: int8 times int8 in int32, and wide integers times int8 in int64."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from kbit.errors import FixedPointError

MOST_COLUMNS = 2**17 - 1  # 2^17 products of -128 * -128 are 2^31: one too many for an int32


def product(x: Tensor, w: Tensor) -> Tensor:
    """x w^T exactly: int32 (..., m, p) of int8 x (..., m, n) and w (..., p, n), or w (p, n) for every x.

    |sum| <= n * 2^14 < 2^31. Raises FixedPointError for n > 131071, where a sum could wrap.
    """
    n = x.shape[-1]
    if n > MOST_COLUMNS:
        raise FixedPointError(
            f"a product of int8 matrices over {n} columns can overflow int32. Cut it into pieces of at most {MOST_COLUMNS}."
        )
    if n == 1:  # torch._int_mm (2.13, CPU) gives wrong sums over a single column
        return x.int() * w.int().transpose(-1, -2)
    if w.dim() == 2:
        return _matmul(x.reshape(-1, n), w).view(*x.shape[:-1], len(w))
    batch = torch.broadcast_shapes(x.shape[:-2], w.shape[:-2])
    left = x.expand(*batch, *x.shape[-2:]).reshape(-1, *x.shape[-2:])
    right = w.expand(*batch, *w.shape[-2:]).reshape(-1, *w.shape[-2:])
    out = torch.empty(len(left), x.shape[-2], w.shape[-2], dtype=torch.int32, device=x.device)
    for result, one, other in zip(out, left, right, strict=True):
        result.copy_(_matmul(one, other))
    return out.view(*batch, x.shape[-2], w.shape[-2])


def wide_product(x: Tensor, w: Tensor, width: int) -> Tensor:
    """x w^T exactly: int64, of x with |x| < 2^width and int8 w. Over n columns width + 7 + log2 n bits, which must be below 63.

    x = sum_i d_i 256^i with digits -128 .. 127, so x w^T = sum_i 256^i (d_i w^T), each an exact int32 product.
    """
    total = None
    for i in range(-(-(width + 2) // 8)):  # digits of 127 alone reach 0.498 * 256^count, a little less than half
        digit = ((x + 128) & 255) - 128
        part = product(digit.to(torch.int8), w).long() << (8 * i)
        total = part if total is None else total + part
        x = (x - digit) >> 8
    assert total is not None
    return total


def _matmul(x: Tensor, w: Tensor) -> Tensor:
    """x w^T of two int8 matrices, by the fast product where that is exact."""
    if x.is_cpu and exact_int_mm():
        return torch._int_mm(x.contiguous(), w.contiguous().t())
    return x.int() @ w.int().t()


@cache
def exact_int_mm() -> bool:
    """Whether torch._int_mm is exact here: without VNNI, oneDNN may add pairs of products in 16 bits, where extremes saturate."""
    for m, n in ((1, 64), (16, 300), (33, 31)):
        for a in (-128, 127):
            for b in (-128, 127):
                x, w = torch.full((m, n), a, dtype=torch.int8), torch.full((48, n), b, dtype=torch.int8)
                if not bool((torch._int_mm(x, w.t()) == n * a * b).all()):
                    return False
    return True
