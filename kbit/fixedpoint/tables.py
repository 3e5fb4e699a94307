"""Tables of the curved functions, exactly rounded: made with decimal arithmetic of 50 places, so they are the same everywhere.

Every activation of a transformer is x * S(x) with one of the curves S below, which run from 0 to 1; so one operator serves all.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction
from functools import cache

import torch
from torch import Tensor

PLACES = 50  # decimal digits; a table needs 10
EDGE = 16  # curves are tabulated on [-16, 16] and constant beyond
KNOTS_PER_ONE = 64
UNIT = 15  # places of a curve's values: 1 is 2^15
EXP2_KNOTS = 256
EXP2_UNIT = 30

LOG2_E = Fraction("1.44269504088896340735992468100189213742664595415298593413544940693")
PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628621")


def logistic(x: Decimal) -> Decimal:
    """1 / (1 + e^-x)."""
    return 1 / (1 + (-x).exp())


def normal(x: Decimal) -> Decimal:
    """The normal distribution function, 1/2 + e^(-x^2/2) / sqrt(2 pi) * (x + x^3/3 + x^5/(3 5) + ...): terms of one sign."""
    term, total, odd = x, x, 1
    while abs(term) > Decimal(10) ** -PLACES:
        odd += 2
        term = term * x * x / odd
        total += term
    return (1 + 2 * total * (-x * x / 2).exp() / (2 * PI).sqrt()) / 2


def tanh_gelu(x: Decimal) -> Decimal:
    """(1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2 = logistic of twice that (Hendrycks and Gimpel 2016)."""
    return logistic(2 * (2 / PI).sqrt() * (x + Decimal("0.044715") * x**3))


def quick_gelu(x: Decimal) -> Decimal:
    """logistic(1.702 x) (Hendrycks and Gimpel 2016)."""
    return logistic(Decimal("1.702") * x)


# Name of a curve S -> S; the activation is x * S(x). The largest |S''| bounds the error between knots.
CURVES: dict[str, Callable[[Decimal], Decimal]] = {
    "silu": logistic,
    "gelu": normal,
    "gelu_tanh": tanh_gelu,
    "gelu_quick": quick_gelu,
}


@cache
def curve(name: str) -> Tensor:
    """T[i] = S(i / 64 - 16) * 2^15 rounded half to even: int32 (2049,), 0 .. 32768. Not to be written to."""
    count = 2 * EDGE * KNOTS_PER_ONE + 1
    with localcontext(prec=PLACES):
        return torch.tensor(
            [rounded(CURVES[name](Decimal(i) / KNOTS_PER_ONE - EDGE) * 2**UNIT) for i in range(count)], dtype=torch.int32
        )


@cache
def exp2_table() -> Tensor:
    """T[i] = 2^30 * 2^(-i/256) rounded half to even: int32 (257,), 2^30 down to 2^29. Not to be written to."""
    with localcontext(prec=PLACES):
        values = [rounded(Decimal(2) ** (EXP2_UNIT - Decimal(i) / EXP2_KNOTS)) for i in range(EXP2_KNOTS + 1)]
    return torch.tensor(values, dtype=torch.int32)


@cache
def circle(count: int, step: Decimal, unit: int) -> tuple[Tensor, Tensor]:
    """cos and sin of i * step turns, i = 0 .. count - 1, times 2^unit, rounded half to even: two int64 (count,)."""
    with localcontext(prec=PLACES):
        points = [cosine_and_sine(2 * PI * step * i) for i in range(count)]
        cos, sin = ([rounded(value * 2**unit) for value in values] for values in zip(*points, strict=True))
    return torch.tensor(cos, dtype=torch.int64), torch.tensor(sin, dtype=torch.int64)


def cosine_and_sine(x: Decimal) -> tuple[Decimal, Decimal]:
    """By their series, for |x| <= 2 pi: the terms grow to 6^6 / 6! at most, which costs two of the places."""
    sums, term, n = [Decimal(0), Decimal(0)], Decimal(1), 0
    while n < 8 or abs(term) > Decimal(10) ** -PLACES:
        sums[n % 2] += term if n % 4 < 2 else -term
        n += 1
        term = term * x / n
    return sums[0], sums[1]


def rounded(x: Decimal) -> int:
    """The nearest whole number, ties to even."""
    return int(x.to_integral_value(ROUND_HALF_EVEN))
