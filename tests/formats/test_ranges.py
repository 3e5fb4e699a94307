"""Ranges: every entry of the table spans what it should; each kind against its definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kbit.formats import RANGES, Format, encode
from kbit.formats.kl import BINS, best_ratio
from kbit.formats.ranges import percentile_range
from tests.formats.examples import VARIED, parse, weights

FIXED = [text for text in VARIED if not parse(text).learned]


def squared_error(w: torch.Tensor, text: str, range_name: str | None = None) -> float:
    return float((encode(w, parse(text), range_name=range_name).dequantize() - w).double().square().mean())


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("text", FIXED)
def test_a_range_has_a_shape_and_lies_within_the_weights(name, text):
    fmt = parse(text)
    w = weights(5, 130)
    low, high = RANGES[name](w, fmt, fmt.levels(), tensor_scale=torch.tensor(1e-4))
    shape = (1, 1) if fmt.granularity == "tensor" else (5, fmt.n_blocks(130))
    assert low.shape == high.shape == shape
    assert bool((low <= high).all())
    assert bool((low.isfinite() & high.isfinite()).all())
    largest = w.abs().max()
    assert high.max() <= largest * 2.01  # OCP's powers clip, so a search may reach for the next
    if name in ("min-max", "percentile", "kl"):
        assert high.max() <= largest * 1.001


@pytest.mark.parametrize(
    "text", [text for text in VARIED if parse(text).scales not in ("s8", "i8") and not parse(text).kept_percent]
)
@pytest.mark.parametrize("kind", ["gauss", "heavy"])
def test_the_searched_range_is_never_worse_than_any_other(text, kind):
    w = weights(16, 320, kind=kind)
    searched = squared_error(w, text, "mse")
    assert all(searched <= squared_error(w, text, name) * 1.02 for name in RANGES)
    if not parse(text).learned:
        assert searched <= squared_error(w, text, "min-max")


@pytest.mark.parametrize(("text", "largest"), [("binary-row", 1.0), ("int1-b64", 1.0), ("ternary-row", 1.0), ("int2-row", 1.0)])
def test_the_searched_scale_is_the_best_of_a_thousand(text, largest):
    w = weights(1, 64, seed=3)
    searched = squared_error(w, text, "mse")
    scales = torch.linspace(0, float(w.abs().max()), 1001)[1:]
    levels = parse(text).levels()
    errors = [(w[0][:, None] - levels * scale).abs().amin(1).square().mean().item() for scale in scales]
    assert searched <= min(errors) * 1.002


def test_binary_scale_is_the_mean_magnitude():
    """The closed form of Rastegari et al. 2016."""
    w = weights(4, 256)
    scale = encode(w, Format.parse("binary-row")).scale
    torch.testing.assert_close(scale, w.abs().mean(1, keepdim=True), rtol=2**-11, atol=0)


def test_two_levels_with_a_minimum_fit_two_values_exactly():
    w = torch.tensor([[0.25, 0.75, 0.75, 0.25, 0.25]])
    for text in ("int1-row-min", "int2-row-min"):
        torch.testing.assert_close(encode(w, Format.parse(text)).dequantize(), w, rtol=2**-10, atol=0)


@pytest.mark.parametrize(
    ("k", "expected", "largest"),
    [(1, 0.3634, 3.75), (2, 0.19, 0.52)],  # of the variance; at most what min-max leaves
)
def test_few_bits_take_the_searched_range(k, expected, largest):
    """A Gaussian in blocks of 64 is off by 3.75 and 0.52 of its variance with min-max; writing zeros is off by 1."""
    w = weights(200, 640)
    variance = float(w.square().mean())
    default = squared_error(w, f"int{k}-b64") / variance
    assert default == squared_error(w, f"int{k}-b64", "mse") / variance
    assert default < expected
    assert squared_error(w, f"int{k}-b64", "min-max") / variance == pytest.approx(largest, rel=0.03)


@pytest.mark.parametrize("size", [1, 2, 64, 1000])
def test_percentiles_are_numpys(size):
    w = weights(6, size)
    row = Format.parse("int8-row")
    low, high = percentile_range(w, row, row.levels())
    expected = np.quantile(np.abs(w.numpy().astype(np.float64)), 0.999, axis=1)
    np.testing.assert_allclose(high[:, 0], expected, rtol=1e-6)
    assert torch.equal(low, -high)
    row = Format.parse("int8-row-min")
    low, high = percentile_range(w, row, row.levels())
    np.testing.assert_allclose(low[:, 0], np.quantile(w.numpy().astype(np.float64), 0.0005, axis=1), rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(high[:, 0], np.quantile(w.numpy().astype(np.float64), 0.9995, axis=1), rtol=1e-5, atol=1e-9)


def test_percentiles_of_a_centred_tensor_are_of_its_distance_from_the_mean():
    w = weights(6, 500) + 3
    for text in ("int8-row-center", "int8-tensor-center", "int8-b50-center"):
        fmt = Format.parse(text)
        mean = encode(w, fmt).mean
        assert mean is not None
        _, high = percentile_range(w, fmt, fmt.levels(), mean=mean)
        blocks = {"row": w, "tensor": w.reshape(1, -1), "block": w.reshape(-1, 50)}[fmt.granularity]
        expected = np.quantile((blocks - mean.reshape(-1, 1)).abs().double().numpy(), 0.999, axis=1)
        np.testing.assert_allclose(high.reshape(-1), expected, rtol=1e-5)


def test_kl_keeps_the_whole_of_an_even_histogram():
    """Even values over 256 levels: clipping would only pile mass up at the ends."""
    assert best_ratio(np.full(BINS, 100.0), Format.parse("int8-tensor").levels() / 127) == 1.0


def test_kl_clips_a_far_outlier():
    """A Gaussian of a hundredth of the range, but for one value at the end: 4 bits over the whole would be two levels."""
    place = (np.arange(BINS) + 0.5) / (BINS / 2) - 1
    counts = np.round(1e5 * np.exp(-((place / 0.03) ** 2) / 2))
    counts[-1] = 1.0
    assert 0.05 <= best_ratio(counts, Format.parse("int4-tensor").levels() / 7) < 0.3


def test_kl_of_nothing_is_the_whole_range():
    assert best_ratio(np.zeros(BINS), Format.parse("int4-tensor").levels() / 7) == 1.0
