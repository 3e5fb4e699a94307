"""Products and codes of training: the very integers of kbit.fixedpoint; and where gradients pass."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from kbit.fixedpoint.linear import LinearWeight, accumulate
from kbit.fixedpoint.quantize import Rows
from kbit.models.integer_program import Step
from kbit.models.integer_run import codes
from kbit.qat.integer_products import Product, Quantized, sums
from kbit.qat.integer_step import Pass
from tests.qat.integers import numbers


def weight(codes, m, block, k_x):
    none = torch.zeros(len(codes), dtype=torch.int16)
    return LinearWeight(codes.to(torch.int8), m, block, none, none, None, k_x)


@pytest.mark.parametrize("precision", ["highest", "medium"])
@pytest.mark.parametrize(("k", "k_x", "n_in"), [(2, 8, 33), (4, 4, 65), (4, 8, 512), (8, 8, 300), (8, 8, 522)])
def test_sums_are_those_of_the_operator(k, k_x, n_in, precision):
    """Random codes, and rows and inputs of nothing but the largest, whose sums are the largest that there can be."""
    most, most_x = 2 ** (k - 1) - 1, 2 ** (k_x - 1) - 1
    w = torch.cat([numbers(9, n_in, low=-most, high=most), torch.full((2, n_in), most)])
    m = torch.cat([numbers(9, -(-n_in // 64), low=1, high=255), torch.full((2, -(-n_in // 64)), 255)]).to(torch.uint8)
    q = torch.cat([numbers(5, n_in, low=-most_x, high=most_x, seed=1), torch.full((1, n_in), -most_x)]).to(torch.int8)
    whole = (w * m.repeat_interleave(64, 1)[:, :n_in]).double()
    torch.set_float32_matmul_precision(precision)
    try:
        assert torch.equal(sums(q, whole, k_x), accumulate(q, weight(w, m, 64, k_x)).long())
        assert torch.equal(sums(q, w.double(), k_x), accumulate(q, weight(w, None, n_in, k_x)).long())
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_product_has_the_gradients_of_the_product():
    x, w, bias = (numbers(*shape, seed=1).double().requires_grad_() for shape in ((2, 5, 7), (3, 7), (3,)))
    g = numbers(2, 5, 3, seed=2).double()
    value = numbers(2, 5, 3).double()
    y = Product.apply(x, w, bias, value)
    assert torch.equal(y, value)
    ours = torch.autograd.grad(y, (x, w, bias), g)
    for one, other in zip(ours, torch.autograd.grad(functional.linear(x, w, bias), (x, w, bias), g), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("width", "dtype"), [(0, torch.int32), (4, torch.int32), (4, torch.int16)])
def test_a_static_range_passes_nothing_from_beyond(width, dtype):
    """The range ends at a 2^e units: 1000, or 1000 / sqrt(4) for transforms of 4, which of 32 bits are halved three times."""
    step = Step("quantize", (0,), (1,), numbers=(8, 1000, 0, width))
    taught = Quantized(step, [], {0: 0.5})
    integers = torch.tensor([[0, 900, -1100, 1001, 5, 0, 0, 0, 9000, 0, 0, 0]], dtype=dtype)
    x = (integers.float() * 0.5).requires_grad_()
    state = Pass(integers, {}, {0: integers}, {0: x})
    taught(state)
    turn = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2 if width else torch.eye(4)
    turned = (x.detach().view(-1, 4) @ turn.T).flatten()
    end = 1000 * 0.5 * ((8 if dtype == torch.int32 else 1) / 2 if width else 1)
    assert torch.equal(
        torch.autograd.functional.jacobian(lambda y: run(taught, integers, y), x)[0, :, 0].abs().sum(1) > 0, turned.abs() <= end
    )
    inside = turned.abs() <= end
    torch.testing.assert_close(state.floats[1].detach().flatten()[inside], turned[inside], rtol=0, atol=0.6 * end / 127)


def run(taught, integers, x):
    state = Pass(integers, {}, {0: integers}, {0: x})
    taught(state)
    return state.floats[1]


def test_rows_find_their_own_range_and_pass_everything():
    taught = Quantized(Step("quantize", (0,), (1,), numbers=(4, 0, 0, 0)), [], {0: 0.25})
    integers = numbers(3, 8, low=-3000, high=3000).int()
    x = (integers.float() * 0.25).requires_grad_()
    y = run(taught, integers, x)
    y.sum().backward()
    assert torch.equal(x.grad, torch.ones(3, 8))
    peak = x.detach().abs().amax(1, keepdim=True)
    torch.testing.assert_close(y.detach(), (x.detach() / peak * 7).round() * peak / 7, rtol=1e-3, atol=0)
    assert isinstance(codes(integers, 4, 0, 0, 0), Rows)
