"""The loop: it learns, it resumes to the same losses, it stops where a loss is NaN, and processes share a batch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch

import kbit
from kbit.errors import CheckpointError, KbitError, ModelError
from kbit.qat import TrainPlan, prepare_qat, read_training_text, train_qat
from kbit.qat import train as train_module
from kbit.qat.train import parameter_groups
from kbit.qat.weights import WeightQuantizer

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "many", "small", "rivers", "run", "on"]
PLAN = TrainPlan(steps=12, batch=4, window=24, rate=3e-3, check_every=4, held_out=4)


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(" ".join(WORDS[(i * 7 + j * j) % len(WORDS)] for j in range(12)) for i in range(400)))
    return path


@pytest.fixture(scope="module")
def teacher(written_llama):
    return kbit.load(written_llama)


@pytest.fixture(scope="module")
def written_llama(tmp_path_factory):
    from tests.tiny_models import tiny

    return tiny("llama-tied", tmp_path_factory.mktemp("llama"))


def train(original, text_file, state, plan=PLAN, fmt="int2-b16", **how):
    length = {"window": plan.window, "batch": plan.batch, "steps": plan.steps, "held_out": plan.held_out}
    text = read_training_text(text_file, original.kbit_tokenizer, seed=plan.seed, **length)
    return train_qat(prepare_qat(original, fmt), original, text, plan, state=state, **how)


def test_the_student_comes_nearer_to_its_teacher(teacher, text_file, tmp_path):
    heard = []
    plan = TrainPlan(steps=60, batch=4, window=24, rate=3e-3, held_out=4)
    found = train(teacher, text_file, tmp_path, plan, progress=lambda *said: heard.append(said))
    assert found.history.losses[-1] < 0.5 * found.history.losses[0]
    assert found.tokens == 60 * 4 * 24
    assert heard[-1][:2] == (60, 60)
    assert heard[-1][2].startswith("loss ")
    assert "tokens per second" in heard[-1][2]


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    """Another model of the same tokenizer."""
    from tests.tiny_models import tiny

    return kbit.load(tiny("llama", tmp_path_factory.mktemp("larger")))


def test_another_model_may_teach(teacher, larger, text_file, tmp_path):
    """The loss is the divergence from it, the reference stays the model's own in 16 bits, and a state knows who taught."""
    own = train(teacher, text_file, tmp_path / "own")
    found = train(teacher, text_file, tmp_path / "taught", teacher=larger)
    assert found.held_out_reference == own.held_out_reference
    student, windows = prepare_qat(teacher, "int2-b16"), read_training_text(text_file, teacher.kbit_tokenizer, **PLAN.reading)
    ids = windows.of_step(0, PLAN.batch)[:, :-1]
    with torch.no_grad():
        theirs, mine = (model(input_ids=ids, use_cache=False).logits.double() for model in (larger, student))
    wanted = (theirs.softmax(-1) * (theirs.log_softmax(-1) - mine.log_softmax(-1))).sum(-1).mean()
    assert found.history.losses[0] == pytest.approx(float(wanted), rel=1e-5)
    with pytest.raises(CheckpointError, match="was begun with teacher"):
        train(teacher, text_file, tmp_path / "taught")


def test_a_teacher_of_another_vocabulary_is_refused(teacher, text_file, tmp_path):
    from tests.tiny_models import tiny

    other = kbit.load(tiny("llama", tmp_path / "other", vocab_size=teacher.config.vocab_size + 8))
    with pytest.raises(ModelError, match=rf"a vocabulary of {teacher.config.vocab_size + 8} tokens, the model one of"):
        train(teacher, text_file, tmp_path / "state", teacher=other)


def test_the_weights_are_those_of_the_best_step(teacher, text_file, tmp_path):
    found = train(teacher, text_file, tmp_path)
    assert [step for step, _ in found.history.held_out] == [0, 4, 8, 12]
    assert found.held_out == min(loss for _, loss in found.history.held_out)
    assert (found.step, found.held_out) in found.history.held_out


