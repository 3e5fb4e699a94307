"""One table and its report for all tests of the report: a small study with everything that a page can show."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from kbit.report import make_report
from tests.laws.simulate import SIZES, Table, simulate_table

HOSTILE = "</script><script>alert('model')</script><b>%{x}&amp;"
FORMATS = ("bf16", *(f"int{k}-b64" for k in range(1, 9)), "nf3-b64", "nf4-b64", "fp3-b64", "fp4-b64", "int3-b32", "int3-row")
DATE = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


def joined(*tables: Table) -> Table:
    """The rows of several tables, with names of runs that differ."""
    table = {name: np.concatenate([part[name] for part in tables]) for name in tables[0]}
    table["run"] = np.array([f"{row:064x}" for row in range(len(table["run"]))])
    return table


@pytest.fixture(scope="session")
def table() -> Table:
    """Five sizes in many formats; a few with embeddings in 16 bits, another protocol, half the tokens, another seed."""
    few = ("bf16", "int3-b64", "int4-b64", "int5-b64")
    return joined(
        simulate_table(formats=FORMATS, windows=24),
        simulate_table(formats=few, windows=24, embeddings=("bf16",)),
        simulate_table(formats=few, windows=24, protocols=("textbooks",)),
        rows_where(
            simulate_table(sizes=SIZES[:2], formats=few, windows=24, training_tokens=(4194304.0, 8388608.0)),
            lambda t: t["training_tokens"] < 8e6,
        ),
        rows_where(simulate_table(sizes=SIZES[:2], formats=few, windows=24, seeds=(0, 1)), lambda t: t["seed"] == 1),
    )


def rows_where(table: Table, holds) -> Table:
    """The rows of a table for which holds(table) is true."""
    mask = holds(table)
    return {name: column[mask] for name, column in table.items()}


@pytest.fixture(scope="session")
def report(table):
    """The report on `table`."""
    return make_report(table, title="A study", command="kbit report --store runs.db", bootstrap=5, date=DATE)


@pytest.fixture(scope="session")
def hostile():
    """A report whose largest model, host and title bear names that try to break out of it."""
    table = simulate_table(formats=("bf16", "int3-b64", "int4-b64", "nf4-b64"), windows=8)
    named = dict(table)
    named["model"] = np.where(table["model"] == SIZES[-1].name, HOSTILE, table["model"].astype(f"<U{len(HOSTILE)}"))
    named["host"] = np.full(len(table["host"]), HOSTILE)
    return make_report(named, title=HOSTILE, provenance={HOSTILE: {HOSTILE: HOSTILE}}, command=HOSTILE, bootstrap=5, date=DATE)
