"""`kbit quantize` through the real entry point."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from kbit.cli import main
from kbit.recipes import Recipe
from tests.tiny_models import tiny


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return str(tiny("llama", tmp_path_factory.mktemp("llama")))


def exit_code_of(*arguments: object) -> object:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return end.value.code


def recipe_of(folder):
    return Recipe.from_dict(json.loads((folder / "config.json").read_text())["quantization_config"]["recipe"])


def test_it_writes_a_checkpoint_and_prints_the_table_on_stdout(llama, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "kbit", "quantize", llama, "--format", "nf4-b64", "--out", str(out)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=one_thread, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for words in (
        "16 quantized",
        "bits per weight",
        "size before",
        "size after",
        "mean layer error",
        "worst layer error",
        "seconds",
    ):
        assert words in done.stdout
    assert {path.name for path in out.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert recipe_of(out) == Recipe("nf4-b64")


def test_json_is_one_object(llama, tmp_path, capsys):
    assert exit_code_of("quantize", llama, "--format", "int4-b64", "--out", tmp_path / "out", "--json") == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["bits_per_weight"] == 74752 / 15360  # by hand in test_bits.py
    assert len(found["layers"]) == 16


def test_every_option_goes_into_the_recipe(llama, tmp_path):
    options = ["--method", "rtn-kl", "--embeddings", "bf16", "--lm-head", "int6-row", "--keep", "*.0.*", "--keep", "*.o_proj"]
    assert exit_code_of("quantize", llama, "--format", "int3-b64", *options, "--out", tmp_path / "out") == 0
    assert recipe_of(tmp_path / "out") == Recipe(
        "int3-b64", method="rtn-kl", embeddings="bf16", lm_head="int6-row", keep=("*.0.*", "*.o_proj")
    )


def test_options_go_before_the_recipe_file(llama, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("weights: int3-b64\nembeddings: bf16\nkeep: ['*.0.*']\nlayers: {'*.down_proj': int8-row}\n")
    assert exit_code_of("quantize", llama, "--recipe", path, "--out", tmp_path / "a") == 0
    assert recipe_of(tmp_path / "a") == Recipe.from_file(path)
    assert (
        exit_code_of("quantize", llama, "--recipe", path, "--format", "nf4-b64", "--keep", "*.o_proj", "--out", tmp_path / "b")
        == 0
    )
    assert recipe_of(tmp_path / "b") == Recipe.from_file(path).with_(weights="nf4-b64", keep=("*.0.*", "*.o_proj"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere/at/all", "--format", "nf4-b64"], "kbit: nowhere/at/all: does not exist, and is no hub id."),
        (["{llama}"], "kbit: no format is given. Write --format nf4-b64, or --recipe FILE for a format per layer."),
        (["{llama}", "--format", "int9-b64"], "kbit: format 'int9-b64'"),
        (["{llama}", "--format", "nf4-b64", "--method", "magic"], "kbit: 'magic' is not a method."),
        (["{llama}", "--format", "nf4-b64", "--keep", "*.9.*"], "kbit: recipe: the glob '*.9.*' matches no layer."),
        (["{llama}", "--recipe", "none.yaml"], "kbit: recipe none.yaml: cannot be read (No such file or directory)."),
    ],
)
def test_a_fault_of_the_user_is_one_line_exit_code_2_and_no_output(arguments, said, llama, tmp_path, capsys):
    code = exit_code_of("quantize", *(text.replace("{llama}", llama) for text in arguments), "--out", tmp_path / "out")
    captured = capsys.readouterr()
    assert code == 2
    assert captured.err.startswith(said)
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_without_a_folder_to_write_to_the_usage_is_told(llama, capsys):
    assert exit_code_of("quantize", llama, "--format", "nf4-b64") == 2
    assert "--out" in capsys.readouterr().err
