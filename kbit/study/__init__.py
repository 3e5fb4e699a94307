"""Grids of runs, their resumable runner, and the store of what they found.

Names are imported when they are first used: reading a store needs NumPy and SQLite, and must not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kbit.study.executors import EXECUTORS
    from kbit.study.grid import Grid, GridProtocol, Part, read_grid
    from kbit.study.result import StudyResult
    from kbit.study.runner import run_study
    from kbit.study.specs import NUMERICS, RunSpec, expand
    from kbit.study.store import SCHEMA_VERSION, Outcome, Store, read_outcomes
    from kbit.study.table import read_table, write_csv

_MODULES = {
    "EXECUTORS": "executors",
    "Grid": "grid",
    "GridProtocol": "grid",
    "Part": "grid",
    "read_grid": "grid",
    "StudyResult": "result",
    "run_study": "runner",
    "NUMERICS": "specs",
    "RunSpec": "specs",
    "expand": "specs",
    "SCHEMA_VERSION": "store",
    "Outcome": "store",
    "Store": "store",
    "read_outcomes": "store",
    "read_table": "table",
    "write_csv": "table",
}

__all__ = [
    "EXECUTORS",
    "NUMERICS",
    "SCHEMA_VERSION",
    "Grid",
    "GridProtocol",
    "Outcome",
    "Part",
    "RunSpec",
    "Store",
    "StudyResult",
    "expand",
    "read_grid",
    "read_outcomes",
    "read_table",
    "run_study",
    "write_csv",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'kbit.study' has no attribute '{name}'")
    return getattr(import_module(f"kbit.study.{_MODULES[name]}"), name)
