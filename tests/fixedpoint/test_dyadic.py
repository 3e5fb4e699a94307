"""Dyadic numbers are the nearest of their width, also where a scale under- or overflows."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kbit.errors import FixedPointError
from kbit.fixedpoint.dyadic import Dyadic


@given(st.floats(2.0**-47, 2.0**14), st.integers(2, 31), st.booleans())
def test_a_dyadic_number_is_the_nearest_of_its_width(value, width, negative):
    value = -value if negative else value
    if abs(value) > 2 ** (width - 1) - 1:
        return
    scale = Dyadic.of(value, width)
    assert 0 <= scale.shift <= 62
    assert abs(scale.multiplier) < 2**width
    step = Fraction(1, 2**scale.shift)
    assert abs(Fraction(value) - scale.multiplier * step) <= step / 2
    if scale.shift < 62:
        assert abs(scale.multiplier) >= 2 ** (width - 1)


def test_numbers_of_a_tensor_are_those_of_each():
    values = torch.tensor([0.0, 1.0, 0.3, 2.0**-60, 1e-30, 32767.0, 0.99999999], dtype=torch.float64)
    many = Dyadic.of(values)
    ones = [Dyadic.of(float(v)) for v in values]
    assert many.multiplier.tolist() == [one.multiplier for one in ones]
    assert many.shift.tolist() == [one.shift for one in ones]
    torch.testing.assert_close(many.value, values, rtol=2.0**-15, atol=2.0**-63)
    assert (ones[0].multiplier, ones[0].shift) == (0, 0)


def test_a_scale_that_underflows_loses_bits_not_its_sense():
    assert (Dyadic.of(2.0**-60).multiplier, Dyadic.of(2.0**-60).shift) == (4, 62)
    assert Dyadic.of(1e-300).value == 0.0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2.0**20])
def test_a_scale_that_no_dyadic_number_stands_for_is_refused(value):
    with pytest.raises(FixedPointError, match="scale of the residual: "):
        Dyadic.of(value, what="scale of the residual")
