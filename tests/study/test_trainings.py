"""The method qat in a study: what it names, what it finds, what it shares, and what stays when it is stopped."""

from __future__ import annotations

import json
from copy import deepcopy

import numpy as np
import pytest
import torch

from kbit.errors import StoreError
from kbit.evaluation import Protocol, evaluate
from kbit.laws import choose_slice
from kbit.models import load
from kbit.qat import TrainPlan, convert, prepare_qat, read_training_text, train_qat
from kbit.qat import train as train_module
from kbit.qat.teacher import KeptTeacher
from kbit.recipes import total_bits
from kbit.study import read_outcomes, read_table, run_study
from kbit.study import trainings as trainings_module
from kbit.study.grid import read_grid
from kbit.study.specs import expand
from kbit.study.trainings import short, state_of
from tests.study.conftest import GRID, TEXT

TRAINING = "training: {text: words.txt, steps: [2, 4], batch: 2, window: 24, held_out: 2, check_every: 2}\n"
QAT = GRID.replace("[f32, 'int{3..4}-b32']", "[f32, int2-b32]") + "methods: [rtn-mse, qat]\n"


@pytest.fixture
def grid(write_grid, tmp_path):
    (tmp_path / "words.txt").write_text("\n".join(f"line {i} says that {i * i} is the square of {i}." for i in range(300)))

    def write(more: str = TRAINING, text: str = QAT):
        return write_grid("one", more, text)

    return write


@pytest.fixture
def store(tmp_path):
    return tmp_path / "runs.db"


def test_a_run_for_each_number_of_steps_and_one_hash_each(grid):
    specs = expand(read_grid(grid()))
    assert [spec.about["method"] for spec in specs] == ["none", "rtn-mse", "qat-96", "qat-192"]
    assert [spec.about.get("qat_tokens", 0) for spec in specs] == [0, 0, 96, 192]
    assert len({spec.hash for spec in specs}) == 4
    assert len({state_of(spec) for spec in specs if spec.training}) == 2
    assert "training" not in specs[1].decided
    assert specs[2].decided["training"]["plan"]["steps"] == 2


def test_a_teacher_is_part_of_the_run_and_of_its_name(grid, store, folder, write_grid):
    names = sorted(path.name for path in folder.iterdir() if (path / "config.json").is_file())
    assert names[:2] == ["one", "two"]
    alone, taught = (expand(read_grid(grid(TRAINING.replace("}", more)))) for more in ("}", ", teacher: two}"))
    assert [spec.about["method"] for spec in taught[2:]] == ["qat-96-two", "qat-192-two"]
    assert not {spec.hash for spec in alone[2:]} & {spec.hash for spec in taught[2:]}
    assert {spec.hash for spec in alone[:2]} == {spec.hash for spec in taught[:2]}
    itself = expand(read_grid(grid(TRAINING.replace("}", ", teacher: one}"))))
    assert [spec.hash for spec in itself] == [spec.hash for spec in alone]
    assert itself[2].about["method"] == "qat-96-one"
    assert run_study(grid(TRAINING.replace("}", ", teacher: two}")), store, executor="serial").failures == []
    assert run_study(grid(), store, executor="serial").failures == []
    table = read_table(store)
    losses = dict(zip(table["method"].tolist(), table["loss"].tolist(), strict=True))
    assert losses["qat-192-two"] != losses["qat-192"]
    with pytest.raises(StoreError, match=r"the teacher '\*' is . models. Name one"):
        expand(read_grid(grid(TRAINING.replace("}", ", teacher: '*'}"))))


def test_the_text_decides_and_its_place_does_not(grid, tmp_path):
    before = expand(read_grid(grid()))[2]
    (tmp_path / "words.txt").rename(tmp_path / "others.txt")
    moved = expand(read_grid(grid(TRAINING.replace("words", "others"))))[2]
    assert moved.hash == before.hash
    (tmp_path / "others.txt").write_text("Another text. " * 500)
    assert expand(read_grid(grid(TRAINING.replace("words", "others"))))[2].hash != before.hash


