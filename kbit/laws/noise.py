"""What is uncertain in a run's loss: the text (its windows), the luck of a training, and how exactly a law can hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kbit.laws.runs import Runs

SMALLEST = 1e-4  # nats: no loss is taken to be known better, whatever its windows say
LEAST_LUCK = 0.002  # nats: two trainings of one model hardly ever agree better; a few residuals may by chance
INFINITE = float("inf")


@dataclass(frozen=True)
class Noise:
    """Standard deviations in nats, and of how many degrees of freedom the luck was estimated.

    luck: between two trainings of one size. misfit: of a format's cost around the law, relative to the cost.
    """

    luck: float
    luck_freedom: float
    misfit: float


def resample_windows(runs: Runs, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Losses (draws, runs) had the text been another: every run of a draw sees the same resampled windows, as all read one text.

    Without windows the standard errors stand in for them, independently.
    """
    windows = runs.windows.shape[1]
    if windows < 2:
        return runs.loss + rng.normal(size=(draws, len(runs))) * runs.loss_stderr
    share = rng.multinomial(windows, np.full(windows, 1 / windows), size=draws) / windows
    return runs.loss + (share - 1 / windows) @ runs.windows.T


def resample(runs: Runs, noise: Noise, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Losses (draws, runs) had the text, the luck of each training and the law's misfit been others.

    The luck's size is itself known from few trainings, so each draw takes one from the chi-square distribution of its estimate.
    """
    _, model = np.unique(runs.model, return_inverse=True)
    luck = noise.luck * rng.normal(size=(draws, model.max() + 1))
    if np.isfinite(noise.luck_freedom):
        luck *= np.sqrt(noise.luck_freedom / rng.chisquare(noise.luck_freedom, size=(draws, 1)))
    misfit = noise.misfit * np.maximum(runs.penalty, 0) * runs.quantized * rng.normal(size=(draws, len(runs)))
    return resample_windows(runs, draws, rng) + luck[:, model] + misfit


def paired_stderr(runs: Runs) -> np.ndarray:
    """Standard error of each run's loss less its model's mean loss over formats: the text's difficulty cancels, (runs,)."""
    windows = runs.windows.shape[1]
    if windows < 2:
        return runs.loss_stderr
    out = np.empty(len(runs))
    for model in np.unique(runs.model):
        rows = runs.model == model
        own = runs.windows[rows] - runs.windows[rows].mean(0)
        out[rows] = own.std(1, ddof=1) / windows**0.5
    return out


def taste_stderr(runs: Runs) -> float:
    """Standard error of a model's mean loss less that of all models: what the choice of the text does to the order of models."""
    windows, models = runs.windows.shape[1], np.unique(runs.model)
    if windows < 2 or len(models) < 2:
        return 0.0
    means = np.stack([runs.windows[runs.model == model].mean(0) for model in models])
    return float(np.sqrt(((means - means.mean(0)).var(1, ddof=1) / windows).mean()))


def covariance(runs: Runs, noise: Noise) -> np.ndarray:
    """Covariance (runs, runs) of the losses around a law: runs of one model share its luck, and each has an error of its own.

    What all runs share (how hard the text is) is left out: it is E's, and the resampled windows carry it into the intervals.
    """
    own = paired_stderr(runs) ** 2 + (noise.misfit * np.maximum(runs.penalty, 0) * runs.quantized) ** 2 + SMALLEST**2
    shared = taste_stderr(runs) ** 2 + noise.luck**2
    return np.diag(own) + shared * (runs.model[:, None] == runs.model[None, :])


def luck_of_seeds(runs: Runs) -> tuple[float, int]:
    """Sum of squares, and its degrees of freedom, of the losses of models that differ in their seed alone."""
    squares, freedom = 0.0, 0
    baseline = runs.take(~runs.quantized) if (~runs.quantized).any() else runs
    for N, D in {(N, D) for N, D in zip(baseline.N, np.nan_to_num(baseline.D), strict=True)}:
        rows = (baseline.N == N) & (np.nan_to_num(baseline.D) == D)
        losses = np.array([baseline.loss[rows & (baseline.model == model)].mean() for model in np.unique(baseline.model[rows])])
        squares += float(((losses - losses.mean()) ** 2).sum())
        freedom += len(losses) - 1
    return squares, freedom


def estimate_noise(runs: Runs, residuals: np.ndarray, base_parameters: int, cost_parameters: int, luck: float | None) -> Noise:
    """Noise that explains the residuals (runs,) of a fit: what a model's runs share is luck, the rest is the law's misfit.

    The text's part of what is shared is taken off. luck, where given, is taken as known.
    """
    names = np.unique(runs.model)
    weight = 1 / (paired_stderr(runs) ** 2 + (0.1 * np.maximum(runs.penalty, 0)) ** 2 + SMALLEST**2)
    shared = np.array([np.average(residuals[runs.model == name], weights=weight[runs.model == name]) for name in names])
    own = residuals - shared[np.searchsorted(names, runs.model)]
    freedom = INFINITE
    if luck is None:
        squares, count = float((shared**2).sum()), len(names) - base_parameters
        if count < 1:  # the law goes through every model: only seeds tell
            squares, count = luck_of_seeds(runs)
        luck = float(np.sqrt(max(squares / count - taste_stderr(runs) ** 2, 0))) if count else 0.0
        luck = max(luck, LEAST_LUCK)
        freedom = count or INFINITE
    error = paired_stderr(runs)
    clear = runs.quantized & (runs.penalty > np.maximum(5 * error, 10 * SMALLEST))  # costs that stand out from the noise
    if not clear.any():
        return Noise(luck, freedom, 0.0)
    relative = (own[clear] ** 2 - error[clear] ** 2) / runs.penalty[clear] ** 2
    inflate = len(runs) / max(len(runs) - cost_parameters - len(names), 1)
    return Noise(luck, freedom, float(np.sqrt(np.clip(relative.mean() * inflate, 0, 0.25))))
