"""The nearest level, against the definition without a short cut; and ties."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.formats import Format
from kbit.formats.nearest import Cells, cell_bounds, nearest
from tests.formats.examples import HEADS, parse

FIXED = [head for head in HEADS if not head.startswith(("kmeans", "quantile"))]


@pytest.mark.parametrize("head", FIXED)
def test_the_look_up_agrees_with_the_binary_search_at_every_bound(head):
    levels = parse(f"{head}-b64").levels()
    bounds = cell_bounds(levels)
    infinity = torch.tensor(torch.inf)
    x = torch.cat(
        [bounds, torch.nextafter(bounds, infinity), torch.nextafter(bounds, -infinity), levels, -levels, torch.randn(999)]
    )
    x = torch.cat([x, torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 1e-45, -1e-45, 3.4e38, -3.4e38])])
    assert torch.equal(nearest(x, levels).long(), torch.searchsorted(bounds, x))


@given(st.integers(0, 10**6), st.integers(1, 256), st.sampled_from([1e-30, 1e-3, 1.0, 1e30]), st.booleans())
@settings(max_examples=200, deadline=None)
def test_every_value_takes_its_nearest_level(seed, n_levels, size, near):
    """near: levels so close that several share the upper half of their bits, which the look-up cannot tell apart."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.randn(n_levels, generator=generator)
    levels = ((1 + levels * 1e-4 if near else levels) * size).unique()
    x = torch.cat([torch.randn(300, generator=generator) * size * 1.5, levels])
    distance = (x.double()[:, None] - levels.double()).abs()
    found = distance.gather(1, nearest(x, levels).long()[:, None])[:, 0]
    assert torch.equal(found, distance.amin(1))


@pytest.mark.parametrize(
    ("text", "x", "expected"),
    [
        ("int4-b64", [0.5, 1.5, 2.5, -0.5, -1.5, -2.5], [0, 2, 2, 0, -2, -2]),
        ("int2-b64", [0.5, -0.5], [0, 0]),
        ("fp4e2m1-b32-e8m0", [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, -0.25, -0.75, -5], [0, 1, 1, 2, 2, 4, 4, 0, -1, -4]),
        ("log2-b64", [0.0, -0.0, 0.75, -0.75], [0.5, 0.5, 0.5, -1.0]),
        ("binary-b64", [0.0, -0.0], [1, 1]),
        ("ternary-b64", [0.5, -0.5], [0, 0]),
    ],
)
def test_a_tie_takes_the_even_neighbour(text, x, expected):
    levels = Format.parse(text).levels()
    assert levels[nearest(torch.tensor(x), levels).long()].tolist() == expected


@pytest.mark.parametrize(("text", "dtype"), [("fp8e4m3-b32-e8m0", torch.float8_e4m3fn), ("fp8e5m2-b32-e8m0", torch.float8_e5m2)])
def test_8_bit_floats_round_as_torch_casts(text, dtype):
    levels = Format.parse(text).levels()
    every_bfloat16 = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.bfloat16).float()
    x = every_bfloat16[every_bfloat16.abs() <= levels[-1]]
    assert torch.equal(levels[nearest(x, levels).long()], x.to(dtype).float())


def test_one_level_takes_everything():
    assert nearest(torch.tensor([-5.0, 0.0, 5.0]), torch.tensor([2.0])).tolist() == [0, 0, 0]


def test_gaps_between_levels():
    gaps = Cells.between(torch.tensor([-1.0, 0.0, 2.0, 3.0]))
    assert gaps.codes(torch.tensor([-1.0, -0.5, 0.0, 0.1, 2.0, 2.5, 3.0])).tolist() == [0, 0, 0, 1, 1, 2, 2]
