"""Convolutions in every arrangement against torch's on the same integers, and against big integers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from kbit.errors import FixedPointError
from kbit.fixedpoint.checker import IntegerOnly
from kbit.fixedpoint.convolution import StaticWeight, conv1d, conv2d, dense
from kbit.fixedpoint.dyadic import Dyadic
from kbit.fixedpoint.fixed import Fixed, FixedType
from kbit.fixedpoint.windows import Window
from tests.fixedpoint.test_fixed import held
from tests.fixedpoint.test_matmul import some


def layer(n_out: int, n_in: tuple[int, ...], x: FixedType, k: int, seed: int, bias: bool = True):
    """(integer weight to 16 bits, the float weight and bias that it stands for)."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(n_out, *n_in, generator=generator, dtype=torch.float64)
    b = torch.randn(n_out, generator=generator, dtype=torch.float64) if bias else None
    y = FixedType(Dyadic.of(float(w.flatten(1).norm(dim=1).max()) * x.scale.value * x.reach / 2000), 16)
    weight = StaticWeight.of(w, b, k, x, y, name="conv")
    unit = torch.ldexp(weight.multiplier.double(), -weight.shift) * y.scale.value / x.scale.value
    offset = (weight.bias + x.zero * weight.codes.long().sum(-1)).double() * unit * x.scale.value
    return weight, (weight.codes.double() * unit[:, None]).view(n_out, *n_in), offset


def test_the_integers_of_a_layer_stand_for_its_floats():
    x = FixedType(Dyadic(1, 5), 8, -128)
    generator = torch.Generator().manual_seed(0)
    w, b = torch.randn(6, 5, 3, 3, generator=generator), torch.randn(6, generator=generator)
    weight = StaticWeight.of(w, b, 8, x, FixedType(Dyadic(1, 9), 16))
    unit = torch.ldexp(weight.multiplier.double(), -weight.shift) / 2**9 * 2**5
    assert ((weight.codes * unit[:, None] - w.flatten(1)).abs() <= 0.51 * unit[:, None]).all()
    offset = (weight.bias - 128 * weight.codes.long().sum(-1)) * unit / 2**5
    assert ((offset - b).abs() <= 0.51 * unit / 2**5 + b.abs() * 2.0**-14).all()


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 2), st.sampled_from([(1, 1, 1), (3, 2, 1), (4, 6, 2), (6, 6, 6)]), st.integers(5, 9), st.integers(5, 9),
    st.tuples(st.integers(1, 3), st.integers(1, 3)), st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(st.integers(0, 2), st.integers(0, 2)), st.tuples(st.integers(1, 2), st.integers(1, 2)),
    st.sampled_from([0, -128, 17]), st.integers(2, 8), st.integers(0, 99),
)  # fmt: skip
def test_a_convolution_is_that_of_torch(n, channels, height, width, kernel, stride, padding, dilation, zero, k, seed):
    c_in, c_out, groups = channels
    kind = FixedType(Dyadic.of(0.02), 8, zero)
    x = some(kind, n, c_in, height, width, seed=seed)
    weight, w, b = layer(c_out, (c_in // groups, *kernel), kind, k, seed)
    real = functional.conv2d(x.value, w, b, stride, padding, dilation, groups)
    y = conv2d(x, weight, Window(kernel, stride, padding, dilation), groups)
    assert y.q.dtype == torch.int16
    assert y.q.shape == real.shape
    assert ((y.centred - held(real, y.type)).abs() <= 0.5 + 1e-6).all()


@pytest.mark.parametrize("groups", [1, 2])
def test_a_convolution_over_a_line_is_that_of_torch(groups):
    kind = FixedType(Dyadic.of(0.02), 8)
    x = some(kind, 2, 4, 19, seed=0)
    weight, w, b = layer(6, (4 // groups, 3), kind, 4, 1)
    real = functional.conv1d(x.value, w, b, 2, 1, 2, groups)
    y = conv1d(x, weight, 3, stride=2, padding=1, dilation=2, groups=groups)
    assert y.q.shape == real.shape
    assert ((y.centred - held(real, y.type)).abs() <= 0.5 + 1e-6).all()


@given(st.integers(1, 5), st.integers(1, 40), st.sampled_from([0, -8, 3]), st.integers(0, 99))
@settings(deadline=None)
def test_a_dense_layer_is_its_documented_integers(n_out, n_in, zero, seed):
    x = some(FixedType(Dyadic.of(0.02), 4, zero), 3, n_in, seed=seed)
    weight, _, _ = layer(n_out, (n_in,), x.type, 3, seed)
    y = dense(x, weight).q
    for i in range(3):
        for r in range(n_out):
            acc = sum(int(a) * int(c) for a, c in zip(x.q[i], weight.codes[r], strict=True)) + int(weight.bias[r])
            whole = acc * int(weight.multiplier[r])
            shift = int(weight.shift[r])
            low, half = whole & (1 << shift) - 1, 1 << shift >> 1
            rounded = (whole >> shift) + (shift > 0 and (low > half or (low == half and whole >> shift & 1 == 1)))
            assert int(y[i, r]) == max(-(2**15), min(2**15 - 1, rounded))


def test_a_channel_of_zeros_keeps_its_bias():
    kind = FixedType(Dyadic(1, 4), 8)
    w = torch.tensor([[0.0, 0.0], [1e-14, 0.0]], dtype=torch.float64)
    weight = StaticWeight.of(w, torch.tensor([1.5, -2.25]), 8, kind, FixedType(Dyadic(1, 5), 8))
    y = dense(Fixed(torch.tensor([[127, -127]], dtype=torch.int8), kind), weight)
    assert y.value.tolist() == [[1.5, -2.25]]


def test_no_float_inside():
    kind = FixedType(Dyadic.of(0.02), 8, -128)
    x = some(kind, 1, 2, 5, 5, seed=0)
    weight, _, _ = layer(2, (2, 3, 3), kind, 4, 1)
    with IntegerOnly():
        conv2d(x, weight, Window((3, 3), padding=(1, 1)))


def test_what_does_not_fit_or_could_wrap_is_refused():
    kind = FixedType(Dyadic(1, 4), 8)
    with pytest.raises(FixedPointError, match=r"^conv: sums of 140000 products .* reach 2258060000, beyond the int32 limit"):
        StaticWeight.of(torch.ones(1, 140000), None, 8, kind, kind, name="conv")
    weight = StaticWeight.of(torch.ones(4, 2, 3, 3), None, 8, kind, kind, name="conv")
    with pytest.raises(FixedPointError, match=r"^conv: weights of .* do not fit 3 channels in 1 groups"):
        conv2d(some(kind, 1, 3, 5, 5, seed=0), weight, Window((3, 3)))
    with pytest.raises(FixedPointError, match="window of 3 does not fit 2 values"):
        conv2d(some(kind, 1, 2, 2, 5, seed=0), weight, Window((3, 3)))