def test_a_run_is_what_training_and_evaluating_give(grid, store, folder, tmp_path):
    assert run_study(grid(), store, executor="serial").failures == []
    teacher = load(folder / "one")
    plan = TrainPlan(steps=4, batch=2, window=24, held_out=2, check_every=2)
    words = read_training_text(tmp_path / "words.txt", teacher.kbit_tokenizer, window=24, batch=2, steps=4, held_out=2)
    model = prepare_qat(teacher, "int2-b32")
    bits = total_bits(teacher, vars(model)["kbit_recipe"])
    trained = train_qat(model, deepcopy(teacher), words, plan, state=tmp_path / "mine", device="cpu")
    small = convert(trained.model)
    wanted = evaluate(
        small, TEXT, reference=teacher, tokenizer=teacher.kbit_tokenizer, protocol=Protocol(window=64, max_windows=6)
    )
    table = read_table(store)
    row = table["method"].tolist().index("qat-192")
    assert table["loss"][row] == pytest.approx(wanted.loss, rel=1e-6)
    assert table["kld_mean"][row] == pytest.approx(wanted.kld_mean, rel=1e-4)
    assert table["total_bits"][row] == bits.total_bits
    assert table["qat_tokens"].tolist() == [0, 192, 96, 0] or sorted(table["qat_tokens"].tolist()) == [0, 0, 96, 192]
    assert table["loss"][row] != table["loss"][table["method"].tolist().index("rtn-mse")]


def test_other_runs_of_a_worker_are_what_they_are_without_training(grid, store, tmp_path):
    run_study(grid(text=QAT.replace("methods: [rtn-mse, qat]", "methods: [qat, rtn-mse, rtn]")), store, executor="serial")
    alone = tmp_path / "alone.db"
    run_study(grid("", QAT.replace("methods: [rtn-mse, qat]", "methods: [rtn-mse, rtn]")), alone, executor="serial")
    losses = {run.hash: run.measurements["loss"] for run in read_outcomes(store)}
    for run in read_outcomes(alone):
        assert losses[run.hash] == run.measurements["loss"]


@pytest.mark.parametrize("compute", ["exact", "int8"])
def test_runs_that_differ_in_their_protocol_share_a_training(grid, store, monkeypatch, compute):
    trained = []
    to_end = train_module._Training.to_end
    monkeypatch.setattr(train_module._Training, "to_end", lambda self, *a: (trained.append(1), to_end(self, *a))[1])
    text = QAT + f"  longer: {{text: text.txt, window: 96, max_windows: 2, compute: {compute}}}\n"
    text = text.replace("methods: [rtn-mse, qat]\n", "") + "methods: [qat]\n"
    assert run_study(grid(text=text), store, executor="serial").failures == []
    assert len(trained) == 2  # two numbers of steps, two protocols


def test_an_interrupted_training_goes_on_and_leaves_nothing_behind(grid, store, tmp_path, monkeypatch):
    one_step = train_module._Training.one_step

    def stop(self):
        if self.step == 2 and self.plan.steps == 4:
            raise KeyboardInterrupt
        return one_step(self)

    with monkeypatch.context() as patch:
        patch.setattr(train_module._Training, "one_step", stop)
        with pytest.raises(KeyboardInterrupt):
            run_study(grid(), store, executor="serial")
    states = list((tmp_path / "runs.db.training").glob("*/state-step-*/state.json"))  # one of a whole training, not yet recorded
    assert [json.loads(state.read_text())["step"] for state in states] == [2, 2]
    steps = []
    monkeypatch.setattr(train_module._Training, "one_step", lambda self: (steps.append(self.step), one_step(self))[1])
    assert run_study(grid(), store, executor="serial").failures == []
    assert steps == [2, 3]
    assert not (tmp_path / "runs.db.training").exists()


