"""How numbers read."""

from __future__ import annotations

import math

import pytest

from kbit.report import words


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (12, "12"), (999.6, "1k"), (94_208, "94k"), (1_850_000, "1.9M"), (15e6, "15M"), (2.5e9, "2.5G")]
)
def test_counts_take_decimal_prefixes(count, text):
    assert words.of_size(count) == text


def test_bits_and_their_bytes():
    assert (words.bits(1.9e6), words.as_bytes(1.9e6)) == ("1.9 Mbit", "238 kB")
    assert (words.bits(64), words.as_bytes(64)) == ("64 bit", "8 B")


@pytest.mark.parametrize(
    ("p", "text"), [(1.0, "over 99%"), (0.996, "over 99%"), (0.93, "93%"), (0.004, "under 1%"), (0.0, "under 1%")]
)
def test_a_probability_promises_no_more_than_a_bootstrap_knows(p, text):
    assert words.probability(p) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.25, "0.25 s"), (59, "59 s"), (250, "4 min 10 s"), (120, "2 min"), (7500, "2 h 5 min")]
)
def test_seconds_read_as_people_say_them(value, text):
    assert words.seconds(value) == text


def test_what_is_not_known_is_a_dash():
    assert {words.seconds(math.nan), words.loss(math.nan), words.small(math.inf)} == {"-"}


def test_lists_and_plurals():
    assert [words.listing(["a", "b", "c"][:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]
    assert (words.plural(1, "run"), words.plural(1200, "run")) == ("1 run", "1,200 runs")
    assert (words.bit_width(1), words.bit_width(4)) == ("1 bit", "4 bits")
