"""Integer levels of every codebook: near the levels, in range, exact where they can be, 8 bits where the rule says so."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from kbit.formats import CODEBOOKS, Encoded, Format, encode
from kbit.formats.integer_levels import LIMITS, GaussianWeights, block_end, gaussian, integer_levels, nearest_steps
from tests.formats.examples import ALL, HEADS, heads, parse, weights

FIXED = [head for name in CODEBOOKS if not CODEBOOKS[name].learned for head in heads(name)]
BLOCKS = ["b16", "b64", "b128", "row"]


def levels_of(text: str) -> Tensor:
    fmt = parse(text)
    return encode(weights(16, 256), fmt).levels if fmt.learned else fmt.levels()


def table(levels: Tensor, k: int = 8) -> Format:
    return Format.parse(f"table{k}:mine-b64", {"mine": levels})


@pytest.mark.parametrize("text", ALL + [f"{head}-b32-{scales}" for head in FIXED for scales in ("e8m0", "e4m3")])
def test_they_are_whole_in_range_and_at_most_half_a_step_away(text):
    levels = levels_of(text)
    found = integer_levels(parse(text), levels)
    assert found.values.dtype == torch.int32
    assert found.values.shape == levels.shape
    assert found.bits in LIMITS
    assert int(found.values.abs().max()) <= LIMITS[found.bits]
    assert bool((found.values.diff() >= 0).all())
    assert found.step > 0
    assert found.step == float(np.float32(found.step))
    off = (found.values.double() * found.step - levels.double()).abs()
    assert float(off.max()) <= found.step * (0.5 + LIMITS[found.bits] * 2**-24)  # the step itself is rounded


@pytest.mark.parametrize("k", range(1, 9))
@pytest.mark.parametrize("option", ["", "-asym", "-min"])
def test_int_levels_are_themselves(k, option):
    levels = levels_of(f"int{k}-b64{option}")
    found = integer_levels(parse(f"int{k}-b64{option}"), levels)
    assert found.values.tolist() == levels.tolist()
    assert (found.step, found.bits) == (1.0, 16 if k == 8 and option else 8)


@pytest.mark.parametrize(
    ("text", "values", "step"),
    [
        ("ternary-b64", [-1, 0, 1], 1.0),
        ("binary-row", [-1, 1], 1.0),
        ("nf1-b64", [-1, 1], 1.0),
        ("log3-b64", [-8, -4, -2, -1, 1, 2, 4, 8], 0.125),
        ("mxfp4", [-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12], 0.5),
        ("fp4-b64", [-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12], float(np.float32(1 / 12))),
        ("dyn2-b64", [-11, 0, 11, 20], float(np.float32(0.05))),
        ("table2:uneven-b64", [-8, -2, 1, 12], 0.25),
    ],
)
def test_levels_that_are_whole_multiples_are_found_with_the_largest_step(text, values, step):
    found = integer_levels(parse(text), levels_of(text))
    assert found.values.tolist() == values
    assert (found.step, found.bits) == (step, 8)


@pytest.mark.parametrize(("text", "largest"), [("fp8e2m5-b64", 252), ("fp7e3m3-b64", 960), ("fp8e3m4-row", 1984)])
def test_whole_multiples_beyond_127_take_16_bits(text, largest):
    levels = levels_of(text)
    found = integer_levels(parse(text), levels)
    assert (int(found.values.max()), found.bits) == (largest, 16)
    torch.testing.assert_close(found.values * found.step, levels, rtol=2**-22, atol=0)


@pytest.mark.parametrize("n_levels", [129, 200, 255])
def test_any_whole_numbers_up_to_127_are_exact(n_levels):
    generator = torch.Generator().manual_seed(n_levels)
    whole = (torch.randperm(255, generator=generator)[:n_levels] - 127).sort().values
    levels = whole.float() * 0.37
    found = integer_levels(table(levels), levels)
    assert found.bits == 8
    torch.testing.assert_close(found.values * found.step, levels, rtol=2**-22, atol=0)


def squared_error(encoded: Encoded, w: Tensor, levels: Tensor) -> float:
    """Mean squared error when `levels` take the place of the format's, codes and scales unchanged."""
    return float((replace(encoded, levels=levels.float()).dequantize() - w).double().square().mean())


def nearest_8_bits(levels: Tensor, codes: Tensor) -> Tensor:
    """Levels as whole parts, up to 127, of the largest: those of least squared distance over the codes in use."""
    ratios = (levels / levels.abs().max()).double()
    share = torch.bincount(codes.flatten().long(), minlength=len(levels)).double()
    n = torch.arange(8 * 64, 8 * 127 + 1).double()[:, None] / 8
    rounded = (ratios * n).round() / n
    best = int(((rounded - ratios).square() @ share).argmin())
    return rounded[best] * levels.abs().max()


