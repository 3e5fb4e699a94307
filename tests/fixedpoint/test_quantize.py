"""Codes of a row: the documented integers, and never further from the value than the bound."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.fixedpoint.quantize import quantize_rows, quantize_static
from tests.fixedpoint import exact

KS = range(2, 9)
WORDS = st.one_of(
    st.integers(-(2**31), 2**31 - 1), st.integers(-40000, 40000), st.integers(-3, 3), st.sampled_from([-(2**31), 2**31 - 1, 0])
)


@given(st.lists(st.lists(WORDS, min_size=5, max_size=5), min_size=1, max_size=3), st.sampled_from(KS))
def test_rows_of_32_bits_are_the_documented_integers(x, k):
    found = quantize_rows(torch.tensor(x, dtype=torch.int32), k)
    for i, row in enumerate(x):
        assert (found.q[i].tolist(), int(found.a[i]), int(found.e[i])) == exact.quantize_rows(row, k, 32)


@given(st.lists(st.one_of(st.integers(-(2**15), 2**15 - 1), st.just(-(2**15))), min_size=1, max_size=9), st.sampled_from(KS))
def test_rows_of_16_bits_have_the_exponent_0(x, k):
    found = quantize_rows(torch.tensor(x, dtype=torch.int16), k)
    assert (found.q.tolist(), int(found.a), int(found.e)) == exact.quantize_rows(x, k, 16)
    assert int(found.e) == 0


@settings(deadline=None)
@given(st.integers(1, 31), st.sampled_from(KS), st.integers(0, 99))
def test_a_code_is_within_half_a_step_and_a_hundredth(width, k, seed):
    x = torch.randint(-(2**width) + 1, 2**width, (50, 33), generator=torch.Generator().manual_seed(seed)).int()
    q, a, e = quantize_rows(x, k)
    limit = 2 ** (k - 1) - 1
    step = a.double() * 2.0**e / limit
    assert ((x - q * step).abs() <= 0.512 * step).all()
    assert (q.abs().amax(-1) == limit)[a[:, 0] > 0].all()


def test_a_row_of_zeros_has_no_step():
    q, a, e = quantize_rows(torch.zeros(2, 4, dtype=torch.int32), 8)
    assert not q.any()
    assert not a.any()
    assert not e.any()


@pytest.mark.parametrize("k", KS)
def test_a_static_range_gives_the_codes_of_the_row_that_has_it_and_saturates(k):
    x = torch.randint(-(2**20), 2**20, (1, 64), generator=torch.Generator().manual_seed(0)).int()
    q, a, e = quantize_rows(x, k)
    assert torch.equal(quantize_static(x, int(a), int(e), k), q)
    ends = torch.tensor([-(2**31), -(2**27), 2**27, 2**31 - 1], dtype=torch.int32)
    limit = 2 ** (k - 1) - 1
    assert quantize_static(ends, int(a), int(e), k).tolist() == [-limit, -limit, limit, limit]
    assert not quantize_static(ends, 0, 0, k).any()  # a range of zero width
