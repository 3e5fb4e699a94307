"""Estimates over the windows of a text, each with its standard error: means by window, quantiles by bootstrap over windows."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan
from typing import NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """A value and its standard error (nan where there is but one window, or no error is stated)."""

    value: float
    stderr: float = nan

    def exp(self) -> Estimate:
        """exp(value); the error by the delta method, as llama-perplexity propagates it."""
        value = float(np.exp(self.value))
        return Estimate(value, value * self.stderr)

    def scaled(self, factor: float) -> Estimate:
        """Value and error times a positive factor."""
        return Estimate(self.value * factor, self.stderr * factor)

    def root(self) -> Estimate:
        """sqrt(value), the error by the delta method; 0 has the error 0."""
        value = float(np.sqrt(self.value))
        return Estimate(value, 0.5 / value * self.stderr if value else self.stderr)


def ratio(sums: np.ndarray, sizes: np.ndarray) -> Estimate:
    """sum(sums) / sum(sizes), as a mean per token or per byte over windows of unlike sizes.

    sums, sizes: (windows,). The error is that of the ratio estimator (Cochran 1977, 6.4): windows are the sample, since the
    tokens in one depend on each other; for equal sizes it is the standard deviation of the windows' means / sqrt(windows).
    """
    n, total = len(sums), float(sizes.sum())
    value = float(sums.sum()) / total
    if n < 2:
        return Estimate(value)
    rest = sums - value * sizes
    return Estimate(value, float(np.sqrt(n / (n - 1) * (rest**2).sum()) / total))


def bootstrap_counts(windows: int, resamples: int, seed: int) -> np.ndarray:
    """int64 (resamples, windows): how often each window is drawn when as many as there are are drawn with replacement."""
    draws = np.random.default_rng(seed)
    return draws.multinomial(windows, np.full(windows, 1 / windows), size=resamples)


def quantiles(values: np.ndarray, windows: np.ndarray, fractions: Sequence[float], counts: np.ndarray) -> list[Estimate]:
    """Quantiles of `values` (linear between neighbours, NumPy's default and llama-perplexity's), errors by bootstrap.

    values: (tokens,); windows: (tokens,) int, the window of each; counts: of bootstrap_counts. A resample takes whole windows.
    """
    order = np.argsort(values, kind="stable")
    ordered, of_window = values[order], windows[order]
    found = np.quantile(ordered, fractions)
    if counts.shape[1] < 2:
        return [Estimate(float(value)) for value in found]
    resampled = np.empty((len(counts), len(fractions)))
    for row, count in zip(resampled, counts, strict=True):
        upto = np.cumsum(count[of_window])  # values[i] stands at the ranks upto[i - 1] .. upto[i] - 1 of the resample
        rank = np.asarray(fractions) * (upto[-1] - 1)
        below, above = (ordered[np.searchsorted(upto, np.floor(r), side="right")] for r in (rank, np.ceil(rank)))
        row[:] = below + (rank - np.floor(rank)) * (above - below)
    return [Estimate(float(value), float(error)) for value, error in zip(found, resampled.std(0, ddof=1), strict=True)]
