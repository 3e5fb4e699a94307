"""Which of several series is best at equal bits: interpolated lines, resampled windows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from kbit.report.runs import Table, bits_per_byte_of_nats

BUDGETS = 16  # evenly spaced in the logarithm of the bits that all series cover


@dataclass(frozen=True)
class Standing:
    """A series against the best of its group at equal bits: probability of being the best, and the loss it adds to it."""

    name: str
    probability: float
    behind: float
    low: float
    high: float


def standings(groups: Mapping[str, Table], *, resamples: int = 2000, seed: int = 0) -> list[Standing]:
    """The series of `groups` (name -> runs sorted by bits) in the order of their mean loss at equal bits, best first.

    Each line of loss against log bits is interpolated at BUDGETS budgets that all of them cover; the mean over these is
    linear in the losses of the windows, so the windows are resampled and the rest follows. `behind` is in bits per byte
    over the first, `low` and `high` end its 95% interval. Series of one size, or with a loss that is not finite, are left out;
    nothing is said where the windows differ or no budget is common to all.
    """
    lines = {name: rows for name, rows in groups.items() if len(np.unique(rows["bits"])) > 1 and np.isfinite(rows["loss"]).all()}
    counts = [len(losses) for rows in lines.values() for losses in rows["window_losses"]]
    if len(lines) < 2 or min(counts) != max(counts):
        return []
    low = max(rows["bits"].min() for rows in lines.values())
    high = min(rows["bits"].max() for rows in lines.values())
    if low >= high:
        return []
    budgets = np.geomspace(low, high, BUDGETS)
    windows = np.stack([_window_losses(rows, budgets) for rows in lines.values()])
    means = windows.mean(axis=1)
    order = np.argsort(means, kind="stable")
    picks = np.random.default_rng(seed).integers(0, windows.shape[1], (resamples, windows.shape[1]))
    sampled = windows[:, picks].mean(axis=2)
    best = np.bincount(sampled.argmin(axis=0), minlength=len(order)) / resamples
    behind = np.quantile(sampled - sampled[order[0]], (0.025, 0.975), axis=1)
    names = list(lines)
    return [
        Standing(names[i], float(best[i]), float(means[i] - means[order[0]]), float(behind[0, i]), float(behind[1, i]))
        for i in order
    ]


def _window_losses(rows: Table, budgets: np.ndarray) -> np.ndarray:
    """Mean over `budgets` of each window's interpolated loss, bits per byte: (windows,)."""
    x = np.log(rows["bits"])
    weights = np.stack([np.interp(np.log(budgets), x, unit) for unit in np.eye(len(x))])
    losses = np.stack(rows["window_losses"].tolist()) * bits_per_byte_of_nats(rows)[:, None]
    return weights.mean(axis=1) @ losses
