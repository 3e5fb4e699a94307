"""Softmax with stored probabilities, of 16 bits, since an 8-bit one of a long even row is 0."""

from __future__ import annotations

from torch import Tensor

from kbit.errors import FixedPointError
from kbit.fixedpoint.dyadic import Dyadic
from kbit.fixedpoint.exponent import FRACTION, exp2_neg
from kbit.fixedpoint.fixed import WIDE, Fixed, FixedType
from kbit.fixedpoint.rounding import bits, rounding_shift, scaled
from kbit.fixedpoint.tables import LOG2_E

PROBABILITY = FixedType(Dyadic(1, 16), 16, -(2**15))  # 0 .. 65535 / 65536
MOST = 2**17
RECIPROCAL = 60


def softmax(x: Fixed, visible: Tensor | None = None) -> Fixed:
    """e^x / sum e^x over the last axis, of type PROBABILITY. x of k <= 16 bits, rows of fewer than 2^17.

    visible: bool, broadcasts against x; what is not visible has probability 0, and a row sees at least one (attention.causal).
    t = x log2(e) in 16 places (17 + 30 bits);  p = exp2_neg(max t - t);  D = sum p < 2^47;  h = max(0, bits(D) - 31)
    y = p * floor(2^60 / floor(D / 2^h)) / 2^(44 + h), rounded half to even; 30 + 30 bits.
    Error at most 1/2 + y* (2^-16 + n 2^-30) + 2^-13 units, n the length of the row: 1/2 for the result, ln 2 * 2^-16 for t, 2^-19
    for p, and a unit of 2^-30 for each p. 65536 becomes 65535.
    """
    if x.q.shape[-1] >= MOST:
        raise FixedPointError(f"softmax over rows of {x.q.shape[-1]}. Its sums are proven for fewer than {MOST}.")
    by = Dyadic.of(x.type.scale.fraction * LOG2_E * 2**FRACTION, WIDE, what="scale of the input of softmax")
    t = scaled(x.centred * by.multiplier, int(by.shift))
    seen = t if visible is None else t.masked_fill(~visible, -(2**31))
    p = exp2_neg((seen.amax(-1, keepdim=True) - t).clamp(min=0))
    p = p if visible is None else p * visible
    total = p.sum(-1, keepdim=True)
    h = (bits(total) - 31).clamp(min=0)
    reciprocal = 2**RECIPROCAL // (total >> h).clamp(min=1)
    return PROBABILITY.hold(rounding_shift(p * reciprocal, RECIPROCAL - 16 + h))
