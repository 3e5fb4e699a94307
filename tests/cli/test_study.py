"""`kbit study` from the command line: what it prints, where, and how it ends."""

from __future__ import annotations

import csv
import json

import pytest

from kbit import cli
from tests.study.conftest import folder, one_core, write_grid  # noqa: F401


@pytest.fixture
def kbit(capsys):
    """Run the program; returns exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as end:
            cli.main([str(argument) for argument in arguments])
        return end.value.code or 0, *capsys.readouterr()

    return run


def test_a_study_prints_what_ran(kbit, write_grid, tmp_path):  # noqa: F811
    code, out, _ = kbit("study", write_grid("[one, two]"), "--store", tmp_path / "runs.db", "--executor", "serial")
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["model", "runs", "done", "skipped", "failed", "to", "do", "seconds", "peak", "MB"]
    assert [line[:6] for line in lines[1:4]] == [
        ["one", "3", "3", "0", "0", "0"],
        ["two", "3", "3", "0", "0", "0"],
        ["all", "6", "6", "0", "0", "0"],
    ]
    assert "runs per hour" in out
    assert str(tmp_path / "runs.db") in out.replace("\n", "")


def test_json_is_one_object_on_stdout(kbit, write_grid, tmp_path):  # noqa: F811
    csv_file = tmp_path / "runs.csv"
    code, out, _ = kbit(
        "study", write_grid(), "--store", tmp_path / "runs.db", "--executor", "serial", "--json", "--csv", csv_file
    )
    assert code == 0
    assert json.loads(out)["done"] == 3
    with open(csv_file, newline="") as file:
        assert [row["format"] for row in csv.DictReader(file)] == ["int3-b32", "int4-b32", "f32"]


def test_a_dry_run_says_what_would_be_done(kbit, write_grid, tmp_path):  # noqa: F811
    code, out, _ = kbit("study", write_grid(), "--store", tmp_path / "runs.db", "--dry-run", "--json")
    assert (code, json.loads(out)["to_do"]) == (0, 3)
    assert not (tmp_path / "runs.db").exists()


def test_failed_runs_end_the_command_with_2_after_the_table(kbit, write_grid, tmp_path, monkeypatch):  # noqa: F811
    from kbit.study import bench

    def fails(*arguments, **settings):
        raise MemoryError("no room")
        yield

    monkeypatch.setattr(bench, "quantized_weights", fails)
    code, out, errors = kbit("study", write_grid(), "--store", tmp_path / "runs.db", "--executor", "serial")
    assert code == 2
    assert "one int3-b32: MemoryError: no room" in out
    assert errors.splitlines()[-1] == (
        f"kbit: store {tmp_path / 'runs.db'}: 3 of 3 runs failed, the first one f32: MemoryError: no room "
        "The others are kept; start the same study again to retry."
    )


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("models: one\n", "line 1: the field 'formats' is missing. Add it."),
        ("models: [none]\nformats: int4-b64\nprotocols: {a: {text: text.txt}}\n", "models: there is no"),
    ],
)
def test_a_wrong_grid_ends_with_2_and_one_line(kbit, write_grid, tmp_path, grid, message):  # noqa: F811
    path = write_grid()
    path.write_text(grid)
    code, out, errors = kbit("study", path, "--store", tmp_path / "runs.db")
    assert (code, out) == (2, "")
    assert message in errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "runs.db").exists()


def test_a_store_that_is_none_ends_with_2_and_is_left_alone(kbit, write_grid, tmp_path):  # noqa: F811
    store = tmp_path / "runs.db"
    store.write_text("my notes " * 100)
    code, _, errors = kbit("study", write_grid(), "--store", store)
    assert code == 2
    assert errors == f"kbit: store {store}: this is no SQLite file. Name another one.\n"
    assert store.read_text() == "my notes " * 100
