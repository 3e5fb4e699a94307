"""Which k is best at each size of memory: by interpolation between the measured sizes, and by a fitted law."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Unpack

import numpy as np

from kbit.errors import LawError
from kbit.laws.curves import Curve, curves, main_kind
from kbit.laws.law import Law
from kbit.laws.noise import INFINITE, Noise, luck_of_seeds, resample
from kbit.laws.runs import Runs, Slice, Table, choose_slice, prepare
from kbit.laws.text import as_text, number, size

if TYPE_CHECKING:
    from rich.console import RenderableType

ROUND = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
SURE = 0.9  # below this probability the runner-up is named too
MEASURED, EXTRAPOLATED = "measured", "extrapolated"


@dataclass(frozen=True)
class BestK:
    """The best k at each budget. Arrays of losses and probabilities are (budgets, ks); nan where a k was not measured there.

    status is "measured" where the best k and its neighbours in ks all have measured sizes on both sides of the budget, so that
    something smaller and something larger was beaten; else "extrapolated". law_* are None without a law.
    """

    axis: str
    kind: str
    chosen: Slice
    budget_bits: np.ndarray
    ks: tuple[int, ...]
    losses: np.ndarray
    probability: np.ndarray
    status: tuple[str, ...]
    law_form: str | None
    law_losses: np.ndarray | None
    law_probability: np.ndarray | None

    @property
    def best(self) -> np.ndarray:
        """The best k at each budget by interpolation, 0 where the status is extrapolated: there the law alone may answer."""
        return np.where(np.array(self.status) == MEASURED, pick(self.ks, self.losses), 0)

    @property
    def law_best(self) -> np.ndarray:
        """The law's best k at each budget (0 without a law)."""
        return pick(self.ks, self.law_losses) if self.law_losses is not None else np.zeros(len(self.budget_bits), dtype=int)

    @property
    def verdict(self) -> str:
        """In one sentence, which k wins where it was measured."""
        inside = [i for i, status in enumerate(self.status) if status == MEASURED]
        if not inside:
            return f"No budget has measured sizes on both sides at three neighbouring k: the best k of {self.kind} is open."
        spans: list[tuple[int, int, int]] = []
        for i in inside:
            k = int(self.best[i])
            if spans and spans[-1][0] == k and spans[-1][2] == i - 1:
                spans[-1] = (k, spans[-1][1], i)
            else:
                spans.append((k, i, i))
        where = [f"{k} bits {self.span(first, last)}" for k, first, last in spans]
        return f"Best k of {self.kind} by {self.axis} bits: {'; '.join(where)}."

    def span(self, first: int, last: int) -> str:
        """A range of budgets in words."""
        low, high = size(self.budget_bits[first] / 8), size(self.budget_bits[last] / 8)
        return f"at {low}" if first == last else f"from {low} to {high}"

    def to_json(self) -> dict[str, object]:
        """One object for each budget."""
        rows = []
        for i, bits in enumerate(self.budget_bits):
            row: dict[str, object] = {"budget_bits": float(bits), "best_k": int(self.best[i]) or None, "status": self.status[i]}
            row["loss"] = named(self.ks, self.losses[i])
            row["probability"] = named(self.ks, self.probability[i])
            if self.law_losses is not None and self.law_probability is not None:
                row["law_best_k"] = int(self.law_best[i]) or None
                row["law_loss"] = named(self.ks, self.law_losses[i])
                row["law_probability"] = named(self.ks, self.law_probability[i])
            rows.append(row)
        return {
            "axis": self.axis,
            "kind": self.kind,
            "chosen": self.chosen,
            "law_form": self.law_form,
            "verdict": self.verdict,
            "budgets": rows,
        }

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table

        by_law = ["by the law"] if self.law_losses is not None else []
        columns = [f"{self.axis} memory", "best k", "probability", "loss", "next best", *by_law, ""]
        table = Table(*columns, title=f"Best k of {self.kind} at each size of memory", title_justify="left")
        for i, bits in enumerate(self.budget_bits):
            found = answer(self.ks, self.losses[i], self.probability[i]) if self.best[i] else ("-", "", "", "")
            cells = [size(bits / 8), *found]
            if self.law_losses is not None and self.law_probability is not None:
                cells.append(" ".join(answer(self.ks, self.law_losses[i], self.law_probability[i])[:2]))
            table.add_row(*cells, self.status[i], style="dim" if self.status[i] == EXTRAPOLATED else None)
        return Group(table, self.verdict)

    def __str__(self) -> str:
        return as_text(self)


