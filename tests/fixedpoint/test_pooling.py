"""Pooling and BatchNorm against torch on the same values."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from kbit.fixedpoint.batch_norm import BatchNormWeight, batch_norm, fold_batch_norm
from kbit.fixedpoint.dyadic import Dyadic
from kbit.fixedpoint.fixed import FixedType
from kbit.fixedpoint.pooling import average_pool2d, max_pool2d, rounding_divide
from kbit.fixedpoint.windows import Window
from tests.fixedpoint.test_fixed import held
from tests.fixedpoint.test_matmul import some

WINDOWS = [((2, 2), (2, 2), (0, 0)), ((3, 2), (1, 2), (1, 1)), ((5, 7), (1, 1), (0, 0))]


@pytest.mark.parametrize("zero", [0, -128, 5])
@pytest.mark.parametrize(("kernel", "stride", "padding"), WINDOWS)
def test_pools_are_those_of_torch(kernel, stride, padding, zero):
    x = some(FixedType(Dyadic.of(0.3), 8, zero), 2, 3, 5, 7, seed=0)
    window = Window(kernel, stride, padding)
    unit = x.type.scale.value
    assert torch.equal(max_pool2d(x, window).value, functional.max_pool2d(x.value, kernel, stride, padding))
    for count_padding in (True, False):
        real = functional.avg_pool2d(x.value, kernel, stride, padding, count_include_pad=count_padding) / unit
        y = average_pool2d(x, window, count_padding=count_padding)
        assert ((y.centred - real).abs() <= 0.5 + 1e-9).all()


@given(st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=9), st.integers(1, 10**6))
def test_a_quotient_rounds_half_to_even(x, n):
    x += [n // 2, -n // 2, 3 * n // 2]
    assert rounding_divide(torch.tensor(x), torch.tensor(n)).tolist() == [round(Fraction(v, n)) for v in x]


def some_norm(channels: int, affine: bool = True) -> torch.nn.BatchNorm2d:
    norm = torch.nn.BatchNorm2d(channels, affine=affine).double().eval()
    generator = torch.Generator().manual_seed(1)
    norm.running_mean = torch.randn(channels, generator=generator, dtype=torch.float64)
    norm.running_var = torch.rand(channels, generator=generator, dtype=torch.float64) * 3
    if affine:
        norm.weight.data = torch.randn(channels, generator=generator, dtype=torch.float64)
        norm.bias.data = torch.randn(channels, generator=generator, dtype=torch.float64)
        norm.weight.data[0] = 0
    return norm


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("k", [2, 4, 8, 16])
def test_a_batch_norm_of_its_own_is_within_its_bound(k, affine):
    norm = some_norm(5, affine)
    x = some(FixedType(Dyadic.of(4 / 2**k), k, 1), 2, 5, 3, 4, seed=0)
    to = FixedType(Dyadic.of(2.0**-11), 16)
    y = batch_norm(x, BatchNormWeight.of(norm, x.type, to))
    real = norm(x.value).detach()
    factor = (norm.running_var + norm.eps).rsqrt() * (norm.weight.detach() if affine else 1)
    bound = 0.5 + 2.0**-39 + (x.value * factor.view(-1, 1, 1)).abs() / to.scale.value * 2.0**-15
    assert ((y.centred - held(real, to)).abs() <= bound).all()


@pytest.mark.parametrize("bias", [False, True])
def test_a_folded_batch_norm_is_the_layer_and_its_norm(bias):
    conv, norm = torch.nn.Conv2d(3, 5, 3, bias=bias).double(), some_norm(5)
    x = torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    w, b = fold_batch_norm(conv.weight, conv.bias, norm)
    torch.testing.assert_close(functional.conv2d(x, w, b), norm(conv(x)).detach())
    linear, flat = torch.nn.Linear(4, 5).double(), x.flatten()[:8].view(2, 4)
    w, b = fold_batch_norm(linear.weight, linear.bias, norm)
    torch.testing.assert_close(functional.linear(flat, w, b), norm(linear(flat)[..., None, None])[..., 0, 0].detach())