def interrupted(monkeypatch, at):
    """Let the step `at` be the last."""
    one_step = train_module._Training.one_step

    def stop(self):
        if self.step == at:
            raise KeyboardInterrupt
        return one_step(self)

    monkeypatch.setattr(train_module._Training, "one_step", stop)


@pytest.mark.parametrize("at", [2, 4, 7])
def test_an_interrupted_training_goes_on_to_the_same_losses(teacher, text_file, tmp_path, monkeypatch, at):
    whole = train(teacher, text_file, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupted(patch, at)
        with pytest.raises(KeyboardInterrupt):
            train(teacher, text_file, tmp_path / "parts")
    again = train(teacher, text_file, tmp_path / "parts")
    assert again.history.losses == whole.history.losses
    assert again.history.held_out == whole.history.held_out
    for one, other in zip(again.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fmt": "int3-b16"}, "was begun with recipe"),
        ({"plan": TrainPlan(steps=12, batch=4, window=24, rate=1e-3, check_every=4, held_out=4)}, "with rate 0.003, and is now"),
    ],
)
def test_a_state_of_another_training_is_refused(teacher, text_file, tmp_path, changes, message):
    train(teacher, text_file, tmp_path)
    with pytest.raises(CheckpointError, match=message):
        train(teacher, text_file, tmp_path, **changes)


def test_a_loss_that_is_nan_stops_at_the_last_good_state(teacher, text_file, tmp_path, monkeypatch):
    loss = train_module._Training.loss
    monkeypatch.setattr(train_module._Training, "loss", lambda self, *a: loss(self, *a) * (float("nan") if self.step == 9 else 1))
    found = train(teacher, text_file, tmp_path)
    assert found.step in (0, 4, 8)
    assert found.stopped.startswith(
        f"the loss of step 10 is nan; the weights are those of step {found.step}. Lower the learning rate"
    )
    assert all(parameter.isfinite().all() for parameter in found.model.parameters())


def test_a_gradient_that_is_infinite_stops_too(teacher, text_file, tmp_path, monkeypatch):
    class Blown(torch.autograd.Function):
        forward = staticmethod(lambda ctx, x: x.clone())
        backward = staticmethod(lambda ctx, g: g * float("inf"))

    loss = train_module._Training.loss
    monkeypatch.setattr(
        train_module._Training, "loss", lambda self, *a: Blown.apply(loss(self, *a)) if self.step == 5 else loss(self, *a)
    )
    found = train(teacher, text_file, tmp_path)
    assert found.stopped.startswith("the loss of step 6 is nan")
    assert all(parameter.isfinite().all() for parameter in found.model.parameters())


