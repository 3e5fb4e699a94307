"""`kbit qat` through the real entry point."""

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
    return str(tiny("llama", tmp_path_factory.mktemp("llama")))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(f"line {i} says that {i * i} is the square of {i}." for i in range(300)))
    return path


SMALL = ("--batch", "2", "--window", "24", "--held-out", "2")


def exit_code_of(*arguments: object) -> object:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return end.value.code


def test_it_trains_and_prints_the_table_on_stdout(llama, text, tmp_path):
    out = tmp_path / "out"
    command = ["qat", llama, "--format", "int2-b16", "--text", str(text), "--steps", "4", "--out", str(out), *SMALL]
    done = subprocess.run(
        [sys.executable, "-m", "kbit", *command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    for words in ("bits per weight", "loss in 16 bits", "quantized", "trained", "won back", "tokens", "held-out text"):
        assert words in done.stdout
    assert {path.name for path in out.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json", "training.json"}


def test_json_is_one_object_and_every_option_is_heard(llama, text, tmp_path, capsys):
    options = (
        "--rate",
        "1e-3",
        "--cross-entropy",
        "0.25",
        "--micro-batch",
        "1",
        "--seed",
        "5",
        "--embeddings",
        "bf16",
        "--recompute",
    )
    code = exit_code_of(
        "qat",
        llama,
        "--format",
        "ternary-b64",
        "--text",
        text,
        "--steps",
        2,
        "--out",
        tmp_path / "out",
        *SMALL,
        *options,
        "--json",
    )
    assert code == 0
    found = json.loads(capsys.readouterr().out)
    plan = found["plan"]
    assert (plan["rate"], plan["cross_entropy"], plan["micro_batch"], plan["seed"], plan["recompute"]) == (1e-3, 0.25, 1, 5, True)
    assert (found["recipe"]["weights"], found["recipe"]["method"], found["recipe"]["embeddings"]) == (
        "ternary-b64",
        "rtn-mse",
        "bf16",
    )
    assert found["tokens"] == 2 * 2 * 24


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "no format is given. Write --format int2-b64"),
        (("--format", "int2-64"), "'64' is not a granularity"),
        (("--format", "bf16", "--embeddings", "bf16", "--lm-head", "bf16"), "so there is nothing to train"),
        (("--format", "int2-b16", "--batch", "1000"), "Give a longer text, or a smaller batch or window"),
        (("--format", "int2-b16", "--precision", "f8"), "precision 'f8' is not known"),
        (("--format", "int2-b16", "--activations", 8), "and --calibration go with --fixed-point. Write it too."),
        (("--weights", 2), "and --calibration go with --fixed-point. Write it too."),
        (("--fixed-point", "--activations", 8), "no format is given. Write --format int2-b64"),
        (("--fixed-point", "--weights", 2, "--format", "int2-row"), "--weights 2 and --format int2-row are two formats"),
        (("--fixed-point", "--weights", 2, "--recompute"), "models of integers are trained without --recompute"),
        (("--fixed-point", "--weights", 2, "--device", "cuda"), "trained on the CPU, not on 'cuda'. Leave --device out."),
    ],
)
def test_what_cannot_be_done_ends_with_one_line(llama, text, tmp_path, capsys, options, message):
    assert exit_code_of("qat", llama, "--text", text, "--steps", 2, "--out", tmp_path / "out", *SMALL, *options) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_integers_train_and_the_table_says_so(llama, text, tmp_path, capsys):
    """A recipe may say what --fixed-point says, and options go before it."""
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"weights": "int2-b64-i8", "fixed_point": {"activations": 8, "smooth": 0.0}}))
    how = ("--text", text, "--steps", 2, *SMALL)
    more = ("--activations", 4, "--ranges", "mse")
    assert exit_code_of("qat", llama, "--recipe", recipe, *more, *how, "--out", tmp_path / "a", "--json") == 0
    settings = json.loads(capsys.readouterr().out)["recipe"]["fixed_point"]
    assert (settings["activations"], settings["ranges"], settings["smooth"]) == (4, "mse", 0.0)
    options = ("--fixed-point", "--weights", 2, "--smooth", 0, "--calibration", text)
    assert exit_code_of("qat", llama, *options, *how, "--out", tmp_path / "b") == 0
    said = capsys.readouterr().out
    for words in ("integers alone", "activations of 8 bits, ranges: token", "quantized", "trained", "won back", "held-out text"):
        assert words in said


def test_a_training_that_stops_says_so_and_ends_with_2(llama, text, tmp_path, capsys, monkeypatch):
    from kbit.qat import train

    loss = train._Training.loss
    monkeypatch.setattr(train._Training, "loss", lambda self, *a: loss(self, *a) * float("nan"))
    assert (
        exit_code_of("qat", llama, "--format", "int2-b16", "--text", text, "--steps", 2, "--out", tmp_path / "out", *SMALL) == 2
    )
    assert "the loss of step 1 is nan; the weights are those of step 0. Lower the learning rate" in capsys.readouterr().err
