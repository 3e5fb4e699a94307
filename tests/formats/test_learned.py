"""K-means against the exact optimum found another way and published errors of the Gaussian; quantiles by their definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.formats import CODEBOOKS
from kbit.formats.learned import kmeans_levels, quantile_levels
from kbit.formats.nearest import nearest
from tests.formats.examples import heads, parse

LLOYD_MAX_GAUSSIAN = {1: 0.3634, 2: 0.1175, 3: 0.03454, 4: 0.009497}  # Max 1960, table I


def error(x: torch.Tensor, levels: torch.Tensor, weights: torch.Tensor | None = None) -> float:
    distance = (x.double()[:, None] - levels.double()).abs().amin(1)
    return float((distance.square() * (1 if weights is None else weights)).sum())


def exact_error(x: torch.Tensor, n_levels: int, weights: torch.Tensor | None = None) -> float:
    """Least squared error of n_levels by the plain quadratic programme over sorted points, in plain words."""
    order = x.double().argsort()
    points = x.double()[order].numpy()
    mass = np.ones(len(points)) if weights is None else weights.double()[order].numpy()
    n = len(points)
    cost = np.zeros((n + 1, n + 1))
    for i in range(n):
        sums = np.cumsum([mass[i:], mass[i:] * points[i:], mass[i:] * points[i:] ** 2], axis=1)
        cost[i, i + 1 :] = sums[2] - sums[1] ** 2 / sums[0]
    best = cost[0].copy()
    for _ in range(n_levels - 1):
        best = np.array([min(best[i] + cost[i, j] for i in range(j + 1)) for j in range(n + 1)])
    return float(best[n])


@given(st.integers(0, 10**6), st.integers(2, 60), st.integers(1, 4), st.sampled_from(["gauss", "heavy", "few", "weighted"]))
@settings(max_examples=60, deadline=None)
def test_kmeans_is_the_exact_optimum_on_small_tensors(seed, n, k, kind):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, generator=generator)
    x = {"gauss": x, "heavy": x**5, "few": x.round(), "weighted": x}[kind]
    weights = torch.rand(n, generator=generator) + 0.01 if kind == "weighted" else None
    levels = kmeans_levels(k, x, weights)
    assert len(levels) <= 2**k
    assert bool((levels.diff() > 0).all())
    optimum = exact_error(x, 2**k, weights)
    assert error(x, levels, weights) <= optimum * 1.001 + 1e-9 * float(x.square().sum())


@pytest.mark.parametrize("k", range(1, 5))
def test_kmeans_reaches_the_published_error_of_a_gaussian(k):
    probabilities = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    x = torch.special.ndtri(probabilities).float()  # a Gaussian without noise
    levels = kmeans_levels(k, x)
    found = (x - levels[nearest(x, levels).long()]).square().mean().item()
    assert found == pytest.approx(LLOYD_MAX_GAUSSIAN[k], rel=2e-3)


@pytest.mark.parametrize("k", range(1, 9))
def test_kmeans_is_below_every_fixed_codebook_of_that_k(k):
    x = torch.randn(4000, generator=torch.Generator().manual_seed(k))
    x = x / x.abs().max()
    mine = error(x, kmeans_levels(k, x))
    for name in CODEBOOKS:
        for head in heads(name):
            fmt = parse(f"{head}-b64")
            if fmt.k == k and not fmt.learned:
                levels = fmt.levels()
                for ratio in (1.0, 0.7, 0.5, 0.3):
                    assert mine <= error(x, levels / levels.abs().max() * ratio) * 1.0001


@pytest.mark.parametrize("n", [5_000, 100_000])
def test_kmeans_of_many_values_is_a_fixed_point(n):
    """Where values outnumber those that are solved exactly, no step of Lloyd's helps any more."""
    x = torch.randn(n, generator=torch.Generator().manual_seed(1)) ** 3
    levels = kmeans_levels(4, x)
    codes = nearest(x, levels).long()
    means = torch.zeros(16).double().scatter_add_(0, codes, x.double()) / torch.bincount(codes, minlength=16)
    assert error(x, means.float()) >= error(x, levels) * 0.999


@pytest.mark.parametrize("k", range(1, 7))
def test_quantiles_use_every_code_as_often(k):
    x = torch.randn(2**k * 500, generator=torch.Generator().manual_seed(k)).exp()
    levels = quantile_levels(k, x)
    middle = (torch.arange(2**k, dtype=torch.float64) + 0.5) / 2**k
    expected = torch.from_numpy(np.quantile(x.double().numpy(), middle.numpy(), method="hazen")).float()
    torch.testing.assert_close(levels, expected)


@pytest.mark.parametrize("learn", [kmeans_levels, quantile_levels])
def test_few_distinct_values_make_few_levels(learn):
    assert learn(3, torch.tensor([2.0, 2.0, 2.0])).tolist() == [2.0]
    assert learn(3, torch.zeros(5)).tolist() == [0.0]
    assert learn(3, torch.tensor([1.0, 2.0]), torch.zeros(2)).tolist() == [0.0]


def test_distinct_values_up_to_the_number_of_levels_are_the_levels():
    x = torch.tensor([3.0, -1.0, 0.5, 3.0, -1.0])
    assert kmeans_levels(2, x).tolist() == [-1.0, 0.5, 3.0]