def test_a_model_that_never_had_a_finite_loss_is_an_error(teacher, text_file, tmp_path, monkeypatch):
    monkeypatch.setattr(train_module._Training, "measure", lambda self, model: float("nan"))
    monkeypatch.setattr(train_module._Training, "loss", lambda self, model, ids: torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(CheckpointError, match="no state before it was good"):
        train(teacher, text_file, tmp_path)


def test_micro_batches_and_recomputation_change_no_loss(teacher, text_file, tmp_path):
    plans = [{}, {"micro_batch": 1}, {"micro_batch": 3}, {"recompute": True}]
    runs = [train(teacher, text_file, tmp_path / str(i), TrainPlan(**{**PLAN.to_dict(), **plan})) for i, plan in enumerate(plans)]
    for run in runs[1:]:
        torch.testing.assert_close(torch.tensor(run.history.losses), torch.tensor(runs[0].history.losses), rtol=2e-3, atol=1e-4)


def test_bfloat16_products_come_near(teacher, text_file, tmp_path):
    exact = train(teacher, text_file, tmp_path / "f32")
    mixed = train(teacher, text_file, tmp_path / "bf16", TrainPlan(**{**PLAN.to_dict(), "precision": "bf16"}))
    torch.testing.assert_close(torch.tensor(mixed.history.losses), torch.tensor(exact.history.losses), rtol=0.1, atol=0.01)
    assert mixed.history.losses != exact.history.losses


def test_scales_move_as_far_as_weights_do(teacher):
    """Adam moves a number by the rate: a scale whose largest level is 127 gets a 127th of it."""
    model = prepare_qat(teacher, "int8-b16")
    groups = parameter_groups(model, TrainPlan(steps=1, rate=1.0, scale_rate=0.5, weight_decay=0.1))
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    for module in model.modules():
        if isinstance(module, WeightQuantizer):
            assert rates[id(module.scale)] == (0.5 / 127, 0.0)
    assert rates[id(model.model.layers[0].mlp.up_proj.parametrizations.weight.original)] == (1.0, 0.1)
    assert rates[id(model.model.norm.parametrizations.weight.original)] == (1.0, 0.0)


def test_a_model_that_was_not_prepared_is_refused(teacher, text_file, tmp_path):
    text = read_training_text(text_file, teacher.kbit_tokenizer, window=24, batch=4, steps=2, held_out=4)
    with pytest.raises(ModelError, match="Call prepare_qat first"):
        train_qat(teacher, teacher, text, PLAN, state=tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps 0: there is nothing to train"),
        ({"batch": 0}, "batch 0: there is nothing"),
        ({"window": 1}, "window 1 is too small"),
        ({"rate": 0.0}, "rate 0 trains nothing"),
        ({"rate": float("nan")}, "rate nan trains nothing"),
        ({"warmup": 1.5}, "warmup 1.5 is no share"),
        ({"precision": "f8"}, "precision 'f8' is not known. Choose f32 or bf16"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(settings, message):
    with pytest.raises(KbitError, match=message):
        TrainPlan(**{"steps": 1} | settings)


PROCESS = textwrap.dedent(
    """
    import json, sys
    import torch
    torch.set_num_threads(1)
    import kbit
    from kbit.qat import TrainPlan, prepare_qat, read_training_text, train_qat

    model, text, state, out = sys.argv[1:]
    plan = TrainPlan(steps=12, batch=4, window=24, rate=3e-3, check_every=4, held_out=4)
    teacher = kbit.load(model)
    words = read_training_text(text, teacher.kbit_tokenizer, window=24, batch=4, steps=12, held_out=4)
    from pathlib import Path
    found = train_qat(prepare_qat(teacher, "int2-b16"), teacher, words, plan, state=Path(state), device="cpu")
    if found.main:
        Path(out).write_text(json.dumps({"losses": found.history.losses, "held_out": found.history.held_out}))
    """
)


def launched(tmp_path, arguments, *, processes=None):
    script = tmp_path / "train.py"
    script.write_text(PROCESS)
    launcher = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", str(processes), "--mixed_precision", "no"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, *(launcher if processes else []), str(script), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_two_processes_share_a_batch(written_llama, teacher, text_file, tmp_path):
    run = launched(tmp_path, (written_llama, text_file, tmp_path / "state", tmp_path / "out.json"), processes=2)
    _, errors = run.communicate(timeout=600)
    assert run.returncode == 0, errors[-3000:]
    found = json.loads((tmp_path / "out.json").read_text())
    alone = train(teacher, text_file, tmp_path / "alone")
    torch.testing.assert_close(torch.tensor(found["losses"]), torch.tensor(alone.history.losses), rtol=2e-3, atol=1e-4)


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_to_the_same_losses(written_llama, teacher, text_file, tmp_path):
    """SIGKILL, as when memory runs out or the power goes: when the state is written, and a little later, again and again."""
    arguments = (written_llama, text_file, tmp_path / "state", tmp_path / "out.json")
    for wait in (0.0, 0.05, 0.3):
        run = launched(tmp_path, arguments)
        seen = set((tmp_path / "state").glob("*-step-*"))
        deadline = time.monotonic() + 300
        while run.poll() is None and set((tmp_path / "state").glob("*-step-*")) == seen and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(wait)
        run.send_signal(signal.SIGKILL)
        run.communicate()
    last = launched(tmp_path, arguments)
    _, errors = last.communicate(timeout=600)
    assert last.returncode == 0, errors[-3000:]
    found = json.loads((tmp_path / "out.json").read_text())
    whole = train(teacher, text_file, tmp_path / "whole")
    assert found["losses"] == whole.history.losses
    assert [tuple(entry) for entry in found["held_out"]] == whole.history.held_out
