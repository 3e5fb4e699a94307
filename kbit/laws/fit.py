"""Fit a law to runs: weighted least squares from several starts, intervals by bootstrap, the form by cross-validation."""

from __future__ import annotations

from typing import Unpack

import numpy as np
from threadpoolctl import threadpool_limits

from kbit.errors import LawError
from kbit.laws.forms import FORMS
from kbit.laws.law import Estimate, Law, Trial
from kbit.laws.layout import MINIMUM_SIZES, lay_out
from kbit.laws.noise import resample
from kbit.laws.problem import first_problem, solve
from kbit.laws.runs import Runs, Slice, Table, choose_slice, prepare

DRAW_EVALUATIONS = 25  # a resample starts at the fit
AS_GOOD = 1.05  # forms whose errors differ by less are equally good
MOST_PARAMETERS = 48  # of the forms that are compared: one with parameters for each of many formats takes minutes and says little
SMALLEST_COST = 0.005  # nats: relative errors of costs below it are taken relative to it


def fit(
    table: Table,
    form: str = "best",
    *,
    bootstrap: int = 200,
    confidence: float = 0.95,
    luck: float | None = None,
    seed: int = 0,
    **slice_: Unpack[Slice],
) -> Law:
    """The law of this form through the runs of one family, protocol, embeddings and method (`slice_`; see choose_slice).

    form: a name in FORMS, or "best", the one that predicts sizes left out of the fit best.
    bootstrap: resamples of windows, trainings and misfit, which give the intervals their ends.
    luck: standard deviation in nats between two trainings of one size, where it is known; else the models' residuals tell.
    Raises LawError where the runs do not determine the parameters, with what is missing.
    """
    chosen_table, chosen = choose_slice(table, **slice_)
    runs = prepare(chosen_table)
    with threadpool_limits(limits=1, user_api="blas"):  # matrices of a few hundred rows: BLAS threads made a fit 7 times slower
        if form == "best":
            trials = compare(runs, luck)
            form = trials[0].form
        else:
            trials = (cross_validate(runs, form, luck),)
        layout, fitted = lay_out(runs, form)
        problem, theta = solve(layout, fitted, luck)
        resampled = resample(fitted, problem.noise, bootstrap, np.random.default_rng(seed))
        draws = np.array([problem.minimize(theta, losses, DRAW_EVALUATIONS) for losses in resampled])
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail], axis=0) if bootstrap else (np.full_like(theta, np.nan),) * 2
    at_bound = np.isclose(theta[None], np.stack(layout.bounds()), atol=1e-6).any(0)
    estimates = {
        name: Estimate(float(theta[i]), float(low[i]), float(high[i]), bool(at_bound[i])) for i, name in enumerate(layout.names)
    }
    return Law(
        layout=layout,
        estimates=estimates,
        theta=theta,
        draws=draws,
        confidence=confidence,
        noise=problem.noise,
        rms=rms([problem.residuals(theta)]),
        trials=trials,
        chosen=chosen,
        runs=runs,
        fitted=fitted,
    )


def compare(runs: Runs, luck: float | None = None) -> tuple[Trial, ...]:
    """Cross-validation of every form that the runs can determine, the best first.

    Forms that would have more than 48 parameters are left out (`fit` takes them by name), unless all have.
    Best: the least product of the two errors, so that neither the level of the loss nor the cost of a format decides alone; among
    forms whose products are within 5% of the least, the one with the fewest parameters.
    Raises the LawError of the first form where none can be fitted.
    """
    trials, refused, parameters = [], [], {}
    for form in FORMS:
        try:
            parameters[form] = len(lay_out(runs, form)[0].names)
        except LawError as error:
            refused.append(error)
    for form in [form for form, count in parameters.items() if count <= MOST_PARAMETERS] or parameters:
        try:
            trials.append(cross_validate(runs, form, luck))
        except LawError as error:
            refused.append(error)
    if not trials:
        raise refused[0]
    least = min(trial.loss_error * trial.cost_error for trial in trials)

    def place(trial: Trial) -> tuple[bool, float, float]:
        product = trial.loss_error * trial.cost_error
        as_good = product <= AS_GOOD * least
        return not as_good, trial.parameters if as_good else product, product

    return tuple(sorted(trials, key=place))


def cross_validate(runs: Runs, form: str, luck: float | None = None) -> Trial:
    """Errors of the form at each size when it is fitted to the others: of the loss in nats, of the cost relative to it."""
    layout, runs = lay_out(runs, form)
    loss_errors, cost_errors = [], []
    for N in runs.sizes:
        rest, held = runs.take(runs.N != N), runs.take(runs.N == N)
        part, rest = lay_out(rest, form, MINIMUM_SIZES - 1)
        problem = first_problem(part, rest, luck)
        theta = problem.minimize(problem.starts()[1])
        held = held.take(np.isin(held.format, [*part.k]))
        at = part.points(held.N, held.D if part.has_data else np.ones(len(held)), held.format, held.T)
        predicted = part.loss(theta, at)
        loss_errors.append(predicted - held.loss)
        cost = predicted - part.loss(theta, at.unquantized)
        relative = (cost - held.penalty) / np.maximum(held.penalty, SMALLEST_COST)
        cost_errors.append(relative[held.quantized])
    return Trial(form, rms(loss_errors), rms(cost_errors), len(layout.names))


def rms(parts: list[np.ndarray]) -> float:
    """Root of the mean square over all parts."""
    return float(np.sqrt((np.concatenate(parts) ** 2).mean()))
