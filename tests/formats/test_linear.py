"""The published formulas of linear quantization, against whole-number arithmetic and the definition."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.errors import FormatError
from kbit.formats import linear_dequantize, linear_quantize, quantization_error_variance, quantized_matmul

KS = range(1, 9)


@pytest.mark.parametrize("k", KS)
def test_codes_are_the_formulas(k):
    x = torch.linspace(-2, 3, 1001, dtype=torch.float64)
    codes = linear_quantize(x, k, -1.0, 2.0)
    for value, code in zip(x.tolist(), codes.tolist(), strict=True):
        place = (Fraction(value) + 1) / 3 * (2**k - 1)
        if abs(place % 1 - Fraction(1, 2)) > Fraction(1, 10**9):
            assert code == min(2**k - 1, max(0, round(place)))
    assert codes.dtype == torch.uint8


@pytest.mark.parametrize("k", KS)
def test_every_code_comes_back(k):
    codes = torch.arange(2**k, dtype=torch.uint8)
    values = linear_dequantize(codes, k, -0.7, 1.9)
    expected = [float(Fraction(q) * (Fraction(1.9) + Fraction(0.7)) / (2**k - 1) - Fraction(0.7)) for q in range(2**k)]
    torch.testing.assert_close(values, torch.tensor(expected), rtol=1e-6, atol=1e-6)
    assert torch.equal(linear_quantize(values, k, -0.7, 1.9), codes)


def test_ties_go_to_the_even_code():
    assert linear_quantize(torch.tensor([0.5, 1.5, 2.5]), 2, 0.0, 3.0).tolist() == [0, 2, 2]


def test_ranges_broadcast_and_dtypes_are_kept():
    x = torch.randn(3, 4, 5)
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    codes = linear_quantize(x, 8, low, high)
    assert codes.amin(-1).max() == 0
    assert codes.amax(-1).min() == 255
    assert linear_dequantize(codes, 8, low, high).dtype == torch.float32
    assert linear_dequantize(codes, 8, low.double(), high.double()).dtype == torch.float64
    half = linear_quantize(x.half(), 8, -3.0, 3.0)
    assert torch.equal(half, linear_quantize(x.half().float(), 8, -3.0, 3.0))
    assert linear_quantize(torch.tensor([-torch.inf, torch.inf]), 3, 0.0, 1.0).tolist() == [0, 7]


@pytest.mark.parametrize("k", KS)
def test_the_error_of_even_values_has_mean_0_and_the_variance_of_the_model(k):
    x = torch.rand(200_000, generator=torch.Generator().manual_seed(k), dtype=torch.float64) * 5 - 2
    error = linear_dequantize(linear_quantize(x, k, -2.0, 3.0), k, torch.tensor(-2.0).double(), torch.tensor(3.0).double()) - x
    variance = quantization_error_variance(k, -2.0, 3.0)
    assert variance == pytest.approx((5 / (2**k - 1)) ** 2 / 12)
    assert abs(error.mean().item()) < 4 * (variance / 200_000) ** 0.5
    assert error.var().item() == pytest.approx(variance, rel=0.02)


def test_variance_of_many_ranges():
    low, high = torch.tensor([[0.0], [-1.0]]), torch.tensor([[3.0], [1.0]])
    torch.testing.assert_close(quantization_error_variance(2, low, high), torch.tensor([[1 / 12], [4 / 9 / 12]]))


@given(st.integers(1, 8), st.booleans(), st.integers(0, 5), st.integers(0, 40), st.integers(0, 5), st.integers(0, 10**6))
@settings(max_examples=100, deadline=None)
def test_the_product_is_that_of_whole_numbers(k, signed, m, n, p, seed):
    generator = torch.Generator().manual_seed(seed)
    low, high = (-(2 ** (k - 1)), 2 ** (k - 1)) if signed else (0, 2**k)
    x = torch.randint(low, high, (m, n), generator=generator)
    y = torch.randint(low, high, (n, p), generator=generator)
    expected = [[sum(a * b for a, b in zip(row, column, strict=True)) for column in y.T.tolist()] for row in x.tolist()]
    found = quantized_matmul(x.to(torch.int16), y.to(torch.int16), k)
    assert found.dtype == torch.int64
    assert found.shape == (m, p)
    assert found.tolist() == (expected if m else [])


@pytest.mark.parametrize("n", [4095, 4096, 4097, 10_000, 100_000])
def test_a_long_product_of_the_largest_codes_is_exact(n):
    """255 * 255 * 100,000 is more than 2^31, and its sum in float32 would be off."""
    x = torch.full((2, n), 255, dtype=torch.uint8)
    assert quantized_matmul(x, x.T, 8).tolist() == [[255 * 255 * n] * 2] * 2


def test_products_broadcast_over_batches():
    x = torch.randint(0, 16, (3, 1, 4, 6), dtype=torch.uint8)
    y = torch.randint(0, 16, (2, 6, 5), dtype=torch.uint8)
    assert torch.equal(quantized_matmul(x, y, 4), x.long() @ y.long())


NAN, INFINITY = float("nan"), float("inf")
ONE, PAIR = torch.zeros(1), torch.ones(2, 2).int()
ALLOWED_K = "is not to be had. Give the bits of a code, a whole number from 1 to 8."
ALLOWED_RANGE = "Give finite ends with x_min below x_max."


@pytest.mark.parametrize(
    ("call", "arguments", "message"),
    [
        (linear_quantize, (ONE, 9, 0.0, 1.0), f"k = 9 {ALLOWED_K}"),
        (linear_quantize, (ONE, 0, 0.0, 1.0), f"k = 0 {ALLOWED_K}"),
        (linear_quantize, (ONE, 2.0, 0.0, 1.0), f"k = 2.0 {ALLOWED_K}"),
        (quantized_matmul, (PAIR, PAIR, True), f"k = True {ALLOWED_K}"),
        (linear_quantize, (ONE, 4, 1.0, 1.0), f"the range [1, 1] is empty. {ALLOWED_RANGE}"),
        (linear_dequantize, (PAIR, 4, 2.0, 1.0), f"the range [2, 1] is empty. {ALLOWED_RANGE}"),
        (linear_quantize, (ONE, 4, NAN, 1.0), f"the range [nan, 1] is not finite. {ALLOWED_RANGE}"),
        (linear_quantize, (ONE, 4, -3e38, 3e38), f"the range [-3e+38, 3e+38] is not finite. {ALLOWED_RANGE}"),
        (quantization_error_variance, (4, 0.0, INFINITY), f"the range [0, inf] is not finite. {ALLOWED_RANGE}"),
        (linear_quantize, (torch.tensor([0, NAN]), 4, 0.0, 1.0), "linear_quantize: 1 of 2 values are NaN. Remove them first."),
        (
            linear_dequantize,
            (torch.tensor([3, 16]), 4, 0.0, 1.0),
            "linear_dequantize: codes run from 3 to 16, which is not 4 bits. Codes of 4 bits are 0 .. 15.",
        ),
        (
            quantized_matmul,
            (torch.ones(2, 2), PAIR, 4),
            "quantized_matmul: x_q is torch.float32. Give integer codes, as linear_quantize makes them.",
        ),
        (
            quantized_matmul,
            (PAIR, PAIR * 16, 4),
            "quantized_matmul: y_q: codes run from 16 to 16, which is not 4 bits. Codes of 4 bits are -8 .. 15.",
        ),
        (
            quantized_matmul,
            (torch.ones(2, 3).int(), PAIR, 4),
            "quantized_matmul: shapes (2, 3) and (2, 2) do not multiply. Give (..., m, n) and (..., n, p).",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(call, arguments, message):
    with pytest.raises(FormatError) as caught:
        call(*arguments)
    assert str(caught.value) == message
