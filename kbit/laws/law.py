"""A fitted law: its parameters with intervals, its predictions, and how it prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kbit.laws.layout import Layout
from kbit.laws.noise import Noise
from kbit.laws.runs import Runs, Slice
from kbit.laws.text import as_text, number

if TYPE_CHECKING:
    from rich.console import RenderableType

Sizes = np.ndarray | Sequence[float] | float


class Estimate(NamedTuple):
    """A parameter with the ends of its interval, and whether it lies at the edge of what is allowed."""

    value: float
    low: float
    high: float
    at_bound: bool


class Prediction(NamedTuple):
    """Losses in nats per token with the ends of their intervals, each (points,)."""

    loss: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Trial(NamedTuple):
    """How a form did at sizes that were left out: rms error of the loss in nats, and of the cost of a format relative to it."""

    form: str
    loss_error: float
    cost_error: float
    parameters: int


TERMS = {
    " t^rho": "rho",
    " - R": "R",
    " t^-tau": "tau",
    " d^delta": "delta",
    " + B d^-beta": "B",
}  # optional ones


@dataclass(frozen=True)
class Law:
    """loss = form(N, D, format) with the parameters `estimates`; `draws` (bootstrap, parameters) are its resamples.

    `runs` are the slice that was asked for (`chosen` says which), `fitted` those of them that the fit used.
    """

    layout: Layout
    estimates: dict[str, Estimate]
    theta: np.ndarray
    draws: np.ndarray
    confidence: float
    noise: Noise
    rms: float
    trials: tuple[Trial, ...]
    chosen: Slice
    runs: Runs
    fitted: Runs

    @property
    def form(self) -> str:
        """The name of its form in FORMS."""
        return self.layout.form

    @property
    def formula(self) -> str:
        """What it says, without the terms of D and T that it lacks."""
        text, parameters = self.layout.law.formula, self.layout.parameters
        for term, parameter in TERMS.items():
            text = text if parameter in parameters else text.replace(term, "")
        return text

    def predict(self, N: Sizes, format: str | Sequence[str], *, D: float | None = None) -> Prediction:
        """Loss of models of N linear weights at a format (one for all, or one each), trained on D tokens (default: the longest).

        The interval is the law's: it holds the text, the luck of the trainings it was fitted to and its misfit, not the luck of
        one more training. Raises LawError for a format that the law says nothing about.
        """
        losses = self.sample(N, format, D=D)
        tail = (1 - self.confidence) / 2
        if len(losses) == 1:
            return Prediction(losses[0], np.full_like(losses[0], np.nan), np.full_like(losses[0], np.nan))
        low, high = np.quantile(losses[1:], [tail, 1 - tail], axis=0)
        return Prediction(losses[0], low, high)

    def sample(self, N: Sizes, format: str | Sequence[str], *, D: float | None = None) -> np.ndarray:
        """Losses (1 + bootstrap, points): the fit's first, then those of every resample."""
        sizes = np.atleast_1d(np.asarray(N, dtype=float))
        formats = [format] * len(sizes) if isinstance(format, str) else list(format)
        tokens = np.full(len(sizes), D if D is not None else np.nanmax(self.fitted.D) if self.layout.has_data else 1.0)
        at = self.layout.points(sizes, tokens, formats)
        return self.layout.loss(np.concatenate([self.theta[None], self.draws.reshape(-1, len(self.theta))]), at)

    def to_json(self) -> dict[str, object]:
        """The law as plain values."""
        return {
            "form": self.form,
            "formula": self.formula,
            "cite": self.layout.law.cite,
            "parameters": {name: estimate._asdict() for name, estimate in self.estimates.items()},
            "confidence": self.confidence,
            "N0": self.layout.N0,
            "D0": self.layout.D0 if self.layout.has_data else None,
            "T0": self.layout.T0 if self.layout.has_training else None,
            "rms_nats": self.rms,
            "luck_nats": self.noise.luck,
            "misfit": self.noise.misfit,
            "runs": len(self.fitted),
            "sizes": len(self.fitted.sizes),
            "chosen": self.chosen,
            "cross_validation": [trial._asdict() for trial in self.trials],
        }

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table

        columns = ("parameter", "value", f"{self.confidence:.0%} interval", "what it is")
        table = Table(*columns, title=f"Law '{self.form}'", title_justify="left")
        for name, estimate in self.estimates.items():
            note = " (at its bound)" if estimate.at_bound else ""
            parameter = self.layout.parameters[name.partition("[")[0]]
            meaning = parameter.meaning if parameter.over == "" or name == first_of(self.estimates, name) else ""
            interval = f"{number(estimate.low)} to {number(estimate.high)}"
            table.add_row(name.replace("[", r"\["), number(estimate.value), interval, meaning + note)
        columns = ("form", "parameters", "error of loss, nats", "error of cost")
        forms = Table(*columns, title="Sizes left out in turn", title_justify="left")
        for trial in self.trials:
            forms.add_row(trial.form, str(trial.parameters), number(trial.loss_error), f"{trial.cost_error:.0%}")
        return Group(f"loss = {self.formula}".replace("[", r"\["), self.where, table, forms)

    @property
    def where(self) -> str:
        """What n and d are relative to, and how well the law holds."""
        tokens = f", d = D / {self.layout.D0:.3g}" if self.layout.has_data else ""
        trained = f", t = T / {self.layout.T0:.3g}" if self.layout.has_training else ""
        return (
            f"n = N / {self.layout.N0:.3g}{tokens}{trained}; {len(self.fitted)} runs of {len(self.fitted.sizes)} sizes, "
            f"residuals {number(self.rms)} nats; two trainings of one size differ by about {number(2**0.5 * self.noise.luck)}."
        )

    def __str__(self) -> str:
        return as_text(self)


def first_of(estimates: dict[str, Estimate], name: str) -> str:
    """The first parameter of name's stem."""
    stem = name.partition("[")[0]
    return next(other for other in estimates if other.partition("[")[0] == stem)
