"""The table of measured errors: every bound holds, every operator that states one has a row, and the page is up to date."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
from pathlib import Path

import pytest

import kbit.fixedpoint

ROOT = Path(__file__).parents[2]
STATES_A_BOUND = re.compile(r"[Ee]rror\s+at\s+most|\|y - y\*\||\|x - q|[Ww]ithin half")
STEPS_OF_ANOTHER = {"rounding_shift", "requantize", "curve_at"}  # measured as part of the operators, and tested bit by bit


def script():
    spec = importlib.util.spec_from_file_location("operator_errors", ROOT / "scripts" / "operator_errors.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    sys.path.insert(0, str(ROOT / "scripts"))  # as Python does for a script that it runs
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


SCRIPT = script()


@pytest.mark.parametrize("name", SCRIPT.OPERATORS)
def test_no_result_is_beyond_the_bound(name):
    error = SCRIPT.measure(SCRIPT.OPERATORS[name][2])
    assert error.results > 100
    assert error.worst <= error.bound
    assert error.share <= 1


def test_the_page_has_the_table_of_today():
    assert SCRIPT.page() == SCRIPT.PAGE.read_text(encoding="utf-8"), "run scripts/operator_errors.py"


def test_every_operator_that_states_a_bound_is_measured():
    measured = {name.split(" ")[0] for name in SCRIPT.OPERATORS} | STEPS_OF_ANOTHER
    for found in pkgutil.iter_modules(kbit.fixedpoint.__path__):
        module = importlib.import_module(f"kbit.fixedpoint.{found.name}")
        for name, function in vars(module).items():
            if inspect.isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_"):
                assert name in measured or not STATES_A_BOUND.search(function.__doc__ or ""), f"{found.name}.{name}"
