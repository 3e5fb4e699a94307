"""The predicted error: exact where the model is exact, near where the weights are like trained ones."""

from __future__ import annotations

import pytest
import torch

from kbit.formats import Format, encode, quantization_error_variance
from kbit.formats.theory import predicted_mse
from tests.formats.examples import ALL, parse, weights


def measured_mse(text: str, w: torch.Tensor) -> float:
    fmt = parse(text)
    back = w.to(fmt.dtype).float() if fmt.is_float else encode(w, fmt).dequantize()
    return float((back - w).double().square().mean())


@pytest.mark.parametrize(
    "text", ["int3-b64", "int4-b64", "int8-row", "int4-tensor", "int4-b64-s8", "int4-b64-i8", "int4-b32-asym", "int4-b64-min"]
)
def test_even_steps_are_off_by_a_twelfth_of_their_square(text):
    w = weights(8, 640)
    encoded = encode(w, Format.parse(text))
    clipped = (encoded.dequantize() - w).abs() > encoded.scale.max() / 2  # none, but for the rounding of scales
    assert not bool(clipped.any())
    s2_12 = float(encoded.scale.double().square().mean()) / 12
    assert predicted_mse(Format.parse(text), w) == pytest.approx(s2_12, rel=0.01)


def test_the_error_model_of_a_range_is_the_prediction_for_a_tensor_with_that_range():
    w = torch.rand(8, 1000, generator=torch.Generator().manual_seed(0)) * 3 - 1
    fmt = Format.parse("int8-tensor-min")
    variance = quantization_error_variance(8, float(w.min()), float(w.max()))
    assert predicted_mse(fmt, w) == pytest.approx(variance, rel=2e-3)


@pytest.mark.parametrize("text", [*ALL, "bf16", "f16"])
def test_a_gaussian_is_predicted(text):
    w = weights(64, 512)
    fmt = parse(text)
    within = 0.15  # of the measured error
    if (fmt.block or 512) <= 16:
        within = 0.6  # one or two of 8 weights lie on levels that were fitted to them: what is left is not spread evenly
    assert predicted_mse(parse(text), w) == pytest.approx(measured_mse(text, w), rel=within)


@pytest.mark.parametrize(
    "text", ["int2-b64", "int3-b64", "int4-b64", "nf3-b64", "nf4-b64", "log4-b64", "kmeans3-b64", "dyn8-b64"]
)
def test_a_heavy_tail_is_predicted_within_a_quarter(text):
    w = torch.distributions.Laplace(0.0, 0.02).sample((64, 512))
    assert predicted_mse(parse(text), w) == pytest.approx(measured_mse(text, w), rel=0.25)


def test_clipping_counts():
    """All weights but one at 0.5 steps beyond the end of a grid that is handed over."""
    w = torch.full((1, 4), 1.0)
    fmt = Format.parse("int2-row")
    grid = encode(w * 0.5, fmt, range_name="min-max").grid
    assert grid.scale.tolist() == [[0.5]]
    assert predicted_mse(fmt, w, grid=grid) == pytest.approx(0.25)


def test_values_beyond_float16_count_as_clipped():
    w = torch.tensor([[1e6, 0.0]])
    assert predicted_mse(Format.parse("f16"), w) == pytest.approx((1e6 - 65504) ** 2 / 2)
    assert predicted_mse(Format.parse("int8-row"), w) == pytest.approx(0.0, abs=1e9 / 12)


def test_what_is_held_exactly_has_no_error():
    w = weights(4, 64).bfloat16().float()
    assert predicted_mse(Format.parse("bf16"), w) == 0
    assert predicted_mse(Format.parse("f32"), weights(4, 64)) == 0
    assert predicted_mse(Format.parse("nf4-b64"), torch.zeros(4, 64)) == 0


def test_a_scale_that_is_rounded_to_0_loses_the_weights():
    w = torch.full((1, 8), 1e-9)
    assert predicted_mse(Format.parse("int4-row"), w) == pytest.approx(1e-18)
