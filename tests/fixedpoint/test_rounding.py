"""Rounding, saturation and shifts against Python's fractions."""

from __future__ import annotations

from fractions import Fraction

import torch
from hypothesis import given
from hypothesis import strategies as st

from kbit.fixedpoint.rounding import bits, requantize, rounding_shift, saturate, saturate_evenly, scaled
from tests.fixedpoint import exact

WORDS = st.one_of(
    st.integers(-(2**62), 2**62), st.integers(-64, 64), st.builds(lambda i, d: 2**i + d, st.integers(0, 61), st.integers(-2, 2))
)


@given(st.lists(WORDS, min_size=1, max_size=20), st.integers(0, 70))
def test_a_shift_rounds_half_to_even(x, shift):
    expected = [round(Fraction(v, 2**shift)) for v in x]  # Python rounds halves of a Fraction to the even number
    assert expected == [exact.shifted(v, shift) for v in x]
    assert rounding_shift(torch.tensor(x), shift).tolist() == expected
    assert rounding_shift(torch.tensor(x), torch.tensor([shift])).tolist() == expected


def test_every_half_of_small_numbers_goes_to_the_even_one():
    x = torch.arange(-1024, 1025)
    for shift in range(12):
        assert rounding_shift(x, shift).tolist() == [round(Fraction(v, 2**shift)) for v in x.tolist()]


@given(st.lists(WORDS, min_size=1, max_size=20), st.integers(-40, 70), st.sampled_from([8, 16, 32]))
def test_a_signed_shift_saturates_and_never_wraps(x, shift, k):
    expected = [exact.scaled(v, shift, k) for v in x]
    assert scaled(torch.tensor(x), shift, k).tolist() == expected
    assert scaled(torch.tensor(x), torch.tensor(shift), k).tolist() == expected


@given(st.integers(-(2**31) + 1, 2**31 - 1), st.integers(-(2**31) + 1, 2**31 - 1), st.integers(0, 62), st.integers(2, 32))
def test_requantize_is_its_formula(x, multiplier, shift, k):
    whole = exact.shifted(x * multiplier, shift)
    low = -(2 ** (k - 1)) + (k <= 8)
    assert requantize(torch.tensor([x]), multiplier, shift, k).tolist() == [exact.held(whole, low, 2 ** (k - 1) - 1)]


def test_a_zero_point_makes_room_for_the_lowest_code():
    assert requantize(torch.tensor([-300, 0, 300]), 1, 0, 8, zero=3).tolist() == [-128, 3, 127]
    assert requantize(torch.tensor([-300, 0, 300]), 1, 0, 8).tolist() == [-127, 0, 127]


def test_the_smallest_numbers_of_a_type_saturate():
    x = torch.tensor([-(2**31), 2**31 - 1])
    assert saturate(x, 16).tolist() == [-32768, 32767]
    assert saturate_evenly(x, 8).tolist() == [-127, 127]


def test_bit_lengths_are_those_of_python():
    x = sorted({0, *(2**i + d for i in range(62) for d in (-1, 0, 1)), 2**62 - 1})
    assert bits(torch.tensor(x)).tolist() == [v.bit_length() for v in x]
