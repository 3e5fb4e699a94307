"""From one scale to another: requantization, the sum of two scales, concatenation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kbit.fixedpoint.dyadic import Dyadic
from kbit.fixedpoint.fixed import WIDE, Fixed, FixedType
from kbit.fixedpoint.rounding import rounding_shift, scaled

GUARD = 8  # places that two terms keep until their sum is rounded


def rescale(x: Fixed, to: FixedType) -> Fixed:
    """x in another scale, width or zero point. Error at most 1/2, and 2^-30 of the value for the multiplier."""
    return x if x.type == to else to.take(x.centred, x.type.scale.fraction)


def add(x: Fixed, y: Fixed, to: FixedType) -> Fixed:
    """x + y of k <= 16 bits each, shapes as they broadcast. Error at most 1/2 + 2^-8, and 2^-30 of the terms.

    Both terms are brought to the result's scale with 8 places more, saturated to 32 bits (a term of 2^23 units), added, and
    rounded once.
    """
    return to.hold(rounding_shift(_guarded(x, to) + _guarded(y, to), GUARD))


def _guarded(x: Fixed, to: FixedType) -> Tensor:
    by = Dyadic.of(x.type.scale.fraction / to.scale.fraction * 2**GUARD, WIDE, what="scale of a term over that of the sum")
    return scaled(x.centred * by.multiplier, int(by.shift))


def concatenate(parts: Sequence[Fixed], to: FixedType, dim: int = 1) -> Fixed:
    """The parts side by side in one scale. Error at most 1/2; none for a part that has it already."""
    return Fixed(torch.cat([rescale(part, to).q for part in parts], dim), to)
