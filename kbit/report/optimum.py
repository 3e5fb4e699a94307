"""The best bit width at every budget of a view: kbit.laws asked at budgets dense enough to draw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kbit.errors import LawError
from kbit.laws import BestK, Law, best_k, choose_slice, curves, main_kind, prepare
from kbit.laws.runs import Slice
from kbit.report.runs import Table
from kbit.report.verdict import Stretch, stretches

BUDGETS = 96  # points of a curve over the budgets
FEW = 32  # where only a sentence is wanted
BEYOND = 4.0  # the law is drawn for budgets up to this multiple of the largest measured one


@dataclass(frozen=True)
class Optimum:
    """Probabilities (budgets, widths) that each of `widths` is the best at each budget (bits, ascending).

    These and `losses` (nats, nan where a k was not measured) are from interpolation, at the budgets where smaller and larger
    sizes were both beaten; the law's reach further and are empty where there is no law, or any format is asked for. `basis` is
    the kind of format whose k is chosen.
    """

    budgets: np.ndarray
    losses: np.ndarray
    chances: np.ndarray
    widths: tuple[int, ...]
    basis: str
    law_budgets: np.ndarray
    law_chances: np.ndarray
    law_form: str

    @property
    def stretches(self) -> list[Stretch]:
        """The budgets cut where the best k changes."""
        return stretches(self.budgets, self.chances, self.widths)


def find_optimum(table: Table, axis: str, law: Law | None, slice_: Slice, *, kind: str | None = None, seed: int = 0) -> Optimum:
    """The optimum of one slice of the table, for one kind of format (default: that with most k) or "any".

    Raises LawError where no budget has measured sizes on both sides at neighbouring k.
    """
    part, chosen = choose_slice(table, **slice_)
    runs = prepare(part)
    kind = kind or main_kind(runs)
    found = curves(runs, axis, None if kind == "any" else kind)
    low, high = min(curve.bits[0] for curve in found), max(curve.bits[-1] for curve in found)
    budgets = np.geomspace(low, high, BUDGETS if kind != "any" else FEW)
    best = best_k(part, budgets, axis=axis, kind=kind, law=law, seed=seed, **chosen)
    first, last = _longest_measured(best)
    wide = np.geomspace(low / 2, high * BEYOND, BUDGETS)
    by_law = None
    if law is not None and kind != "any":
        by_law = best_k(part, wide, axis=axis, kind=kind, law=law, bootstrap=1, seed=seed, **chosen).law_probability
    return Optimum(
        budgets=budgets[first:last],
        losses=best.losses[first:last],
        chances=np.nan_to_num(best.probability[first:last]),
        widths=best.ks,
        basis=best.kind,
        law_budgets=wide if by_law is not None else np.empty(0),
        law_chances=np.nan_to_num(by_law) if by_law is not None else np.empty((0, len(best.ks))),
        law_form=best.law_form or "",
    )


def _longest_measured(best: BestK) -> tuple[int, int]:
    """Start and end of the longest stretch of budgets whose status is measured."""
    measured = [0, *(int(status == "measured") for status in best.status), 0]
    edges = np.flatnonzero(np.diff(measured))
    if len(edges) == 0:
        raise LawError(f"{best.verdict} Measure more sizes, or more k.")
    starts, ends = edges[::2], edges[1::2]
    i = int((ends - starts).argmax())
    return int(starts[i]), int(ends[i])
