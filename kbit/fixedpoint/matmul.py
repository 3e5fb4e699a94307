"""Batched products of two fixed-point tensors, as attention makes them."""

from __future__ import annotations

from kbit.errors import FixedPointError
from kbit.fixedpoint.fixed import Fixed, FixedType
from kbit.fixedpoint.products import product, wide_product
from kbit.fixedpoint.rounding import largest


def matmul(x: Fixed, y: Fixed, to: FixedType) -> Fixed:
    """x y: (..., m, p) of (..., m, n) and (..., n, p), batches as they broadcast. y of k <= 8 bits, x of 8 or 16.

    With zero points, sum (q_x - z_x)(q_y - z_y) = sum q_x q_y - z_x sum q_y - z_y sum q_x + n z_x z_y.
    The int32 sum is proven by n * reach_x * reach_y < 2^31, reach the largest |q - z|; FixedPointError where it is not. For x of
    16 bits the sum is an int64, which must keep 46 bits: n <= 2^21. Error at most 1/2, and for the multiplier 2^-30 of the value
    (2^-15 for x of 16 bits).
    """
    n = x.q.shape[-1]
    limit = largest(32) if x.type.k <= 8 else largest(47)
    if n * x.type.reach * y.type.reach > limit:
        raise FixedPointError(
            f"matmul: sums of {n} products of {x.type.k} and {y.type.k} bits can reach {n * x.type.reach * y.type.reach}, beyond "
            f"{limit}. Give fewer bits, no zero points, or cut the {n} columns and add the parts."
        )
    transposed = y.q.transpose(-1, -2)
    acc = product(x.q, transposed).long() if x.type.k <= 8 else wide_product(x.q.long(), transposed, 16)
    if x.type.zero:
        acc = acc - x.type.zero * y.q.long().sum(-2, keepdim=True)
    if y.type.zero:
        acc = acc - y.type.zero * x.centred.sum(-1, keepdim=True)
    return to.take(acc, x.type.scale.fraction * y.type.scale.fraction, 30 if x.type.k <= 8 else 15)
