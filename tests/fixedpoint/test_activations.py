"""Stand-alone activations and softmax within their bounds, for every code of a type."""

from __future__ import annotations

import math

import pytest
import torch

from kbit.errors import FixedPointError
from kbit.fixedpoint.activations import exp, gelu, relu, sigmoid, silu, tanh
from kbit.fixedpoint.attention import causal
from kbit.fixedpoint.checker import IntegerOnly
from kbit.fixedpoint.dyadic import Dyadic
from kbit.fixedpoint.fixed import Fixed, FixedType
from kbit.fixedpoint.softmax import PROBABILITY, softmax
from tests.fixedpoint.test_fixed import held

KS = [2, 3, 4, 5, 6, 7, 8, 16]
UNIT = 2.0**-15
INPUTS = [(0.03, 0), (0.5, 0), (1.7, 1), (2.0**-9, -2)]
TO = [FixedType(Dyadic.of(2.0**-7), 8), FixedType(Dyadic.of(1 / 255), 8, -128), FixedType(Dyadic.of(2.0**-13), 16)]


def every_code(k: int, scale: float, zero: int = 0) -> Fixed:
    kind = FixedType(Dyadic.of(scale * (2.0**-8 if k == 16 else 1)), k, zero)
    return Fixed(torch.arange(kind.low, kind.high + 1).to(torch.int8 if k <= 8 else torch.int16), kind)


OPERATORS = {
    "sigmoid": (sigmoid, torch.sigmoid, lambda x: 1.5 * UNIT),
    "tanh": (tanh, torch.tanh, lambda x: 3 * UNIT),
    "silu": (silu, torch.nn.functional.silu, lambda x: 1.5 * UNIT * x.abs()),
    "gelu": (gelu, torch.nn.functional.gelu, lambda x: 1.6 * UNIT * x.abs()),
    "gelu_tanh": (
        lambda x, to: gelu(x, to, "gelu_tanh"),
        lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
        lambda x: 1.6 * UNIT * x.abs(),
    ),
    "gelu_quick": (
        lambda x, to: gelu(x, to, "gelu_quick"),
        lambda x: x * torch.sigmoid(1.702 * x),
        lambda x: 1.6 * UNIT * x.abs(),
    ),
}


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("name", OPERATORS)
def test_an_activation_is_within_its_bound_for_every_code(name, k):
    operator, real, bound = OPERATORS[name]
    for scale, zero in INPUTS:
        x = every_code(k, scale, zero)
        for to in TO:
            y = operator(x, to)
            assert ((y.centred - held(real(x.value), to)).abs() <= 0.5 + bound(x.value) / to.scale.value + 1e-4).all()


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("largest", [2.0**-7, 1.0, 300.0, 2.0**20])
def test_the_exponential_is_within_its_bound_for_every_code(k, largest):
    for scale, zero in INPUTS:
        x = every_code(k, scale, zero)
        for bits in (8, 16):
            to = FixedType(Dyadic.of(largest / 2**bits), bits)
            real = x.value.exp()
            bound = 0.5 + (real * (2.0**-17 + 2.0**-20) + largest * 2.0**-28) / to.scale.value
            assert ((exp(x, to).centred - held(real, to)).abs() <= bound).all()


@pytest.mark.parametrize("k", KS)
def test_relu_is_exact(k):
    x = every_code(k, 0.1, 1)
    assert torch.equal(relu(x).value, x.value.clamp(min=0))


def real_softmax(x: Fixed, visible: torch.Tensor | None = None) -> torch.Tensor:
    scores = x.value if visible is None else x.value.masked_fill(~visible, -math.inf)
    return (scores.softmax(-1) * 2**16).clamp(max=2**16 - 1)


def within(x: Fixed, visible: torch.Tensor | None = None) -> bool:
    real = real_softmax(x, visible)
    y = softmax(x, visible)
    assert y.type == PROBABILITY
    return bool(((y.centred - real).abs() <= 0.5 + real * (2.0**-16 + x.q.shape[-1] * 2.0**-30) + 2.0**-13).all())


@pytest.mark.parametrize("k", KS)
def test_softmax_is_within_its_bound(k):
    generator = torch.Generator().manual_seed(k)
    for scale, zero in INPUTS:
        kind = every_code(k, scale, zero).type
        q = torch.randint(kind.low, kind.high + 1, (3, 17, 17), generator=generator).to(torch.int8 if k <= 8 else torch.int16)
        assert within(Fixed(q, kind))
        assert within(Fixed(q, kind), causal(17, 17))


@pytest.mark.parametrize("row", ["even", "random", "one ahead"])
def test_softmax_of_32k_loses_nothing(row):
    kind = FixedType(Dyadic.of(0.1), 8)
    q = torch.randint(-127, 128, (1, 32768), generator=torch.Generator().manual_seed(0)).to(torch.int8)
    if row == "even":
        q = torch.full_like(q, -127)
        assert (softmax(Fixed(q, kind)).centred == 2).all()  # 2^-15, which 8 bits would call 0
    if row == "one ahead":
        q = torch.full_like(q, -127)
        q[0, 5] = 127
    assert within(Fixed(q, kind))


def test_what_is_not_visible_has_no_probability():
    x = FixedType(Dyadic.of(0.1), 8).quantize(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)))
    y = softmax(x, causal(4, 4))
    assert not y.centred[~causal(4, 4)].any()
    assert y.centred[0].tolist() == [65535, 0, 0, 0]


def test_no_float_inside():
    x, to = every_code(8, 0.1), FixedType(Dyadic(1, 9), 16)
    with IntegerOnly():
        for operator in (sigmoid, tanh, silu, gelu, exp):
            operator(x, to)
        relu(x)
        softmax(x)


def test_a_row_beyond_the_proof_is_refused():
    with pytest.raises(FixedPointError, match="softmax over rows of 131072"):
        softmax(Fixed(torch.zeros(2**17, dtype=torch.int8), FixedType(Dyadic(1, 4), 8)))
