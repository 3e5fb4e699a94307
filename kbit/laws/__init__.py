"""Laws of quality in size and bits: forms, fits with intervals, and the best k at every budget.

Plain mathematics (NumPy, SciPy) on a table of runs: a dict of arrays with a row for each run.
"""

from kbit.laws.budgets import BestK, best_k
from kbit.laws.curves import Curve, curves, main_kind, pareto
from kbit.laws.findings import Findings, study_law
from kbit.laws.fit import compare, cross_validate, fit
from kbit.laws.forms import FORMS
from kbit.laws.law import Estimate, Law, Prediction, Trial
from kbit.laws.runs import Runs, choose_slice, prepare, split_format

__all__ = [
    "FORMS",
    "BestK",
    "Curve",
    "Estimate",
    "Findings",
    "Law",
    "Prediction",
    "Runs",
    "Trial",
    "best_k",
    "choose_slice",
    "compare",
    "cross_validate",
    "curves",
    "fit",
    "main_kind",
    "pareto",
    "prepare",
    "split_format",
    "study_law",
]
