"""`kbit plan` on a store on disk."""

from __future__ import annotations

import json

import pytest

from kbit.cli import main
from tests.laws.simulate import simulate_table
from tests.laws.stored import write_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(simulate_table(), tmp_path_factory.mktemp("plan") / "runs.db")


def run(capsys, *arguments):
    """Exit code, stdout and stderr of the program."""
    try:
        main(["plan", *map(str, arguments)])
    except SystemExit as end:
        return end.code, *capsys.readouterr()
    return 0, *capsys.readouterr()


def test_the_answer_comes_first_and_then_the_ranked_choices(store, capsys):
    code, out, _ = run(capsys, "--memory", "2MB", "--store", store)
    assert code in (0, None)
    assert out.startswith("Run prose-1.9m at int3-b64: 1.416 bits per byte, measured, 1.78 MB of 2.00 MB.")
    assert "What fits in 2.00 MB" in out
    assert "The next better choice needs 2.02 MB: prose-1.9m at int4-b64" in out
    assert "dominated" not in out.replace("or dominated by these", "")


def test_all_shows_dominated_choices_too(store, capsys):
    _, out, _ = run(capsys, "--memory", "2MB", "--store", store, "--all")
    assert "dominated" in out


def test_json_is_one_object_with_the_keys_of_the_store(store, capsys):
    _, out, _ = run(capsys, "--memory", "2MB", "--store", store, "--context", 64, "--json")
    values = json.loads(out)
    assert values["context"] == 64
    assert values["choices"][0]["bits_per_byte"] < values["choices"][-1]["bits_per_byte"]
    assert values["choices"][0].keys() >= {"perplexity", "bits_per_byte", "total_bytes", "basis"}


@pytest.mark.parametrize(
    ("memory", "line"),
    [
        ("2 gigs", "kbit: memory '2 gigs' is not a size. Write it as 2GiB, 1.5GB, 512KiB or in bytes."),
        ("10kB", "kbit: nothing fits in 10.0 kB. The smallest choice, prose-94k at int2-b64, takes 230 kB: "),
    ],
)
def test_a_wrong_budget_is_one_line_and_exit_code_2(store, capsys, memory, line):
    code, out, err = run(capsys, "--memory", memory, "--store", store)
    assert (code, out) == (2, "")
    assert err.startswith(line)
    assert err.count("\n") == 1
