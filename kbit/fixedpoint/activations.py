"""Activations as operators of their own, k <= 16 bits in and out: the value in 15 places, then a table (tables.py).

Where an input has 16 bits, a table of all its values would be 65536 numbers a scale; so curves are read between knots at every k.
"""

from __future__ import annotations

from fractions import Fraction

from torch import Tensor

from kbit.fixedpoint.dyadic import Dyadic
from kbit.fixedpoint.exponent import FRACTION, exp2_neg
from kbit.fixedpoint.fixed import WIDE, Fixed, FixedType
from kbit.fixedpoint.gates import curve_at
from kbit.fixedpoint.rounding import scaled
from kbit.fixedpoint.tables import EXP2_UNIT, LOG2_E, UNIT, curve

PLACES = 15  # of x on its way into a curve: up to +-2^16 before the curve's own edges


def relu(x: Fixed) -> Fixed:
    """max(x, 0), in the scale of x: exact."""
    return x.like(x.q.clamp(min=x.type.zero))


def sigmoid(x: Fixed, to: FixedType) -> Fixed:
    """1 / (1 + e^-x). Error at most 1/2 + 1.5 * 2^-15 / scale: 1.3 for the curve, 1/8 for x, which moves it by a quarter."""
    return to.take(_curve(x, "silu"), Fraction(1, 2**UNIT))


def tanh(x: Fixed, to: FixedType) -> Fixed:
    """2 sigmoid(2 x) - 1. Error at most 1/2 + 3 * 2^-15 / scale."""
    return to.take(2 * _curve(x, "silu", 2) - 2**UNIT, Fraction(1, 2**UNIT))


def silu(x: Fixed, to: FixedType) -> Fixed:
    """x * sigmoid(x). Error at most 1/2 + |x| * 1.5 * 2^-15 / scale (Elfwing et al. 2018)."""
    return _gated(x, "silu", to)


def gelu(x: Fixed, to: FixedType, name: str = "gelu") -> Fixed:
    """x * Phi(x), or with name gelu_tanh or gelu_quick its two approximations. Error at most 1/2 + |x| * 1.6 * 2^-15 / scale.

    (Hendrycks and Gimpel 2016. I-BERT, Kim et al. 2021, equation 9, takes a polynomial, which is good to 1.8e-2.)
    """
    return _gated(x, name, to)


def exp(x: Fixed, to: FixedType) -> Fixed:
    """e^x. Error at most 1/2 + (2^-17 + 2^-20) e^x / scale + 2^-28 of the largest value of `to`.

    t = x log2(e) in 16 places; e^x = 2^T * exp2_neg(T - t) with T the least whole number such that 2^T exceeds the largest value
    of `to`, so that what saturates does so there.
    """
    most = (to.high - to.zero) * to.scale.fraction
    top = most.numerator.bit_length() - most.denominator.bit_length() + 1
    top -= Fraction(2) ** (top - 1) > most
    by = Dyadic.of(x.type.scale.fraction * LOG2_E * 2**FRACTION, WIDE, what="scale of the input of exp")
    t = scaled(x.centred * by.multiplier, int(by.shift))
    p = exp2_neg(((top << FRACTION) - t).clamp(min=0))
    return to.take(p, Fraction(2) ** (top - EXP2_UNIT))


def _curve(x: Fixed, name: str, factor: int = 1) -> Tensor:
    """S(factor * x) * 2^15."""
    by = Dyadic.of(x.type.scale.fraction * factor * 2**PLACES, WIDE, what="scale of the input of an activation")
    return curve_at(scaled(x.centred * by.multiplier, int(by.shift)), PLACES, curve(name))


def _gated(x: Fixed, name: str, to: FixedType) -> Fixed:
    """x * S(x): 17 + 15 bits, times a multiplier of 30."""
    return to.take(x.centred * _curve(x, name), x.type.scale.fraction / 2**UNIT)
