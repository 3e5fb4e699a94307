"""Tables are exactly rounded, and what is read between their knots stays within the bound."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kbit.fixedpoint.exponent import exp2_neg
from kbit.fixedpoint.gates import activate, curve_at, gate, multiply
from kbit.fixedpoint.tables import CURVES, curve, exp2_table
from tests.fixedpoint import exact

REAL = {
    "silu": lambda x: (1 + math.tanh(x / 2)) / 2,
    "gelu": lambda x: math.erfc(-x / math.sqrt(2)) / 2,
    "gelu_tanh": lambda x: (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
    "gelu_quick": lambda x: (1 + math.tanh(0.851 * x)) / 2,
}
ALL_16_BITS = torch.arange(-(2**15), 2**15).to(torch.int16)


@pytest.mark.parametrize("name", CURVES)
def test_a_knot_is_the_nearest_integer(name):
    table = curve(name).tolist()
    assert len(table) == 2049
    for i, knot in enumerate(table):
        assert abs(knot - REAL[name](i / 64 - 16) * 2**15) <= 0.5 + 1e-9


def test_knots_of_the_exponential_are_the_nearest_integers():
    for i, knot in enumerate(exp2_table().tolist()):
        assert abs(knot - 2.0 ** (30 - i / 256)) <= 0.5 + 1e-6


@pytest.mark.parametrize("places", range(16))
@pytest.mark.parametrize("name", CURVES)
def test_an_activation_is_within_its_bound_for_every_value_of_16_bits(name, places):
    s = curve_at(ALL_16_BITS, places, curve(name))
    assert 0 <= int(s.min()) <= int(s.max()) <= 2**15
    real = torch.tensor([REAL[name](g / 2**places) for g in ALL_16_BITS.tolist()], dtype=torch.float64)
    assert float((s - real * 2**15).abs().max()) <= 1.3
    y = activate(ALL_16_BITS, places, curve(name))
    assert y.dtype == torch.int32
    assert ((y - ALL_16_BITS.double() * real * 2**15).abs() <= 1.3 * ALL_16_BITS.double().abs()).all()


@given(st.integers(-(2**15), 2**15 - 1), st.integers(-(2**15), 2**15 - 1), st.integers(0, 15), st.sampled_from(sorted(CURVES)))
def test_a_gate_is_the_documented_integer(g, u, places, name):
    table = curve(name).tolist()
    x = exact.held(g, -16 * 2**places, 16 * 2**places) + 16 * 2**places
    if places < 6:
        s = table[x * 2 ** (6 - places)]
    else:
        i, between = divmod(x, 2 ** (places - 6))
        s = table[i] + exact.shifted((table[min(i + 1, 2048)] - table[i]) * between, places - 6)
    one, other = torch.tensor([g]).short(), torch.tensor([u]).short()
    assert activate(one, places, curve(name)).tolist() == [g * s]
    assert gate(one, places, other, curve(name)).tolist() == [exact.shifted(g * s, 15) * u]
    assert multiply(one, other).tolist() == [g * u]


@given(st.one_of(st.integers(0, 40 * 2**16), st.integers(0, 2**33)))
def test_the_exponential_is_the_documented_integer_within_its_bound(d):
    found = int(exp2_neg(torch.tensor([d])))
    assert found == exact.exp2_neg(d, exp2_table().tolist())
    real = 2.0 ** (30 - d / 2**16)
    assert abs(found - real) <= 1 + real * 2.0**-20


def test_the_exponential_is_within_its_bound_over_a_whole_octave():
    d = torch.arange(2**16)
    real = torch.exp2(30 - d.double() / 2**16)
    assert ((exp2_neg(d) - real).abs() <= 1 + real * 2.0**-20).all()
