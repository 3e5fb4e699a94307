"""Gradients of the fake quantizer: those that LSQ, LSQ+ and the straight-through estimator were published with."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kbit.formats import CODEBOOKS, Format, Grid, encode
from kbit.formats.nearest import nearest
from kbit.qat.fake_quantize import FakeQuantize, Rounding, pass_through
from tests.packed.formats import HEADS, TABLE

ROWS, BLOCKS, SIZE = 5, 3, 8


def weights(seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(ROWS, BLOCKS, SIZE, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rounding(text: str, step_gradient: float = 1.0) -> Rounding:
    fmt = Format.parse(text, {"TEST": TABLE})
    levels = encode(weights().float().flatten(1), fmt).levels
    return Rounding.of(Grid(fmt, torch.ones(1, 1), levels), step_gradient)


def gradients(x: Tensor, scale: Tensor, how: Rounding, *, shift: Tensor | None = None, zero: Tensor | None = None):
    """(values, gradients of x, scale, shift, zero) for a gradient of the values that differs from one to the next."""
    inputs = [None if each is None else each.clone().requires_grad_() for each in (x, scale, shift, zero)]
    values = FakeQuantize.apply(*inputs, how)
    values.backward(torch.linspace(-1, 2, x.numel(), dtype=x.dtype).view(x.shape))
    return values.detach(), *(None if each is None else each.grad for each in inputs)


@pytest.mark.parametrize("k", range(2, 9))
def test_the_step_has_the_gradient_of_lsq(k):
    """Esser et al. 2020, equation 3: -v/s + round(v/s) within the range, and the end of the range beyond it."""
    x, top = weights(k), 2 ** (k - 1) - 1
    scale = torch.full((ROWS, BLOCKS, 1), 1.3 / top, dtype=x.dtype)  # so that some values lie beyond at every k
    factor = 1 / (SIZE * top) ** 0.5
    _, g_x, g_scale, _, _ = gradients(x, scale, rounding(f"int{k}-b{SIZE}", factor))
    g = torch.linspace(-1, 2, x.numel(), dtype=x.dtype).view(x.shape)
    u = x / scale
    published = torch.where(u <= -top, -float(top), torch.where(u >= top, float(top), u.round() - u))
    torch.testing.assert_close(g_scale, (g * published).sum(-1, keepdim=True) * factor)
    torch.testing.assert_close(g_x, g * ((u > -top) & (u < top)))
    assert (u.abs() > top).any()
    assert (u.abs() < top).any()


@pytest.mark.parametrize("head", HEADS)
def test_every_codebook_has_the_gradients_of_a_clip_and_a_fixed_residue(head):
    """With the residue r = Q(u) - clip(u) held fixed, v = clip(x, low s, high s) + r s, which autograd differentiates."""
    how, x = rounding(f"{head}-b{SIZE}"), weights(3).float()
    scale = (0.3 + torch.rand(ROWS, BLOCKS, 1)) * 2 / how.high
    values, g_x, g_scale, _, _ = gradients(x, scale, how)
    level = how.levels[nearest((x / scale).flatten(), how.levels).long()].view(x.shape)
    torch.testing.assert_close(values, level * scale)
    x, scale = x.requires_grad_(), scale.requires_grad_()
    residue = (level - (x / scale).clamp(how.low, how.high)).detach()
    (x.clamp(how.low * scale, how.high * scale) + residue * scale).backward(torch.linspace(-1, 2, x.numel()).view(x.shape))
    torch.testing.assert_close(g_x, x.grad)
    torch.testing.assert_close(g_scale, scale.grad, rtol=1e-4, atol=1e-5)


def test_a_shift_learns_from_what_lies_beyond_alone():
    """Bhalgat et al. 2020 (LSQ+), equations 4 and 5."""
    x, how = weights(1), rounding(f"int3-b{SIZE}-min")
    scale, shift = torch.full((ROWS, BLOCKS, 1), 0.25, dtype=x.dtype), torch.full((ROWS, BLOCKS, 1), -0.7, dtype=x.dtype)
    values, g_x, g_scale, g_shift, _ = gradients(x, scale, how, shift=shift)
    g, u = torch.linspace(-1, 2, x.numel(), dtype=x.dtype).view(x.shape), (x - shift) / scale
    inside = (u > 0) & (u < 7)
    torch.testing.assert_close(values, u.round().clamp(0, 7) * scale + shift)
    torch.testing.assert_close(g_x, g * inside)
    torch.testing.assert_close(g_shift, (g * ~inside).sum(-1, keepdim=True))
    published = torch.where(u <= 0, 0.0, torch.where(u >= 7, 7.0, u.round() - u))
    torch.testing.assert_close(g_scale, (g * published).sum(-1, keepdim=True))


def test_a_zero_point_moves_the_ends():
    x, how = weights(2), rounding(f"int3-b{SIZE}-asym")
    scale, zero = torch.full((ROWS, BLOCKS, 1), 0.25, dtype=x.dtype), torch.full((ROWS, BLOCKS, 1), 3.0, dtype=x.dtype)
    values, _, _, _, g_zero = gradients(x, scale, how, zero=zero)
    codes = ((x / scale).round() + zero).clamp(0, 7)
    torch.testing.assert_close(values, (codes - zero) * scale)
    g = torch.linspace(-1, 2, x.numel(), dtype=x.dtype).view(x.shape)
    beyond = (x / scale <= -zero) | (x / scale >= 7 - zero)
    torch.testing.assert_close(g_zero, (g * beyond * -scale).sum(-1, keepdim=True))


@pytest.mark.parametrize("text", ["int2", "int4", "nf3", "log3", "fp4e2m1"])
def test_beyond_the_range_gradients_are_finite_differences(text):
    """There the value is an end times the scale, plus the shift: smooth, so the estimator is the derivative itself."""
    how = rounding(f"{text}-b{SIZE}")
    x = weights(4).sign() * (3 + weights(5).abs())
    scale = torch.full((ROWS, BLOCKS, 1), 2.9, dtype=x.dtype) / how.high
    inputs = (x.requires_grad_(), scale.requires_grad_())
    assert torch.autograd.gradcheck(lambda x, scale: FakeQuantize.apply(x, scale, None, None, how), inputs, eps=1e-6)


def test_pass_through_gives_the_value_and_the_gradient_of_what_it_stands_for():
    x = weights().requires_grad_()
    y = pass_through(x, x.detach().round())
    y.backward(torch.full_like(x, 3.0))
    assert torch.equal(y, x.detach().round())
    assert torch.equal(x.grad, torch.full_like(x, 3.0))


def test_a_scale_that_serves_many_blocks_gathers_their_gradients():
    x, how = weights(6), rounding(f"int3-b{SIZE}")
    one = gradients(x, torch.full((1, 1, 1), 0.3, dtype=x.dtype), how)[2]
    many = gradients(x, torch.full((ROWS, BLOCKS, 1), 0.3, dtype=x.dtype), how)[2]
    torch.testing.assert_close(one, many.sum((0, 1), keepdim=True))


def test_all_codebooks_are_here():
    assert {"".join(c for c in head.split(":")[0] if c.isalpha()) for head in HEADS} >= {w for w in CODEBOOKS if w != "fp"}
