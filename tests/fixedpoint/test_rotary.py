"""Rotary tables and rotation against float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kbit.errors import FixedPointError
from kbit.fixedpoint.dyadic import Dyadic
from kbit.fixedpoint.rotary import frequencies, rotary_tables, rotate
from tests.fixedpoint import exact

INVERSE = 10000.0 ** -(torch.arange(32, dtype=torch.float64) / 32)


@pytest.mark.parametrize("amplitude", [1.0, 1.25])
def test_tables_of_32k_positions_are_the_nearest_of_14_places(amplitude):
    scale = None if amplitude == 1 else Dyadic.of(amplitude)
    cos, sin = rotary_tables(frequencies(INVERSE), 32768, scale)
    angle = torch.arange(32768, dtype=torch.float64)[:, None] * INVERSE
    for table, real in ((cos, angle.cos()), (sin, angle.sin())):
        assert table.dtype == torch.int16
        assert float((table - real * amplitude * 2**14).abs().max()) <= 0.5 + 2.0**-13


@given(st.lists(st.integers(-(2**15), 2**15 - 1), min_size=7, max_size=7), st.integers(0, 2000))
def test_a_rotation_is_the_documented_integers_and_near_the_real_one(x, position):
    cos, sin = (table[position] for table in rotary_tables(frequencies(INVERSE[:3]), 2001))
    y = rotate(torch.tensor(x).short(), cos, sin).tolist()
    assert y[6] == x[6]  # a part of the head turns
    for i in range(3):
        a, b, c, s = x[i], x[i + 3], int(cos[i]), int(sin[i])
        assert y[i] == exact.scaled(a * c - b * s, 14, 16)
        assert y[i + 3] == exact.scaled(b * c + a * s, 14, 16)
        angle = position * INVERSE[i]
        bound = 0.5 + (abs(a) + abs(b)) * (0.5 + 2.0**-13) * 2.0**-14
        for found, real in ((y[i], a * angle.cos() - b * angle.sin()), (y[i + 3], b * angle.cos() + a * angle.sin())):
            assert abs(found - min(max(float(real), -32768), 32767)) <= bound


def test_heads_share_the_table_of_their_token():
    x = torch.randint(-3000, 3000, (2, 5, 3, 8), generator=torch.Generator().manual_seed(0)).short()
    cos, sin = rotary_tables(frequencies(INVERSE[:4]), 5)
    y = rotate(x, cos[:, None], sin[:, None])
    assert torch.equal(y[1, 4, 2], rotate(x[1, 4, 2], cos[4], sin[4]))
    assert torch.equal(y[:, 0], x[:, 0])


def test_positions_beyond_the_proof_are_refused():
    with pytest.raises(FixedPointError, match="200000 positions"):
        rotary_tables(frequencies(INVERSE), 200000)
