"""`kbit bench` through the real entry point."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys

import pytest

from kbit import kernels
from kbit.cli import main

SHORT = ["--shape", "64x128", "--seconds", "0", "--format", "int1-b64", "--format", "nf4-b64"]


def exit_code_of(*arguments: object) -> object:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return end.value.code


def test_it_prints_a_row_for_each_format_and_says_where_it_ran():
    command = [sys.executable, "-m", "kbit", "bench", *SHORT, "--threads", "1"]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"{kernels.isa()} (" in done.stdout
    assert "memory reads " in done.stdout
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[:3] for row in rows if row and row[0] in ("int1-b64", "nf4-b64")] == [
        ["int1-b64", "1", "1.250"],
        ["nf4-b64", "4", "4.250"],
    ]


def test_json_has_all_numbers_and_a_models_tests(written, capsys):
    model = written("llama")
    assert exit_code_of("bench", model, *SHORT, "-p", 16, "-n", 4, "-r", 2, "-o", "json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [product["k"] for product in found["products"]] == [1, 4]
    assert [test["name"] for test in found["model"]["tests"]] == ["pp16", "tg4"]
    assert found["machine"]["isa"] == kernels.isa()
    assert (found["compute"], found["model"]["compute"]) == ("int8", "exact")
    assert exit_code_of("bench", *SHORT, "--json") == 0
    assert json.loads(capsys.readouterr().out)["model"] is None


def test_markdown_and_csv(capsys):
    assert exit_code_of("bench", *SHORT, "-o", "md", "--compute", "exact", "--batch", 2) == 0
    said = capsys.readouterr().out
    assert "product of a 64x128 weight and 2 tokens, exact" in said
    assert "| int1-b64 | 1 | 1.250 |" in said
    assert exit_code_of("bench", *SHORT, "-o", "csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["format"] for row in rows] == ["int1-b64", "nf4-b64"]
    assert all(float(row["bandwidth"]) > 0 for row in rows)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--shape", "4096"], "kbit: shape '4096' is none. Write rows and columns, such as 4096x4096.\n"),
        (
            ["--format", "bf16"],
            "kbit: format 'bf16' has no codes, so its product is torch's. Take one of codes, ",
        ),
        (["--compute", "int4"], "kbit: compute 'int4' is not to be had. Write exact or int8.\n"),
        (["nowhere/at/all"], "kbit: nowhere/at/all: does not exist, and is no hub id."),
    ],
)
def test_a_fault_of_the_user_is_one_line_and_exit_code_2(arguments, said, capsys):
    assert exit_code_of("bench", *arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(said)
    assert captured.err.count("\n") == 1
    assert captured.out == ""
