"""The weighted least squares of one law through one set of runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.optimize import least_squares

from kbit.errors import LawError
from kbit.laws.forms import Points, Sketch
from kbit.laws.layout import Layout
from kbit.laws.noise import Noise, covariance, estimate_noise
from kbit.laws.runs import Runs

FLOORS = (0.5, 0.8, 0.95)  # starts: E at these shares of the lowest loss
FIRST_NOISE = Noise(luck=0.005, luck_freedom=float("inf"), misfit=0.1)
ROUNDS = 2  # fit, estimate the noise, fit again with its weights
SINGULAR = 1e-7  # smallest over largest singular value below which a fit does not determine its parameters
TOLERANCE = 1e-6  # relative; the noise is a thousand times that
INSIDE = 1e-9  # least_squares may not start on a bound


@dataclass(frozen=True)
class Problem:
    """Find theta so that layout.loss(theta, runs) is near runs.loss, in the metric of the noise."""

    layout: Layout
    runs: Runs
    noise: Noise

    @cached_property
    def at(self) -> Points:
        """The points of the runs."""
        return self.layout.points(self.runs.N, self.runs.D, self.runs.format, self.runs.T)

    @cached_property
    def root(self) -> np.ndarray:
        """W (runs, runs) with W covariance W^T = 1."""
        return np.linalg.inv(np.linalg.cholesky(covariance(self.runs, self.noise)))

    def residuals(self, theta: np.ndarray) -> np.ndarray:
        """Measured less predicted losses, nats."""
        return self.runs.loss - self.layout.loss(theta, self.at)

    def squares(self, theta: np.ndarray) -> float:
        """Weighted sum of squared residuals."""
        weighted = self.root @ self.residuals(theta)
        return float(weighted @ weighted)

    def minimize(self, start: np.ndarray, losses: np.ndarray | None = None, evaluations: int = 200) -> np.ndarray:
        """Parameters of least weighted squares from one start; `losses` instead of those of the runs, where given."""
        target = self.root @ (self.runs.loss if losses is None else losses)
        low, high = self.layout.bounds()
        found = least_squares(
            lambda theta: self.root @ self.layout.loss(theta, self.at) - target,
            np.clip(start, low + INSIDE, high - INSIDE),
            jac=lambda theta: self.root @ self.layout.jacobian(theta, self.at),
            bounds=(low, high),
            x_scale="jac",
            ftol=TOLERANCE,
            xtol=TOLERANCE,
            gtol=TOLERANCE,
            max_nfev=evaluations,
        )
        return np.asarray(found.x)

    def starts(self) -> list[np.ndarray]:
        """One start for each guess of E."""
        kept = self.runs.take(~self.runs.quantized) if (~self.runs.quantized).any() else self.runs
        lowest = [kept.loss[kept.N == N].min() for N in kept.sizes]
        middle = float(np.interp(np.log(self.layout.N0), np.log(kept.sizes), lowest))
        rough = self.runs.penalty[self.runs.quantized] * 4.0 ** (self.runs.k[self.runs.quantized] - 4)
        cost = float(np.clip(np.median(rough), 1e-3, 1.0))
        return [self.layout.start(Sketch(share * float(self.runs.loss.min()), middle, cost)) for share in FLOORS]

    def check_determined(self, theta: np.ndarray) -> None:
        """Refuse a fit some direction of whose parameters the runs say nothing about, naming the parameters in it."""
        jacobian = self.root @ self.layout.jacobian(theta, self.at)
        norms = np.linalg.norm(jacobian, axis=0)
        names = np.array(self.layout.names)
        form, mend = self.layout.form, "Measure more sizes, or choose another form."
        if (norms == 0).any():
            raise LawError(f"the runs say nothing about {', '.join(names[norms == 0])} of the {form} law. {mend}")
        _, values, directions = np.linalg.svd(jacobian / norms, full_matrices=False)
        if values[-1] < SINGULAR * values[0]:
            mixed = names[np.abs(directions[-1]) > 0.3]
            raise LawError(f"the runs cannot tell {', '.join(mixed)} of the {form} law apart. {mend}")


def first_problem(layout: Layout, runs: Runs, luck: float | None = None) -> Problem:
    """The problem with the noise one expects before any fit."""
    return Problem(layout, runs, FIRST_NOISE if luck is None else replace(FIRST_NOISE, luck=luck))


def solve(layout: Layout, runs: Runs, luck: float | None = None) -> tuple[Problem, np.ndarray]:
    """The problem with the noise that its own residuals show, and the best of its parameters over several starts."""
    problem = first_problem(layout, runs, luck)
    theta = min((problem.minimize(start) for start in problem.starts()), key=problem.squares)
    base_parameters = 5 if layout.has_data else 3  # E, A, alpha, B, beta
    for _ in range(ROUNDS):
        noise = estimate_noise(runs, problem.residuals(theta), base_parameters, len(layout.names) - base_parameters, luck)
        problem = Problem(layout, runs, noise)
        theta = problem.minimize(theta)
    problem.check_determined(theta)
    return problem, theta
