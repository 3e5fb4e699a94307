"""Ranking at equal bits, on lines whose order is known."""

from __future__ import annotations

import numpy as np
import pytest

from kbit.report.compare import standings


def line(bits, losses, *, noise=0.01, windows=64, seed=0):
    """Runs whose mean losses are exactly these, in bits per byte; their windows differ by the same noise for every seed alike."""
    own = np.random.default_rng(seed).normal(0, noise, (len(bits), windows))
    own -= own.mean(axis=1, keepdims=True)
    rows = {"bits": np.array(bits, dtype=float), "loss": np.array(losses, dtype=float)}
    rows["bits_per_byte"] = rows["loss"].copy()
    rows["window_losses"] = np.empty(len(bits), dtype=object)
    rows["window_losses"][:] = list(own + rows["loss"][:, None])
    return rows


def test_the_lower_line_is_first_and_the_distance_is_the_mean_between_the_lines():
    first, second = standings({"worse": line([1, 10, 100], [3.1, 2.1, 1.1]), "better": line([1, 10, 100], [3, 2, 1], seed=1)})
    assert (first.name, first.behind) == ("better", 0)
    assert second.behind == pytest.approx(0.1)
    assert second.low < 0.1 < second.high
    assert first.probability > 0.99
    assert first.probability + second.probability == pytest.approx(1)


def test_bits_are_paid_for():
    # The same losses at twice the bits lie log(2) / log(10) of a unit higher at equal bits.
    first, second = standings({"cheap": line([1, 10, 100], [3, 2, 1]), "dear": line([2, 20, 200], [3, 2, 1])})
    assert first.name == "cheap"
    assert second.behind == pytest.approx(np.log10(2))


def test_equal_lines_are_too_close_to_call():
    found = standings({"a": line([1, 10], [2, 1], seed=1), "b": line([1, 10], [2, 1], seed=2)})
    assert 0.2 < found[0].probability < 0.8


def test_the_answer_depends_on_the_seed_alone():
    groups = {"a": line([1, 10], [2, 1.001], seed=1), "b": line([1, 10], [2, 1], seed=2)}
    assert standings(groups, seed=3) == standings(groups, seed=3)


@pytest.mark.parametrize(
    "other",
    [line([5], [1.5]), line([100, 1000], [0.5, 0.4]), line([1, 10], [2, 1], windows=8), line([1, 10], [2, np.inf])],
    ids=["one size", "no budget in common", "other windows", "not finite"],
)
def test_lines_that_cannot_be_compared_are_not_ranked(other):
    assert standings({"a": line([1, 10], [2, 1]), "other": other}) == []
