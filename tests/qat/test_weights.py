"""The weight quantizer over every format: it shows what is stored, in the shape of its parameter, and learns what it should."""

from __future__ import annotations

import pytest
import torch

from kbit.formats import Format
from kbit.methods import choose
from kbit.qat.weights import Rounded, WeightQuantizer, step_gradient
from tests.packed.formats import ALL, SOME, TABLE

A_FEW = ALL[::31]


def quantizer(text: str, shape: tuple[int, int] = (7, 90), seed: int = 0) -> tuple[WeightQuantizer, torch.Tensor]:
    w = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.05
    return WeightQuantizer(choose("rtn-mse", w, Format.parse(text, {"TEST": TABLE}))), w


def moved(made: WeightQuantizer, w: torch.Tensor, seed: int = 1) -> torch.Tensor:
    """Weights and grid as training leaves them: not where they began, and not on what storage can hold."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(1 + 0.2 * torch.rand(parameter.shape, generator=generator))
    return w + 0.01 * torch.randn(w.shape, generator=generator)


@pytest.mark.parametrize("text", [*SOME, *A_FEW])
def test_it_begins_where_the_method_left_off(text):
    made, w = quantizer(text)
    start = choose("rtn-mse", w, made.fmt)
    assert torch.equal(made(w), start.dequantize())


@pytest.mark.parametrize("text", [*SOME, *A_FEW])
def test_after_training_it_shows_the_values_that_are_stored(text):
    made, w = quantizer(text)
    w = moved(made, w)
    encoded = made.encode(w)
    assert torch.equal(made(w), encoded.dequantize())
    from kbit.packed.packed_tensor import pack

    assert torch.equal(pack(encoded).dequantize(), encoded.dequantize())


@pytest.mark.parametrize("text", [*SOME, *A_FEW])
def test_every_parameter_has_a_finite_gradient(text):
    made, w = quantizer(text)
    w = moved(made, w).requires_grad_()
    made(w).square().sum().backward()
    for parameter in (w, *made.parameters()):
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    assert w.grad.abs().sum() > 0


def test_kept_columns_learn_in_16_bits_and_the_others_on_their_levels():
    made, w = quantizer("int2-b16-o10", (4, 40))
    w = w.requires_grad_()
    values = made(w)
    assert torch.equal(values[:, made.kept], w.detach()[:, made.kept].half().float())
    values.sum().backward()
    assert torch.equal(w.grad[:, made.kept], torch.ones(4, 4))


@pytest.mark.parametrize("text", ["int3-b16", "nf4-row", "binary-tensor"])
def test_a_transposed_parameter_is_seen_as_its_transpose(text):
    _, w = quantizer(text)
    start = choose("rtn-mse", w, Format.parse(text))
    plain, turned = WeightQuantizer(start), WeightQuantizer(start, transposed=True)
    assert torch.equal(turned(w.T.contiguous()), plain(w).T)


def test_a_convolution_has_a_row_for_each_output():
    w = torch.randn(6, 4, 3, 3)
    made = WeightQuantizer(choose("rtn-mse", w.flatten(1), Format.parse("int3-b12")))
    assert made(w).shape == w.shape
    assert torch.equal(made(w).flatten(1), made.encode(w).dequantize())


def test_a_scale_that_was_driven_to_nothing_still_learns():
    made, w = quantizer("int3-b16")
    with torch.no_grad():
        made.scale.fill_(-1.0)
    made(w).sub(w).square().sum().backward()
    assert made.scale.grad.isfinite().all()
    assert (made.scale.grad < 0).all()  # downhill is up


def test_bfloat16_parameters_give_bfloat16_values():
    made, w = quantizer("int4-b16")
    assert made(w.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("text", ["f16", "bf16"])
def test_what_stays_in_16_bits_is_rounded_with_the_gradient_of_the_parameter(text):
    fmt = Format.parse(text)
    w = torch.randn(50).requires_grad_()
    values = Rounded(fmt)(w)
    values.backward(torch.arange(50.0))
    assert torch.equal(values, w.detach().to(fmt.dtype).float())
    assert torch.equal(w.grad, torch.arange(50.0))


def test_the_gradient_of_a_step_is_scaled_as_lsq_has_it():
    """Esser et al. 2020, section 2.2: 1 / sqrt(weights * largest level)."""
    levels = torch.arange(-7.0, 8)
    assert step_gradient(Format.parse("int4-b64"), (8, 128), levels) == pytest.approx(1 / (64 * 7) ** 0.5)
    assert step_gradient(Format.parse("int4-tensor"), (8, 128), levels) == pytest.approx(1 / (8 * 128 * 7) ** 0.5)
    assert step_gradient(Format.parse("int4-row"), (8, 128), levels) == pytest.approx(1 / (128 * 7) ** 0.5)
