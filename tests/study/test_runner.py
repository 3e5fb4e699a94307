"""A study does what its store lacks, keeps what is finished through a SIGKILL, and goes on past what fails."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from kbit.errors import StoreError
from kbit.evaluation import Protocol, evaluate
from kbit.models import load
from kbit.recipes import Recipe, quantize, total_bits
from kbit.study import bench as bench_module
from kbit.study import read_outcomes, read_table, run_study
from kbit.study import runner as runner_module
from kbit.study.grid import Grid, read_grid
from kbit.study.runner import default_workers
from kbit.study.specs import expand
from tests.study.conftest import TEXT
from tests.study.test_executors import NO_RAY
from tests.tiny_models import tiny


@pytest.fixture
def store(tmp_path):
    return tmp_path / "runs.db"


def test_a_study_does_each_run_once_and_a_second_start_none(write_grid, store):
    grid = write_grid("[one, two]")
    first = run_study(grid, store, executor="serial")
    assert (first.done, first.skipped, first.failures, first.to_do) == (6, 0, [], 0)
    before = [(run.hash, run.finished, run.seconds) for run in read_outcomes(store)]
    second = run_study(grid, store, executor="serial")
    assert (second.done, second.skipped, second.failures, second.to_do) == (0, 6, [], 0)
    assert [(run.hash, run.finished, run.seconds) for run in read_outcomes(store)] == before


def test_a_larger_grid_does_what_is_new(write_grid, store):
    run_study(write_grid("one"), store, executor="serial")
    result = run_study(write_grid("[one, two]", "embeddings: [int8-row, f32]\n"), store, executor="serial")
    assert (result.done, result.skipped) == (9, 3)
    table = read_table(store)
    assert len(table["run"]) == 12
    assert set(table["embeddings"].tolist()) == {"int8-row", "f32"}
    assert np.isfinite(table["loss"]).all()
    assert (table["kld_mean"] >= 0).all()


def test_a_recipe_is_run_as_a_format_is_under_its_own_name(write_grid, store, folder):
    recipes = "recipes:\n  mix3: {weights: int3-b32, embeddings: f16, layers: {'*.down_proj': int5-b32, '*.q_proj': int2-b32}}\n"
    assert run_study(write_grid(more=recipes + "methods: rtn-mse\n"), store, executor="serial").failures == []
    table = read_table(store)
    row = table["format"].tolist().index("mix3")
    assert [table[name][row] for name in ("codebook", "k", "method", "embeddings")] == ["mix", 3, "rtn-mse", "f16"]
    model = load(folder / "one")
    layers = {"*.down_proj": "int5-b32", "*.q_proj": "int2-b32"}
    mixed = quantize(model, Recipe("int3-b32", "rtn-mse", embeddings="f16", layers=layers))
    wanted = evaluate(mixed, TEXT, tokenizer=model.kbit_tokenizer, protocol=Protocol(window=64, max_windows=6))
    assert table["loss"][row] == pytest.approx(wanted.loss, rel=1e-6)
    assert table["total_bits"][row] == total_bits(model, Recipe("int3-b32", embeddings="f16", layers=layers)).total_bits


def test_a_grid_may_be_made_in_python(folder, store):
    protocols = {"short": {"text": [str(folder / "text.txt")], "window": 64}}
    grid = Grid(models=[str(folder / "one")], formats=["int4-b32"], protocols=protocols)
    assert run_study(grid, store, executor="serial").done == 1


def test_a_dry_run_writes_nothing(write_grid, store):
    grid = write_grid()
    assert run_study(grid, store, dry_run=True).to_do == 3
    assert not store.exists()
    run_study(grid, store, executor="serial")
    before = store.read_bytes()
    result = run_study(write_grid("[one, two]"), store, dry_run=True)
    assert (result.skipped, result.done, result.to_do) == (3, 0, 3)
    assert store.read_bytes() == before


def test_progress_counts_work_up_to_all_of_it(write_grid, store):
    seen = []
    run_study(write_grid("[one, two]"), store, executor="serial", progress=lambda *call: seen.append(call))
    assert [call[0] for call in seen] == [round(100 * n / 6, 1) for n in range(7)]
    assert {call[1] for call in seen} == {100.0}
    assert seen[1][2] == "1 of 6 runs, one f32"
    assert seen[-1][2] == "6 of 6 runs, two int4-b32"


def test_a_failed_run_is_recorded_and_tried_again(write_grid, store, monkeypatch):
    grid = write_grid("[one, two]")
    original = runner_module.Bench.__call__

    def sick(self, task):
        if "int3" in task.specs[0].recipe and task.specs[0].about["model"] == "one":
            raise MemoryError("no room")
        return original(self, task)

    with monkeypatch.context() as patch:
        patch.setattr(runner_module.Bench, "__call__", sick)
        result = run_study(grid, store, executor="serial")
    reason = "the worker died (MemoryError: no room). Memory may have run out: use fewer workers."
    assert result.failures == [("one int3-b32", reason)]
    assert (result.done, result.to_do) == (5, 1)
    assert [run.error for run in read_outcomes(store) if run.error] == [reason]
    again = run_study(grid, store, executor="serial")
    assert (again.done, again.skipped, again.failures) == (1, 5, [])
    assert not any(run.error for run in read_outcomes(store))


def test_a_result_says_what_was_done_in_a_table_and_in_json(write_grid, store):
    run_study(write_grid("one"), store, executor="serial")
    result = run_study(write_grid("[one, two]"), store, executor="serial")
    said = json.loads(json.dumps(result.to_json()))
    assert {name: said[name] for name in ("runs", "done", "skipped", "failed", "to_do")} == {
        "runs": 6, "done": 3, "skipped": 3, "failed": 0, "to_do": 0,
    }  # fmt: skip
    assert said["runs_per_hour"] == pytest.approx(3600 * 3 / said["seconds"])
    assert [(row["model"], row["done"], row["skipped"]) for row in said["models"]] == [("one", 0, 3), ("two", 3, 0)]


@pytest.mark.parametrize(("settings", "message"), [
    ({"executor": "cloud"}, "there is no executor 'cloud'. There are local, serial, ray."),
    ({"workers": 0}, "0 workers do no work. Take 1 or more, or leave it out."),
])  # fmt: skip
def test_wrong_settings_are_refused(write_grid, store, settings, message):
    with pytest.raises(StoreError) as fault:
        run_study(write_grid(), store, **settings)
    assert str(fault.value) == message


def test_workers_are_as_many_as_cores_and_memory_allow(write_grid, monkeypatch):
    specs = expand(read_grid(write_grid()))
    monkeypatch.setattr(runner_module, "cores", lambda executor: 64)
    memory = psutil.virtual_memory()
    for gib, expected in ((4096, 64), (16, 3), (1, 1)):
        monkeypatch.setattr(psutil, "virtual_memory", lambda gib=gib: memory._replace(total=gib * 2**30))
        assert default_workers(specs, "local") == expected
    assert default_workers(specs, "serial") == 1


def start(grid, store, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "kbit", "study", str(grid), "--store", str(store), "--json", "--workers", "1", *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(store) -> int:
    try:
        with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as connection:
            return connection.execute("SELECT count(*) FROM runs").fetchone()[0]
    except sqlite3.Error:
        return 0


@pytest.mark.slow
def test_a_study_that_is_killed_loses_no_finished_run_and_repeats_none(write_grid, store, tmp_path):
    for seed in range(3):
        tiny("llama-tied", tmp_path / f"model-{seed}", seed=seed + 5)
    grid = write_grid("'model-*'", "methods: [rtn, rtn-mse, rtn-percentile]\nembeddings: [int8-row, f32, bf16]\n")
    total, kept = 3 * 7 * 3, {}
    for least in (1, total // 3):
        study = start(grid, store)
        while finished(store) < least and study.poll() is None:
            time.sleep(0.01)
        study.send_signal(signal.SIGKILL)
        assert study.wait() == -signal.SIGKILL
        study.stdout.close()
        study.stderr.close()
        runs = {run.hash: run.finished for run in read_outcomes(store)}
        assert least <= len(runs) < total
        assert runs.items() >= kept.items()
        kept = runs
    study = start(grid, store)
    out, errors = study.communicate(timeout=300)
    assert study.returncode == 0, errors
    said = json.loads(out)
    assert (said["skipped"], said["done"], said["failed"]) == (len(kept), total - len(kept), 0)
    runs = {run.hash: run.finished for run in read_outcomes(store)}
    assert len(runs) == total
    assert runs.items() >= kept.items()  # none was done again


@pytest.mark.ray
@pytest.mark.slow
@NO_RAY
def test_ray_finds_what_the_local_executor_finds(write_grid, store, tmp_path):
    grid = write_grid("[one, two]")
    run_study(grid, store, executor="serial")
    run_study(grid, tmp_path / "ray.db", executor="ray", workers=1)
    here, there = read_table(store), read_table(tmp_path / "ray.db")
    assert here["run"].tolist() == there["run"].tolist()
    np.testing.assert_allclose(here["loss"], there["loss"], rtol=1e-9)


@pytest.mark.real_model
@pytest.mark.slow
def test_a_real_model_in_a_gguf_file_is_studied(smollm2, tmp_path, store, monkeypatch):
    """SmolLM2's weights lie on a 4-bit grid of blocks of 32, so 8 bits lose nearly nothing and 2 bits nearly all."""
    monkeypatch.setattr(bench_module, "LOGITS_BYTES", 128 * 49152 * 4)  # a chunk is one window
    (tmp_path / "text.txt").write_text(TEXT * 3)
    (tmp_path / "grid.yaml").write_text(
        f"models: '{smollm2}'\nformats: [f32, int8-b32, int2-b32]\n"
        "protocols: {p: {text: text.txt, window: 128, max_windows: 3}}\n"
    )
    assert run_study(tmp_path / "grid.yaml", store, executor="serial").failures == []
    table = read_table(store)
    kld = dict(zip(table["format"].tolist(), table["kld_mean"].tolist(), strict=True))
    assert table["model"][0] == smollm2.stem
    assert kld["f32"] < 1e-3  # embeddings are int8-row, those of the file are Q8_0
    assert kld["f32"] < kld["int8-b32"] < 0.05
    assert kld["int2-b32"] > 1