def test_what_a_teacher_says_is_asked_for_once_and_changes_nothing(grid, store, tmp_path, monkeypatch):
    asked = []
    forward = KeptTeacher.forward

    def count(self, input_ids, use_cache=False):
        before = len(list(self.folder.iterdir()))
        said = forward(self, input_ids, use_cache)
        asked.append(len(list(self.folder.iterdir())) > before)
        return said

    both = QAT.replace("int2-b32]", "int2-b32, int3-b32]").replace("[rtn-mse, qat]", "[qat]")
    with monkeypatch.context() as patch:
        patch.setattr(KeptTeacher, "forward", count)
        assert run_study(grid(text=both), store, executor="serial").failures == []
    assert [asked.count(first) for first in (True, False)] == [6, 6]  # 2 and 4 steps, of two formats
    assert not (tmp_path / "runs.db.training").exists()
    monkeypatch.setattr(trainings_module, "worth_keeping", lambda *a: False)
    run_study(grid(text=both), tmp_path / "asked.db", executor="serial")
    losses = {run.hash: run.measurements["loss"] for run in read_outcomes(store)}
    assert losses == {run.hash: run.measurements["loss"] for run in read_outcomes(tmp_path / "asked.db")}


def test_a_training_that_blows_up_fails_alone(grid, store, monkeypatch):
    loss = train_module._Training.loss
    monkeypatch.setattr(train_module._Training, "loss", lambda self, *a: loss(self, *a) * float("nan"))
    result = run_study(grid(), store, executor="serial")
    assert len(result.failures) == 2
    assert all("the loss of step 1 is nan" in reason for _, reason in result.failures)
    assert np.isfinite(read_table(store)["loss"]).all()


def test_the_law_takes_all_lengths_of_training_together_or_one(grid, store):
    run_study(grid(), store, executor="serial")
    table = read_table(store)
    both, chosen = choose_slice(table, method="qat")
    assert chosen["method"] == "qat"
    assert sorted(both["qat_tokens"].tolist()) == [0, 96, 192]
    one, _ = choose_slice(table, method="qat-96")
    assert sorted(one["qat_tokens"].tolist()) == [0, 96]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("", r"the method qat wants to know how it trains\. Add the field 'training', with text and steps"),
        ("training: {text: words.txt}\n", r"line \d+: the field 'training.steps' is missing"),
        ("training: {text: words.txt, steps: 0}\n", r"training: steps 0: there is nothing to train"),
        ("training: {text: words.txt, steps: 4, speed: 3}\n", r"there is no field 'training.speed'.*There are text, steps"),
        ("training: {text: words.txt, steps: 4, start: magic}\n", r"there is no method 'magic'"),
    ],
)
def test_a_grid_that_does_not_say_how_to_train_is_refused(grid, more, message):
    with pytest.raises(StoreError, match=message):
        read_grid(grid(more))


def test_a_training_text_that_is_not_there_is_refused(grid):
    with pytest.raises(StoreError, match=r"training: there is no .*nowhere\.txt"):
        expand(read_grid(grid(TRAINING.replace("words.txt", "nowhere.txt"))))


def test_a_count_in_three_figures():
    assert [short(n) for n in (7, 999, 1000, 838_656, 8_388_608, 12_345_678_901)] == ["7", "999", "1k", "839k", "8.39M", "12.3G"]


def test_weights_are_trained_not_only_scales(grid, store, folder):
    """The trained loss of the tiny model's own text falls below that of rounding."""
    run_study(grid(TRAINING.replace("[2, 4]", "40")), store, executor="serial")
    table = read_table(store)
    by_method = dict(zip(table["method"].tolist(), table["kld_mean"].tolist(), strict=True))
    assert by_method["qat-1.92k"] < by_method["rtn-mse"]
    assert torch.get_num_threads() == 1
