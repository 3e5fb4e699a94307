"""2^-d in integers: the exponential of softmax and of sampling."""

from __future__ import annotations

from torch import Tensor

from kbit.fixedpoint.rounding import rounding_shift
from kbit.fixedpoint.tables import EXP2_KNOTS, exp2_table

FRACTION = 16  # places of d
BITS_BETWEEN = 8  # of them, those between two knots


def exp2_neg(d: Tensor) -> Tensor:
    """2^-(d / 2^16) * 2^30: int64, 0 .. 2^30, of d >= 0.

    n = floor(d / 2^16), f = d mod 2^16, i = floor(f / 256):  v = T[i] - (T[i] - T[i+1]) (f mod 256) / 256, rounded half to even;
    result floor(v / 2^n), 0 from n = 31 on. T[i] = 2^30 * 2^(-i/256).

    v is within 2^30 * 2^-20 of its value: the chord lies at most (ln 2 / 256)^2 / 8 = 2^-20.06 above the curve, relatively, and
    roundings add 1. So |result - 2^(30 - d/2^16)| <= 1 + 2^-20 of it. (I-BERT, Kim et al. 2021, equation 12, takes a parabola,
    which is good to 1.9e-3.)
    """
    d = d.long()
    table = exp2_table().to(d.device).long()
    n, f = d >> FRACTION, d & (2**FRACTION - 1)
    i, between = f >> BITS_BETWEEN, f & (EXP2_KNOTS - 1)
    here = table[i]
    v = here - rounding_shift((here - table[i + 1]) * between, BITS_BETWEEN)
    return v >> n.clamp(max=31)
