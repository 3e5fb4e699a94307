"""`kbit law` on a store on disk."""

from __future__ import annotations

import json

import pytest

from kbit.cli import main
from tests.laws.simulate import SIZES, simulate_table
from tests.laws.stored import write_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(simulate_table(embeddings=("int8-row", "bf16")), tmp_path_factory.mktemp("law") / "runs.db")


def run(capsys, *arguments):
    """Exit code, stdout and stderr of the program."""
    try:
        main(["law", *map(str, arguments)])
    except SystemExit as end:
        return end.code, *capsys.readouterr()
    return 0, *capsys.readouterr()


def test_the_curve_the_best_k_and_the_law_are_shown(store, capsys):
    code, out, _ = run(capsys, "--store", store, "--bootstrap", 5)
    assert code in (0, None)
    for part in ("prose-5.1m", "int4-b64", "Best k of int-b64", "probability", "Law 'additive'", "95% interval"):
        assert part in out


def test_json_has_the_curves_the_budgets_and_the_law(store, capsys):
    code, out, _ = run(capsys, "--store", store, "--bootstrap", 5, "--axis", "linear", "--embeddings", "bf16", "--json")
    assert code in (0, None)
    values = json.loads(out)
    assert values["axis"] == "linear"
    assert values["chosen"]["embeddings"] == "bf16"
    assert len(values["curves"][0]["points"]) == len(SIZES)
    assert values["law"]["parameters"]["alpha"]["low"] < values["law"]["parameters"]["alpha"]["high"]
    assert {row["status"] for row in values["best_k"]["budgets"]} == {"measured", "extrapolated"}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--form", "cubic"), "kbit: form 'cubic' does not exist. Write one of: additive, saturating, "),
        (("--axis", "bytes"), "kbit: axis 'bytes' does not exist. Write one of: total, linear."),
        (("--protocol", "wiki"), "kbit: protocol 'wiki' has no finished run. The store has: books."),
        (("--kind", "nf-b64"), "kbit: kind 'nf-b64' was not measured. Write any, or one of: int-b64."),
    ],
)
def test_a_wrong_wish_is_one_line_and_exit_code_2(store, capsys, arguments, line):
    code, out, err = run(capsys, "--store", store, "--bootstrap", 2, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(line)
    assert err.count("\n") == 1


def test_a_store_that_is_not_there_is_one_line_and_exit_code_2(tmp_path, capsys):
    code, out, err = run(capsys, "--store", tmp_path / "none.db")
    assert (code, out, err.count("\n")) == (2, "", 1)
