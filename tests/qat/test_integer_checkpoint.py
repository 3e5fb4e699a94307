"""qat_fixed_point: from a folder to a model of integers on disk that says and does what was trained."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

import kbit
from kbit.cli import main
from kbit.errors import CheckpointError, FormatError, ModelError, TextError
from kbit.models.integer_model import IntegerModel
from kbit.qat import TrainPlan, fixed_point, qat_fixed_point
from kbit.qat.text import read_training_text
from kbit.recipes import FixedPoint, Recipe, fixed_point_recipe
from tests.qat.test_checkpoint import size_on_disk
from tests.qat.test_train import interrupted
from tests.tiny_models import tiny, tiny_tokenizer

PLAN = TrainPlan(steps=4, batch=2, window=24, rate=1e-2, cross_entropy=1.0, check_every=2, held_out=2)
RECIPE = fixed_point_recipe(3, FixedPoint(8, smooth=0.0))
CALIBRATION = "The morning was bright, and the people of the town went down to the river. " * 4


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(f"line {i} says that {i * i} is the square of {i}." for i in range(300)))
    return path


@pytest.fixture
def students(monkeypatch):
    """Every student that was trained."""
    kept = []
    train = fixed_point.train_qat

    def noted(*arguments, **how):
        trained = train(*arguments, **how)
        kept.append(trained.model)
        return trained

    monkeypatch.setattr(fixed_point, "train_qat", noted)
    return kept


@pytest.mark.parametrize("name", ["llama", "llama-tied", "gpt2", "gpt_neox"])
def test_the_checkpoint_gives_the_very_logits_of_the_trained_student(name, written, text_file, tmp_path, students):
    found = qat_fixed_point(written(name), RECIPE, tmp_path / "out", text=text_file, plan=PLAN, calibration=CALIBRATION)
    assert found.step > 0  # or the weights were never moved
    ids = torch.arange(40).view(2, 20)
    model = kbit.load(tmp_path / "out")
    assert isinstance(model, IntegerModel)
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids, use_cache=False).logits, students[0](input_ids=ids).logits)
    assert found.bits.total_bytes == size_on_disk(tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"out"}  # the state has gone


def test_what_was_done_is_said(written, text_file, tmp_path):
    found = qat_fixed_point(written("llama"), RECIPE, tmp_path / "out", text=text_file, plan=PLAN, calibration=CALIBRATION)
    tokens = len(tiny_tokenizer()(CALIBRATION, add_special_tokens=False)["input_ids"])
    assert found.calibration_tokens == tokens // 128 * 128  # in windows of the tiny model's context
    assert found.recipe.integers.text_sha256 == hashlib.sha256(CALIBRATION.encode()).hexdigest()
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert (record["qat_tokens"], record["qat"]["step"]) == (4 * 2 * 24, found.step)
    said = found.to_json()
    assert (said["calibration_tokens"], said["fallbacks"], said["tokens"]) == (found.calibration_tokens, [], 192)
    assert ("integers alone", "activations of 8 bits, ranges: token") in found._totals()


def test_without_a_calibration_text_it_takes_passages_that_are_trained_on(text_file, tmp_path):
    """A text of many passages, of which a few are enough: those that the order of training has last."""
    path = tmp_path / "long.txt"
    path.write_text("\n".join(f"line {i} says that {i * i} is the square of {i}." for i in range(4000)))
    taken = fixed_point.some_of(path, 20_000, seed=3)
    assert 20_000 <= len(taken) < 20_000 + 2 * 4096
    words = read_training_text(path, tiny_tokenizer(), window=24, batch=2, steps=4, held_out=2, seed=3)
    held_out = tiny_tokenizer().decode(words.held_out[0])
    assert held_out in path.read_text()
    assert held_out not in taken
    assert fixed_point.some_of(text_file, 10**6, seed=3).count("says") == 300  # a text that is too short: all of it


@pytest.mark.parametrize("at", [1, 3])
def test_an_interrupted_training_goes_on_to_the_same_bytes(written, text_file, tmp_path, monkeypatch, at):
    whole = qat_fixed_point(written("gpt2"), RECIPE, tmp_path / "whole", text=text_file, plan=PLAN, calibration=CALIBRATION)
    with monkeypatch.context() as patch:
        interrupted(patch, at)
        with pytest.raises(KeyboardInterrupt):
            qat_fixed_point(written("gpt2"), RECIPE, tmp_path / "out", text=text_file, plan=PLAN, calibration=CALIBRATION)
    assert not (tmp_path / "out").exists()
    again = qat_fixed_point(written("gpt2"), RECIPE, tmp_path / "out", text=text_file, plan=PLAN, calibration=CALIBRATION)
    assert again.held_out == whole.held_out
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


def test_a_state_of_another_recipe_is_refused(written, text_file, tmp_path, monkeypatch):
    how = {"text": text_file, "plan": PLAN, "calibration": CALIBRATION, "state": tmp_path / "state"}
    with monkeypatch.context() as patch:
        interrupted(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            qat_fixed_point(written("llama"), RECIPE, tmp_path / "out", **how)
    other = fixed_point_recipe(3, FixedPoint(4, smooth=0.0))
    with pytest.raises(CheckpointError, match="was begun with recipe"):
        qat_fixed_point(written("llama"), other, tmp_path / "out", **how)


@pytest.mark.parametrize(
    ("plan", "changes", "error", "message"),
    [
        ({}, {"recipe": Recipe("int4-b64")}, FormatError, "the recipe has no fixed_point, so there are no integers to train"),
        ({"recompute": True}, {}, FormatError, "without --recompute. Leave it out, or take a smaller --micro-batch"),
        ({}, {"device": "cuda"}, FormatError, "trained on the CPU, not on 'cuda'. Leave --device out"),
        ({"window": 4096}, {}, ModelError, "the window is 4096 tokens, the model's context 128"),
        ({}, {"calibration": "Too short."}, TextError, "Ranges want 64 at least; give a longer text"),
        ({"batch": 1000}, {}, TextError, "Give a longer text, or a smaller batch or window"),
    ],
)
def test_what_cannot_be_done_is_refused(written, text_file, tmp_path, plan, changes, error, message):
    how = {"recipe": RECIPE, "calibration": CALIBRATION, "plan": TrainPlan(**PLAN.to_dict() | plan), **changes}
    with pytest.raises(error, match=message):
        qat_fixed_point(written("llama"), out=tmp_path / "out", text=text_file, **how)
    assert not (tmp_path / "out").exists()


def test_a_window_ends_where_the_integers_do(text_file, tmp_path):
    """At one sliding window: refused where a longer one was asked for, and by default no longer."""
    source = tiny("mistral", tmp_path / "mistral", sliding_window=20)
    how = {"text": text_file, "calibration": CALIBRATION}
    with pytest.raises(ModelError, match="the window is 24 tokens, and the integers reach 20"):
        qat_fixed_point(source, RECIPE, tmp_path / "out", plan=PLAN, **how)
    plan = TrainPlan(**{**PLAN.to_dict(), "window": None})
    found = qat_fixed_point(source, RECIPE, tmp_path / "out", plan=plan, **how)
    assert found.plan.window == 20


def test_where_training_stops_the_last_good_integers_are_written(written, text_file, tmp_path, monkeypatch):
    from kbit.qat import train

    loss = train._Training.loss
    monkeypatch.setattr(train._Training, "loss", lambda self, *a: loss(self, *a) * (float("nan") if self.step == 3 else 1))
    found = qat_fixed_point(written("llama"), RECIPE, tmp_path / "out", text=text_file, plan=PLAN, calibration=CALIBRATION)
    assert found.stopped.startswith("the loss of step 4 is nan")
    assert isinstance(kbit.load(tmp_path / "out"), IntegerModel)
    assert (tmp_path / "out.training" / "best.safetensors").exists()


@pytest.mark.slow
def test_killed_in_the_middle_the_command_ends_with_the_same_model(family, tmp_path, capsys):
    """SIGKILL once a state is written, twice; then to the end, and once more in one go: the same bytes."""
    text = family / "texts" / "books.txt"
    bits = ("--fixed-point", "--weights", "2", "--activations", "8", "--steps", "24", "--check-every", "4")
    size = ("--batch", "2", "--window", "64", "--held-out", "4", "--json")
    command = ["qat", str(family / "prose-94k"), *bits, *size, "--text", str(text), "--out"]
    start = [sys.executable, "-m", "kbit", *command, str(tmp_path / "parts")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    state = tmp_path / "parts.training"
    for wait in (0.0, 0.3):
        run = subprocess.Popen(start, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        seen, deadline = set(state.glob("*-step-*")), time.monotonic() + 300
        while run.poll() is None and set(state.glob("*-step-*")) <= seen and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(wait)
        run.send_signal(signal.SIGKILL)
        run.communicate()
        assert run.returncode == -signal.SIGKILL
        assert not (tmp_path / "parts").exists()
    parts = subprocess.run(start, env=environment, capture_output=True, text=True, timeout=600)
    assert parts.returncode == 0, parts.stderr[-3000:]
    whole = subprocess.run([*start[:-1], str(tmp_path / "whole")], env=environment, capture_output=True, text=True, timeout=600)
    assert whole.returncode == 0, whole.stderr[-3000:]
    said = [json.loads(run.stdout) for run in (parts, whole)]
    assert said[0]["held_out"] == said[1]["held_out"]
    assert said[0]["loss"] < said[0]["loss_before"]
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("parts", "whole")]
    assert files[0] == files[1]
    out = str(tmp_path / "parts")
    runs_watched = [
        ["eval", out, "--text", str(text), "--window", "64", "--max-windows", "2", "--reference", "none", "--check-integer"],
        ["generate", out, "--prompt", "The", "--max-tokens", "8", "--check-integer"],
    ]
    for arguments in runs_watched:
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 0, capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_share_a_batch(written, text_file, tmp_path):
    """Each has half of the windows; the losses are those of one process, to float rounding of the gradients."""
    how = ("--fixed-point", "--weights", "3", "--steps", "4", "--batch", "4", "--window", "24", "--held-out", "2", "--json")
    command = ["-m", "kbit", "qat", str(written("llama-tied")), *how, "--text", str(text_file), "--out"]
    launcher = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--mixed_precision", "no"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    found = []
    for start in ([*launcher, *command, str(tmp_path / "two")], [*command, str(tmp_path / "one")]):
        run = subprocess.run([sys.executable, *start], env=environment, capture_output=True, text=True, timeout=600)
        assert run.returncode == 0, run.stderr[-3000:]
        found.append(json.loads(run.stdout[run.stdout.index("{") :])["held_out"])
    torch.testing.assert_close(torch.tensor(found[0]), torch.tensor(found[1]), rtol=1e-3, atol=0)
