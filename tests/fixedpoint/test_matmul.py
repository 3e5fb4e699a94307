"""Batched products with and without zero points, and their proof."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.errors import FixedPointError
from kbit.fixedpoint.dyadic import Dyadic
from kbit.fixedpoint.fixed import Fixed, FixedType
from kbit.fixedpoint.matmul import matmul
from tests.fixedpoint.test_fixed import held


def some(kind: FixedType, *shape: int, seed: int) -> Fixed:
    q = torch.randint(kind.low, kind.high + 1, shape, generator=torch.Generator().manual_seed(seed))
    return Fixed(q.to(torch.int8 if kind.k <= 8 else torch.int16), kind)


@settings(deadline=None)
@given(
    st.integers(1, 6), st.integers(1, 70), st.integers(1, 6), st.sampled_from([2, 4, 8, 16]), st.sampled_from([2, 5, 8]),
    st.sampled_from([0, 1, -2]), st.sampled_from([0, 1, -2]), st.integers(0, 99),
)  # fmt: skip
def test_a_product_is_within_its_bound(m, n, p, k_x, k_y, zero_x, zero_y, seed):
    x = some(FixedType(Dyadic.of(0.013), k_x, zero_x), 2, 1, m, n, seed=seed)
    y = some(FixedType(Dyadic.of(0.4), k_y, zero_y), 3, n, p, seed=seed + 1)
    real = x.value @ y.value
    to = FixedType(Dyadic.of(max(1e-3, float(real.abs().max())) / 30000), 16)
    expected = held(real, to)
    assert ((matmul(x, y, to).centred - expected).abs() <= 0.5 + expected.abs() * 2.0 ** -(30 if k_x <= 8 else 15)).all()


def test_probabilities_of_32k_positions_times_values():
    x = Fixed(torch.full((1, 2**15), -(2**15) + 2, dtype=torch.int16), FixedType(Dyadic(1, 16), 16, -(2**15)))
    y = Fixed(torch.full((2**15, 3), -127, dtype=torch.int8), FixedType(Dyadic(1, 7), 8))
    to = FixedType(Dyadic(1, 14), 16)
    assert matmul(x, y, to).q.tolist() == [[round(-127 / 128 * 2**14)] * 3]


def test_a_sum_that_could_wrap_is_refused():
    kind = FixedType(Dyadic(1, 7), 8, -128)
    x, y = some(kind, 1, 40000, seed=0), some(kind, 40000, 1, seed=1)
    with pytest.raises(
        FixedPointError, match=r"^matmul: sums of 40000 products of 8 and 8 bits can reach 2601000000, beyond 2147483647\. "
    ):
        matmul(x, y, kind)
    assert matmul(x, Fixed(y.q[:, :1].clamp(min=-127), FixedType(Dyadic(1, 7), 8)), kind).q.shape == (1, 1)
