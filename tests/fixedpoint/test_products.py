"""Products of integer matrices are exact for any shape and for the extremes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.errors import FixedPointError
from kbit.fixedpoint import products
from kbit.fixedpoint.products import product, wide_product

SIDES = st.integers(1, 40)


def some(*shape: int, low: int = -128, high: int = 127, seed: int = 0) -> torch.Tensor:
    return torch.randint(low, high + 1, shape, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None)
@given(SIDES, SIDES, SIDES, st.integers(0, 99))
def test_int8_matrices(m, n, p, seed):
    x, w = some(m, n, seed=seed), some(p, n, seed=seed + 1)
    assert torch.equal(product(x.to(torch.int8), w.to(torch.int8)).long(), x @ w.t())


@pytest.mark.parametrize("n", [1, 2, 63, 4099])
@pytest.mark.parametrize("ends", [(-128, -128), (-128, 127), (127, 127)])
def test_extremes_do_not_saturate_between(n, ends):
    x, w = (torch.full((3, n), end, dtype=torch.int8) for end in ends)
    assert (product(x, w) == n * ends[0] * ends[1]).all()


def test_batches_and_a_weight_for_all():
    x, w = some(2, 1, 5, 7), some(3, 4, 7)
    assert torch.equal(product(x.to(torch.int8), w.to(torch.int8)).long(), x @ w.mT)
    assert torch.equal(product(x.to(torch.int8), w[0].to(torch.int8)).long(), x @ w[0].mT)


@given(st.integers(8, 40), st.integers(0, 99))
def test_wide_numbers(width, seed):
    x, w = some(2, 5, 33, low=-(2**width) + 1, high=2**width - 1, seed=seed), some(2, 4, 33, seed=seed)
    x[0, 0, :2] = torch.tensor([2**width - 1, -(2**width) + 1])
    assert torch.equal(wide_product(x, w.to(torch.int8), width), x @ w.mT)


def test_without_the_fast_product_all_is_the_same(monkeypatch):
    x, w = some(5, 70).to(torch.int8), some(6, 70).to(torch.int8)
    fast = product(x, w)
    monkeypatch.setattr(products, "exact_int_mm", lambda: False)
    assert torch.equal(product(x, w), fast)


def test_a_sum_that_could_wrap_is_refused():
    x = torch.zeros(1, 2**17, dtype=torch.int8)
    with pytest.raises(FixedPointError, match="over 131072 columns can overflow int32"):
        product(x, x)