@pytest.mark.parametrize(
    "text",
    [f"{head}-b64" for head in HEADS if "int" not in head] + ["nf5-row", "nf5-b16", "log6-row", "mxfp6", "mxfp8", "mxfp8e5m2"],
)
def test_8_bits_where_they_add_less_than_a_hundredth_to_the_error_of_gaussian_weights(text):
    """Weights are drawn and encoded; the rule knows neither, so what it predicts is allowed a fifth."""
    w = weights(256, 1024, seed=1)
    encoded = encode(w, parse(text))
    found = integer_levels(encoded.fmt, encoded.levels)
    error = squared_error(encoded, w, encoded.levels)
    growth = squared_error(encoded, w, found.values * found.step) / error - 1
    if found.bits == 8:
        assert growth < 0.01 * 1.2
    else:
        assert abs(growth) < 2e-4
        assert squared_error(encoded, w, nearest_8_bits(encoded.levels, encoded.codes)) / error - 1 > 0.01 / 1.2


@pytest.mark.parametrize("head", FIXED)
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("option", ["", "-e8m0"])
def test_no_listed_codebook_is_so_near_the_limit_that_the_order_of_a_sum_could_change_its_bits(head, block, option):
    fmt = parse(f"{head}-{block}{option}")
    ratios = (fmt.levels() / fmt.levels().abs().max()).double().numpy()
    use = GaussianWeights.of(ratios, block_end(fmt, fmt.levels()) / float(fmt.levels().abs().max()), fmt.block or 1024)
    n = nearest_steps(ratios, use.share, 127)
    assert abs(use.growth(np.rint(ratios * n) / n) - 0.01) > 1e-6  # the order of additions changes it by 1e-13


def test_the_page_of_formats_names_those_that_need_16_bits():
    text = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    named = re.search(r"these need 16 bits: ([\w ]+), and most", text)
    assert named
    assert named[1].split() == [
        head for head in FIXED if integer_levels(parse(f"{head}-b64"), levels_of(f"{head}-b64")).bits == 16
    ]


@pytest.mark.parametrize("block", [16, 64, 1024])
def test_the_gaussian_is_that_of_scipy(block):
    mass, cut = gaussian(block)
    end = norm.isf(1 / (4 * block))  # half a weight of a block lies beyond +-end
    edges = (np.arange(2 * cut) - cut + 0.5) * (end / cut)
    np.testing.assert_allclose(mass, np.diff(norm.cdf(edges), prepend=0, append=1), rtol=0.01)  # the end is the next point
    assert mass.sum() == pytest.approx(1)


@pytest.mark.parametrize(
    ("levels", "values", "step"),
    [
        ([0.0], [0], 1.0),
        ([0.7], [1], float(np.float32(0.7))),
        ([-3e38, 0.0, 1.5e38], [-2, 0, 1], float(np.float32(1.5e38))),
        ([2.0**-149, 3 * 2.0**-149], [1, 3], 2.0**-149),
    ],
)
def test_levels_at_the_edges_of_float32(levels, values, step):
    found = integer_levels(parse("kmeans2-b64"), torch.tensor(levels))
    assert (found.values.tolist(), found.step, found.bits) == (values, step, 8)


@pytest.mark.parametrize("size", [2.0**-149, 2.0**-140, 2.0**-120, 1e-20, 1e20, 3e38])
@pytest.mark.parametrize("n_levels", [2, 7, 100, 256])
def test_random_levels_of_any_size(size, n_levels):
    generator = torch.Generator().manual_seed(n_levels)
    levels = ((torch.rand(n_levels, generator=generator) * 2 - 1) * size).unique()
    found = integer_levels(parse("kmeans8-b64"), levels)
    assert found.step > 0
    assert int(found.values.abs().max()) <= LIMITS[found.bits]
    assert bool((found.values.diff() >= 0).all())


def test_every_machine_finds_the_same():
    """A digest, since integer products must have the same bits everywhere."""
    found = [
        integer_levels(parse(f"{head}-{block}"), parse(f"{head}-{block}").levels()) for head in heads("fp") for block in BLOCKS
    ]
    for k in range(2, 9):  # whole numbers without a pattern, divided by a power of two
        levels = torch.tensor(sorted({(i * i * 7919 + i * 104729) % 65521 - 30000 for i in range(2**k)})).float() / 65536
        found += [integer_levels(parse(f"kmeans{k}-{block}"), levels) for block in BLOCKS]
    text = repr([(levels.values.tolist(), levels.step, levels.bits) for levels in found])
    assert {levels.bits for levels in found} == {8, 16}
    assert hashlib.sha256(text.encode()).hexdigest() == "dfb7c307abb589c31cb9af5744bbd798b85132913909cc955150b855395c36b5"
