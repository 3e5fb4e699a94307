"""What every codebook must be, the listed ones and those to come."""

from __future__ import annotations

import pytest
import torch

from kbit.formats import CODEBOOKS, Format, encode, nearest
from tests.formats.examples import heads, parse, weights

HEADS = [(name, head) for name in CODEBOOKS for head in heads(name)]
FIXED = [(name, head) for name, head in HEADS if not CODEBOOKS[name].learned]


@pytest.mark.parametrize(("name", "head"), HEADS)
def test_it_parses_prints_and_knows_its_k(name, head):
    fmt = parse(f"{head}-b64")
    assert fmt.codebook == name
    assert fmt.k in CODEBOOKS[name].ks
    assert Format.parse(str(fmt)) == fmt
    assert fmt.learned == CODEBOOKS[name].learned
    assert CODEBOOKS[name].cite


@pytest.mark.parametrize("name", CODEBOOKS)
def test_it_exists_for_every_k_that_it_lists_and_no_other(name):
    assert {parse(f"{head}-b64").k for head in heads(name) if name != "table"} <= set(CODEBOOKS[name].ks)
    assert set(CODEBOOKS[name].ks) <= set(range(1, 9))


@pytest.mark.parametrize(("name", "head"), FIXED)
@pytest.mark.parametrize("option", ["", "-s8", "-i8", "-e8m0", "-e4m3", "-center"])
def test_levels_are_float32_ascending_and_fit_k_bits(name, head, option):
    fmt = parse(f"{head}-b64{option}")
    levels = fmt.levels()
    assert levels.dtype == torch.float32
    assert levels.dim() == 1
    assert bool(levels.isfinite().all())
    assert bool((levels.diff() > 0).all())
    assert 2 ** (fmt.k - 1) < len(levels) <= 2**fmt.k  # so k is ceil(log2 n_levels)


@pytest.mark.parametrize(("name", "head"), FIXED)
def test_levels_are_whole_steps_or_reach_to_one(name, head):
    levels = parse(f"{head}-b64").levels()
    if name == "int":
        assert torch.equal(levels, levels.round())
    else:
        assert levels.abs().max() == 1


@pytest.mark.parametrize(("name", "head"), HEADS)
@pytest.mark.parametrize("kind", ["gauss", "heavy"])
def test_a_weight_takes_its_nearest_level_and_comes_back(name, head, kind):
    fmt = parse(f"{head}-b32")
    w = weights(4, 96, seed=fmt.k, kind=kind)
    encoded = encode(w, fmt)
    x = w.reshape(4, 3, 32).double()
    values = encoded.levels.double() * encoded.scale.double()[..., None]  # (4, 3, n_levels)
    best = (x[..., None] - values[:, :, None, :]).abs().amin(-1).reshape(4, 96)
    error = (encoded.dequantize().double() - w.double()).abs()
    assert bool((error <= best + 1e-6 * values.abs().max()).all())
    assert bool((encoded.levels.diff() > 0).all())
    assert int(encoded.codes.max()) < len(encoded.levels) <= 2**fmt.k


@pytest.mark.parametrize(("name", "head"), FIXED)
def test_a_level_is_its_own_nearest(name, head):
    levels = parse(f"{head}-b64").levels()
    assert nearest(levels, levels).tolist() == list(range(len(levels)))


@pytest.mark.parametrize("name", CODEBOOKS)
def test_more_bits_are_never_worse(name):
    w = weights(16, 256)
    previous = float("inf")
    for head in heads(name) if name not in ("fp", "table") else []:
        error = float((encode(w, parse(f"{head}-b64")).dequantize() - w).double().square().mean())
        limit = 1.25 if name == "log" else 1.0  # from k = 4 to 5 log halves its range and gains between its levels alone
        assert error <= previous * limit, head
        previous = error