def best_k(
    source: Table | Law,
    budget_bits: Sequence[float] | np.ndarray | None = None,
    *,
    axis: str = "total",
    kind: str | None = None,
    law: Law | None = None,
    bootstrap: int = 400,
    seed: int = 0,
    **slice_: Unpack[Slice],
) -> BestK:
    """The best k at each budget of bits (default: round sizes over what was measured), from a table of runs or a fitted law.

    axis: "total" counts every stored bit, "linear" those of the linear layers. kind: the kind of format whose k is chosen, such
    as int-b64 (default: the one measured at the most k), or "any" for the best format of each k. A budget's probability is the
    share of resamples (windows; the luck of trainings, as the law or seeds show it) in which that k wins. slice_: family,
    protocol, embeddings and method, as in `fit`.
    """
    if isinstance(source, Law):
        law, runs, chosen = source, source.runs, source.chosen
    else:
        part, chosen = choose_slice(source, **slice_)
        runs = prepare(part)
    kind = kind or main_kind(runs)
    if kind not in {"any", *runs.kind[runs.quantized]}:
        known = ", ".join(sorted(set(runs.kind[runs.quantized])))
        raise LawError(f"kind '{kind}' was not measured. Write any, or one of: {known}.")
    found = curves(runs, axis, None if kind == "any" else kind)
    ks = tuple(sorted({curve.k for curve in found}))
    budgets = np.asarray(budget_bits, dtype=float) if budget_bits is not None else round_budgets(found)
    samples = resample(runs, luck_noise(runs, law), bootstrap, np.random.default_rng(seed))
    losses = lowest_by_k(found, ks, [curve.interpolate(budgets)[None] for curve in found])[0]
    drawn = lowest_by_k(found, ks, [curve.interpolate(budgets, curve.losses(samples)) for curve in found])
    law_losses = law_probability = None
    if law is not None:
        by_law = lowest_by_k(found, ks, [law_curve(law, curve, budgets) for curve in found])
        law_losses, law_probability = by_law[0], shares(by_law[1:] if len(by_law) > 1 else by_law)
    return BestK(
        axis=axis,
        kind=kind,
        chosen=chosen,
        budget_bits=budgets,
        ks=ks,
        losses=losses,
        probability=shares(drawn),
        status=tuple(status_of(row) for row in losses),
        law_form=law.form if law is not None else None,
        law_losses=law_losses,
        law_probability=law_probability,
    )


def law_curve(law: Law, curve: Curve, budgets: np.ndarray) -> np.ndarray:
    """The law's losses (1 + bootstrap, budgets) of a format; nan for one that the law was fitted without."""
    try:
        return law.sample(curve.size_at(budgets), curve.format)
    except LawError:
        return np.full((1 + len(law.draws), len(budgets)), np.nan)


def round_budgets(found: list[Curve]) -> np.ndarray:
    """Round numbers of bytes from the least to the most that was measured, in bits."""
    low, high = min(curve.bits[0] for curve in found) / 8, max(curve.bits[-1] for curve in found) / 8
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    return np.array([8 * step * 10.0**decade for decade in decades for step in ROUND if low <= step * 10.0**decade <= high])


def luck_noise(runs: Runs, law: Law | None) -> Noise:
    """The luck of trainings as the law's residuals show it; else as seeds of one size do; else none."""
    if law is not None:
        return Noise(law.noise.luck, law.noise.luck_freedom, 0.0)
    squares, freedom = luck_of_seeds(runs)
    return Noise(float(np.sqrt(squares / freedom)) if freedom else 0.0, freedom or INFINITE, 0.0)


def lowest_by_k(found: list[Curve], ks: tuple[int, ...], losses: list[np.ndarray]) -> np.ndarray:
    """For each k the lowest loss of its formats, nan where none has one: (draws, budgets, ks)."""
    out = np.full((*losses[0].shape, len(ks)), np.nan)
    for curve, loss in zip(found, losses, strict=True):
        column = ks.index(curve.k)
        out[..., column] = np.fmin(out[..., column], loss)
    return out


def shares(losses: np.ndarray) -> np.ndarray:
    """Share of draws in which each k has the lowest loss: (budgets, ks); nan where no k has a loss."""
    known = ~np.isnan(losses[0]).all(-1)
    winner = np.nan_to_num(losses, nan=np.inf).argmin(-1)
    share = (winner[..., None] == np.arange(losses.shape[-1])).mean(0)
    return np.where(known[:, None] & ~np.isnan(losses[0]), share, np.nan)


def status_of(losses: np.ndarray) -> str:
    """measured where the best of losses (ks,) and its neighbours are all known."""
    if np.isnan(losses).all():
        return EXTRAPOLATED
    best = int(np.nanargmin(losses))
    around = losses[max(best - 1, 0) : best + 2]
    return EXTRAPOLATED if np.isnan(around).any() or len(losses) == 1 else MEASURED


def pick(ks: tuple[int, ...], losses: np.ndarray) -> np.ndarray:
    """k of the lowest loss of each row of (budgets, ks), 0 where none is known."""
    return np.where(np.isnan(losses).all(1), 0, np.array(ks)[np.nan_to_num(losses, nan=np.inf).argmin(1)])


def answer(ks: tuple[int, ...], losses: np.ndarray, probability: np.ndarray) -> tuple[str, str, str, str]:
    """Best k, its probability, its loss, and the next best with what it costs more, as text."""
    known = [i for i in np.argsort(np.nan_to_num(losses, nan=np.inf)) if not np.isnan(losses[i])]
    if not known:
        return "-", "", "", ""
    best = known[0]
    rival = next((i for i in known[1:] if probability[i] > 1 - SURE), None)
    name = f"{ks[best]}" + (f" or {ks[rival]}" if rival is not None and probability[best] < SURE else "")
    following = f"{ks[known[1]]} (+{number(losses[known[1]] - losses[best])})" if len(known) > 1 else ""
    return name, f"{probability[best]:.0%}", f"{losses[best]:.4f}", following


def named(ks: tuple[int, ...], values: np.ndarray) -> dict[str, float | None]:
    """k -> value, None for nan."""
    return {str(k): None if np.isnan(value) else float(value) for k, value in zip(ks, values, strict=True)}
