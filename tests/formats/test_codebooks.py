"""Levels against published tables."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from scipy.stats import norm

from kbit.formats import Format

BITSANDBYTES_NF4 = [  # as bitsandbytes' functional.py and csrc print it; QLoRA, appendix E, to fewer digits
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
]
BITSANDBYTES_FP4 = [0.005208333333, 0.16666667, 0.25, 0.33333333, 0.5, 0.66666667, 1.0]


def levels(text: str) -> torch.Tensor:
    return Format.parse(text).levels()


def test_nf4_has_every_bit_of_the_published_table():
    assert torch.equal(levels("nf4-b64"), torch.tensor(BITSANDBYTES_NF4))


@pytest.mark.parametrize("k", range(2, 9))
def test_nfk_are_quantiles_of_the_normal_distribution(k):
    outermost = 1 - (1 / (2**k - 1) + 1 / 2**k) / 4
    found = levels(f"nf{k}-b64").double() * norm.ppf(outermost)
    shares = torch.from_numpy(norm.cdf(found.numpy()))
    zero = 2 ** (k - 1) - 1
    assert found[zero] == 0
    for part, count in ((shares[: zero + 1], zero), (shares[zero:], zero + 1)):
        torch.testing.assert_close(part.diff(), torch.full((count,), (outermost - 0.5) / count).double(), rtol=0, atol=1e-6)


def test_bnbfp4_is_bitsandbytes_table():
    expected = torch.tensor([-v for v in reversed(BITSANDBYTES_FP4)] + [0.0] + BITSANDBYTES_FP4)
    torch.testing.assert_close(levels("bnbfp4-b64"), expected, rtol=1e-7, atol=0)


@pytest.mark.parametrize(
    ("text", "positive"),
    [  # OCP Microscaling Formats v1.0, tables 2 to 5, and the extremes of the longer ones
        ("fp4e2m1", [0.5, 1, 1.5, 2, 3, 4, 6]),
        ("fp3e2m0", [1, 2, 4]),
        ("fp2e1m0", [2]),
        ("fp4e1m2", [0.5, 1, 1.5, 2, 2.5, 3, 3.5]),
    ],
)
def test_small_floats_are_the_published_element_values(text, positive):
    values = torch.tensor([-v for v in reversed(positive)] + [0.0] + positive)
    assert torch.equal(levels(f"{text}-b32-e8m0"), values)
    assert torch.equal(levels(f"{text}-b16-e4m3"), values)
    assert torch.equal(levels(f"{text}-b64"), values / positive[-1])


@pytest.mark.parametrize(
    ("text", "n_levels", "least", "largest"),
    [  # codes less -0, NaN and infinities; OCP's minimum subnormal and maximum normal
        ("fp6e2m3", 63, 0.125, 7.5),
        ("fp6e3m2", 63, 0.0625, 28),
        ("fp8e4m3", 253, 2**-9, 448),
        ("fp8e5m2", 247, 2**-16, 57344),
    ],
)
def test_larger_floats_have_the_published_extremes(text, n_levels, least, largest):
    values = levels(f"{text}-b32-e8m0")
    assert (len(values), values[-1], values[values > 0][0]) == (n_levels, largest, least)


@pytest.mark.parametrize(("text", "dtype"), [("fp8e4m3", torch.float8_e4m3fn), ("fp8e5m2", torch.float8_e5m2)])
def test_8_bit_floats_are_torchs(text, dtype):
    every = torch.arange(256, dtype=torch.uint8).view(dtype).float()
    expected = every[every.isfinite()].unique()
    assert torch.equal(levels(f"{text}-b32-e8m0"), expected)


@pytest.mark.parametrize("k", range(2, 9))
def test_every_split_of_a_float_is_sign_exponent_and_fraction(k):
    for exponent in range(1, k):
        mantissa = k - 1 - exponent
        bias = 2 ** (exponent - 1) - 1
        values = {0.0}
        for power in range(2**exponent):
            for fraction in range(2**mantissa):
                scale, lead = (2.0 ** (1 - bias), 0) if power == 0 else (2.0 ** (power - bias), 1)
                values |= {sign * scale * (lead + fraction / 2**mantissa) for sign in (-1, 1)}
        expected = torch.tensor(sorted(values))
        if (exponent, mantissa) == (4, 3):
            expected = expected[1:-1]  # NaN
        if (exponent, mantissa) == (5, 2):
            expected = expected[4:-4]  # infinities and NaN
        assert torch.equal(levels(f"fp{k}e{exponent}m{mantissa}-b32-e8m0"), expected)


def test_dyn8_are_the_values_of_bitsandbytes_dynamic_map():
    """Its construction in plain words: for the power 10^-(6 - i), the 2^i means of neighbours in linspace(0.1, 1)."""
    values = [0.0, 1.0]
    for i in range(7):
        ends = [0.1 + 0.9 * j / 2**i for j in range(2**i + 1)]
        for low, high in pairwise(ends):
            values += [sign * (low + high) / 2 * 10.0 ** (i - 6) for sign in (-1, 1)]
    found = levels("dyn8-b64")
    assert len(found) == 256
    torch.testing.assert_close(found, torch.tensor(sorted(values)), rtol=2e-7, atol=0)
    assert found[0].item() == pytest.approx(-0.99296875)  # the table starts with -0.9930
    assert found[found > 0][0].item() == pytest.approx(5.5e-7)


@pytest.mark.parametrize("k", range(2, 9))
def test_log_levels_are_powers_down_to_a_normal_float(k):
    found = levels(f"log{k}-b64").double()
    assert len(found) == 2**k
    positive = found[found > 0]
    step = 2 ** (1 / 2 ** max(0, k - 4))
    torch.testing.assert_close(positive[1:] / positive[:-1], torch.full((len(positive) - 1,), step).double(), rtol=1e-6, atol=0)
    assert positive[-1] == 1
    assert positive[0] >= 2**-8
    assert torch.equal(found, -found.flip(0))


@pytest.mark.parametrize("text", ["int1", "nf1", "fp1", "log1", "dyn1", "binary"])
def test_one_bit_is_a_sign(text):
    assert levels(f"{text}-b64").tolist() == [-1, 1]


def test_small_ints():
    assert levels("int2-b64").tolist() == [-1, 0, 1]
    assert levels("int2-b64-asym").tolist() == [0, 1, 2, 3]
    assert levels("int1-b64-asym").tolist() == [0, 1]
    assert levels("int8-row").tolist() == list(range(-127, 128))
    assert levels("ternary-b64").tolist() == [-1, 0, 1]
    assert math.isclose(Format.parse("ternary-b64").code_bits, 8 / 5)
