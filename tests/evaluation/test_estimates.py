"""Standard errors over windows: closed forms where there are some, explicit resampling elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kbit.evaluation.estimates import Estimate, bootstrap_counts, quantiles, ratio


def test_a_mean_over_equal_windows_has_the_textbook_error() -> None:
    means = np.random.default_rng(0).normal(size=50)
    found = ratio(means * 7, np.full(50, 7))
    assert found.value == pytest.approx(means.mean(), rel=1e-14)
    assert found.stderr == pytest.approx(means.std(ddof=1) / math.sqrt(50), rel=1e-12)


def test_the_error_of_a_ratio_is_the_spread_over_repetitions() -> None:
    draw = np.random.default_rng(1)
    values, errors = [], []
    for _ in range(2000):
        sizes = draw.integers(50, 150, 40)
        sums = sizes * 2.5 + draw.normal(size=40) * np.sqrt(sizes)
        value, error = ratio(sums, sizes)
        values.append(value)
        errors.append(error)
    assert np.mean(values) == pytest.approx(2.5, abs=0.005)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(values), rel=0.06)


def test_one_window_has_no_error() -> None:
    assert math.isnan(ratio(np.array([3.0]), np.array([2])).stderr)
    (median,) = quantiles(np.arange(5.0), np.zeros(5, int), [0.5], bootstrap_counts(1, 10, 0))
    assert median.value == 2
    assert math.isnan(median.stderr)


def test_quantiles_and_their_errors_are_those_of_resampled_windows() -> None:
    draw = np.random.default_rng(2)
    windows = np.repeat(np.arange(9), draw.integers(3, 12, 9))
    values = draw.gamma(1.0, size=len(windows)).round(1)  # with ties
    counts = bootstrap_counts(9, 60, seed=3)
    assert (counts.sum(1) == 9).all()
    fractions = [0.001, 0.1, 0.5, 0.77, 0.999, 0.0, 1.0]
    found = quantiles(values, windows, fractions, counts)
    resampled = [
        np.quantile(np.concatenate([values[windows == w] for w in range(9) for _ in range(row[w])]), fractions) for row in counts
    ]
    assert [estimate.value for estimate in found] == pytest.approx(np.quantile(values, fractions))
    assert [estimate.stderr for estimate in found] == pytest.approx(np.std(resampled, axis=0, ddof=1))


def test_the_median_of_a_normal_has_the_error_of_theory() -> None:
    """sqrt(pi / 2n), for windows of one independent token each."""
    values = np.random.default_rng(4).normal(size=4000)
    (median,) = quantiles(values, np.arange(4000), [0.5], bootstrap_counts(4000, 400, seed=0))
    assert median.stderr == pytest.approx(math.sqrt(math.pi / 2 / 4000), rel=0.2)


def test_functions_of_an_estimate_carry_its_error() -> None:
    assert Estimate(2.0, 0.1).exp() == pytest.approx((math.e**2, math.e**2 * 0.1))
    assert Estimate(4.0, 0.1).root() == pytest.approx((2.0, 0.025))
    assert Estimate(0.0, 0.0).root() == (0.0, 0.0)
    assert Estimate(4.0, 0.1).scaled(100) == pytest.approx((400.0, 10.0))
