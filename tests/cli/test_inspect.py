"""`kbit inspect` through the real entry point."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from kbit.cli import main
from tests.tiny_models import tiny


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return str(tiny("llama", tmp_path_factory.mktemp("llama"), num_hidden_layers=1))


def exit_code_of(*arguments: str) -> object:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return end.value.code


def test_it_prints_layers_changes_and_advice_on_stdout(llama):
    command = [sys.executable, "-m", "kbit", "inspect", llama, "--format", "int3-b16"]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # two threads on so small a model mostly wait for each other
    done = subprocess.run(command, env=one_thread, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "model.layers.0.mlp.down_proj" in done.stdout
    assert "int3-b16 (rtn) makes a relative error of" in done.stdout
    assert "Most for its bits: " in done.stdout


def test_json_is_one_object(llama, capsys):
    assert exit_code_of("inspect", llama, "--format", "int3-b16", "--method", "rtn-mse", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["method"], len(found["layers"])) == ("int3-b16", "rtn-mse", 9)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nowhere", "--format", "int4-b64"), "nowhere"),
        (("{llama}", "--format", "int9-b64"), "int9-b64"),
        (("{llama}", "--format", "f16"), "keeps weights as they are"),
        (("{llama}", "--format", "int4-b64", "--method", "magic"), "'magic' is not a method"),
    ],
)
def test_a_fault_of_the_user_is_one_line_and_exit_code_2(arguments, said, llama, capsys):
    assert exit_code_of("inspect", *(argument.replace("{llama}", llama) for argument in arguments)) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("kbit: ")
    assert captured.err.count("\n") == 1
    assert said in captured.err
    assert captured.out == ""
