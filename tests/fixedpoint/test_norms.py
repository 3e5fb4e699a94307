"""Norms: the documented integers, and within the stated bound of float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.errors import FixedPointError
from kbit.fixedpoint.norms import NormWeight, isqrt, layer_norm, rms_norm
from tests.fixedpoint import exact

WORDS = st.one_of(
    st.integers(-(2**31), 2**31 - 1), st.integers(-(2**20), 2**20), st.integers(-3, 3), st.sampled_from([-(2**31), 2**31 - 1, 0])
)
ROWS = st.integers(1, 12).flatmap(lambda n: st.tuples(*[st.lists(WORDS, min_size=n, max_size=n)] * 2))


def test_the_root_is_that_of_python():
    x = sorted({v for i in range(31) for r in (2**i, 2**i * 3 // 2) for v in (r * r - 1, r * r, r * r + 1)} | {0, 2**62 - 1})
    x = [v for v in x if v < 2**62]
    assert isqrt(torch.tensor(x)).tolist() == [math.isqrt(v) for v in x]


@settings(deadline=None)
@given(
    ROWS, st.booleans(), st.booleans(), st.integers(-21, 6), st.integers(0, 2**61 - 1), st.integers(0, 60), st.integers(10, 60)
)
def test_a_norm_is_the_documented_integers(rows, centred, with_bias, least, mantissa, less, shift):
    n = len(rows[0])
    generator = torch.Generator().manual_seed(n)
    gamma = torch.randint(-(2**15), 2**15, (n,), generator=generator).to(torch.int16)
    bias = torch.randint(-(2**17), 2**17, (n,), generator=generator).int() if with_bias else None
    weight = NormWeight(gamma, shift, mantissa >> less, least, bias)
    y = (layer_norm if centred else rms_norm)(torch.tensor(rows, dtype=torch.int32), weight)
    for row, found in zip(rows, y, strict=True):
        expected = exact.norm(row, gamma.tolist(), shift, weight.epsilon, least, None if bias is None else bias.tolist(), centred)
        assert found.tolist() == expected


def real_norm(x, gamma, bias, eps, x_scale, y_scale, centred):
    x = x.double() * x_scale
    if centred:
        x = x - x.mean(-1, keepdim=True)
    y = x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * gamma + (0 if bias is None else bias)
    return y / y_scale


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("n", [1, 2, 63, 576, 4096])
@pytest.mark.parametrize("size", [0, 3, 8, 16, 24, 31])
def test_a_norm_is_within_its_bound_of_the_real_one(n, size, centred):
    generator = torch.Generator().manual_seed(n + size)
    x = torch.randint(-(2**size), 2**size, (8, n), generator=generator).clamp(max=2**31 - 1)
    x[0] = x[0, 0]  # all equal
    x[1] = 0
    x[2, 1:] = x[2, 1:] >> (size // 2)  # one channel far out
    if n > 1:
        x[3] = x[3] // 4 + 2 ** max(0, size - 1)  # a large mean
    gamma = torch.rand(n, generator=generator, dtype=torch.float64) * 2 + 0.1
    bias = torch.randn(n, generator=generator, dtype=torch.float64) if centred else None
    x_scale, eps = 2.0**-16, 1e-5
    y_scale = 2.0**-8
    weight = NormWeight.of(gamma, bias, eps, x_scale, y_scale, centred=centred)
    y = (layer_norm if centred else rms_norm)(x.int(), weight)
    real = real_norm(x, gamma, bias, eps, x_scale, y_scale, centred).clamp(-32768, 32767)
    wanted = gamma * n**0.5 / y_scale
    u = (real_norm(x, torch.ones(n), None, eps, x_scale, 1.0, centred) / n**0.5).abs()
    unit = 2.0 ** -(weight.shift - 38)
    bound = 0.5 + wanted * 2.0**-21 + u * (unit / 2 + (n**0.5 + 3) * 2.0**-22 * wanted) + (0.5 if centred else 0)
    assert ((y - real).abs() <= bound).all(), float(((y - real).abs() / bound).max())


def test_a_row_of_zeros_without_epsilon_gives_zeros():
    weight = NormWeight(torch.ones(4, dtype=torch.int16), 30, 0, -21)
    assert not rms_norm(torch.zeros(1, 4, dtype=torch.int32), weight).any()


@pytest.mark.parametrize("x_scale", [2.0**-60, 2.0**-16, 1.0, 2.0**30])
def test_epsilon_fits_whatever_the_scale(x_scale):
    weight = NormWeight.of(torch.ones(768), None, 1e-5, x_scale, 2.0**-11, centred=True)
    assert 0 <= weight.epsilon < 2**61
    assert weight.least >= -21


@pytest.mark.parametrize(
    ("gamma", "eps", "says"),
    [
        (torch.ones(2**17 + 1), 0.0, "a row of 131073 values"),
        (torch.tensor([math.nan]), 0.0, "finite"),
        (torch.ones(1), -1.0, "finite"),
    ],
)
def test_a_norm_that_has_no_integers_is_refused(gamma, eps, says):
    with pytest.raises(FixedPointError, match=f"^model.norm: .*{says}"):
        NormWeight.of(gamma, None, eps, 1.0, 1.0, centred=False, name="model.norm")
