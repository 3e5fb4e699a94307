"""A bench finds what `kbit.quantize` and `kbit.evaluate` find, reads and quantizes once, and lets a bad run fail alone."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from kbit.evaluation import Protocol, evaluate
from kbit.formats import Format
from kbit.laws import choose_slice, prepare
from kbit.models import load
from kbit.models.integer_model import IntegerModel
from kbit.recipes import Recipe, convert, quantize, total_bits
from kbit.study import bench as bench_module
from kbit.study import read_table, run_study
from kbit.study.bench import Bench
from kbit.study.grid import read_grid
from kbit.study.specs import expand
from kbit.study.tasks import Task, make_tasks
from tests.study.conftest import GRID, TEXT
from tests.tiny_models import tiny

MORE = "embeddings: [int8-row, f32]\n"


@pytest.fixture
def specs(write_grid):
    return expand(read_grid(write_grid("one", MORE)))


def test_a_run_is_what_quantize_and_evaluate_give(specs, folder):
    model = load(folder / "one")
    outcomes = {run.hash: run for task in make_tasks(specs) for run in Bench()(task)}
    for spec in specs:
        recipe = Recipe.from_json(spec.recipe)
        quality = evaluate(quantize(model, recipe), TEXT, reference=model, protocol=Protocol(window=64, max_windows=6))
        run = outcomes[spec.hash]
        assert run.error is None
        for metric in ("loss", "perplexity", "bits_per_byte", "kld_mean", "kld_median", "kld_p99", "same_top"):
            value, stderr = run.measurements[metric]
            assert value == pytest.approx(getattr(quality, metric), rel=1e-6, abs=1e-12)
            assert stderr == pytest.approx(getattr(quality, f"{metric}_stderr"), rel=1e-5, abs=1e-12)
        np.testing.assert_allclose(run.window_losses, quality.window_losses, rtol=1e-6)
        np.testing.assert_array_equal(run.window_tokens, quality.window_tokens)
        np.testing.assert_array_equal(run.window_bytes, quality.window_bytes)
        bits = total_bits(model, recipe)
        assert run.measurements["total_bits"] == (bits.total_bits, None)
        assert run.measurements["linear_bits"] == (bits.linear_bits, None)


def test_the_model_itself_is_at_distance_zero(specs):
    (itself,) = [spec for spec in specs if '"embeddings":"f32"' in spec.recipe and '"weights":"f32"' in spec.recipe]
    others = tuple(spec for spec in specs if spec is not itself)
    bench = Bench()
    bench(Task(others))  # whatever the copy held before
    (run,) = bench(Task((itself,)))
    assert run.measurements["kld_max"] == (0.0, None)
    assert run.measurements["same_top"][0] == 1.0


def test_a_text_in_chunks_gives_the_same_figures(specs, monkeypatch):
    whole = {run.hash: run for run in Bench()(Task(tuple(specs)))}
    monkeypatch.setattr(bench_module, "LOGITS_BYTES", 4 * 64 * 258 * 4)  # four windows
    monkeypatch.setattr(bench_module, "batch_size_for", lambda model, protocol: 2)
    for run in Bench()(Task(tuple(specs))):
        for metric, (value, _) in run.measurements.items():
            assert value == pytest.approx(whole[run.hash].measurements[metric][0], rel=1e-4, abs=1e-7), metric


def test_a_model_is_read_once_its_16_bit_logits_computed_once_and_layers_quantized_once(specs, monkeypatch):
    loads, references, quantized = [], [], []
    original = {name: getattr(bench_module, name) for name in ("load", "logits_of", "quantized_weights")}

    def loaded(source, **how):
        loads.append(source)
        return original["load"](source, **how)

    def quantized_weights(model, recipe, *, sites):
        quantized.append([site.role for site in sites])
        return original["quantized_weights"](model, recipe, sites=sites)

    def logits_of(model, ids, *how):
        references.append(model)
        return original["logits_of"](model, ids, *how)

    for name, function in (("load", loaded), ("quantized_weights", quantized_weights), ("logits_of", logits_of)):
        monkeypatch.setattr(bench_module, name, function)
    bench = Bench()
    for task in make_tasks(specs):
        assert all(run.error is None for run in bench(task))
    assert len(loads) == 1
    assert len(references) == 1 + len(specs)  # one batch of windows: once as it is, once for each run
    linear = [roles.count("linear") for roles in quantized]
    assert sum(count > 0 for count in linear) == 3  # f32, int3, int4, each for two formats of the embeddings
    assert max(linear) == 14  # two layers of seven


def test_int8_runs_are_those_of_packed_layers_and_change_no_exact_ones(specs, folder, write_grid):
    grid = write_grid("one", MORE)
    grid.write_text(grid.read_text().replace("max_windows: 6", "max_windows: 6, compute: int8"))
    int8 = expand(read_grid(grid))
    assert {spec.hash for spec in int8}.isdisjoint(spec.hash for spec in specs)
    runs = {run.hash: run for task in make_tasks([*int8, *specs]) for run in Bench()(task)}
    model = load(folder / "one")
    for spec, exact in zip(int8, specs, strict=True):
        recipe = Recipe.from_json(spec.recipe)
        run, found = runs[spec.hash], runs[spec.hash].error
        if not any(Format.parse(choice).k <= 8 for choice in (recipe.weights, recipe.lm_head)):
            assert found is not None
            assert "no layer is packed" in found
            continue
        small = quantize(model, recipe, packed=True)
        protocol = Protocol(window=64, max_windows=6, compute="int8")
        quality = evaluate(small, TEXT, reference=model, protocol=protocol)
        assert run.measurements["loss"][0] == pytest.approx(quality.loss, rel=1e-6)
        assert run.measurements["kld_mean"][0] == pytest.approx(quality.kld_mean, rel=1e-6)
        assert run.measurements["loss"] != runs[exact.hash].measurements["loss"]


def test_another_model_takes_the_place_of_the_last(write_grid):
    bench = Bench()
    for spec in expand(read_grid(write_grid("[one, two, one]"))) * 2:
        (run,) = bench(Task((spec,)))
        assert run.error is None
        assert run.measurements["kld_max"][0] > 0


def test_seconds_and_peak_memory_are_those_of_the_run(specs):
    for run in Bench()(Task(tuple(specs))):
        assert 0 < run.seconds < 60
        assert 50e6 < run.peak_bytes < 8e9  # Python and torch alone are more than that
        assert run.finished.endswith("+00:00")


def test_a_model_that_is_not_finite_fails_in_all_its_runs_with_one_line(write_grid, tmp_path):
    tiny("llama-tied", tmp_path / "sick", seed=0)
    file = tmp_path / "sick" / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    tensors["model.layers.1.mlp.down_proj.weight"][3, 5] = math.nan
    save_file(tensors, file, metadata={"format": "pt"})
    specs = expand(read_grid(write_grid("[sick, one]")))
    runs = {run.hash: run for task in make_tasks(specs) for run in Bench()(task)}
    for spec in specs:
        run = runs[spec.hash]
        if spec.about["model"] == "sick":
            assert run.error is not None
            assert "not finite" in run.error
            assert "\n" not in run.error
            assert run.measurements == {}
        else:
            assert run.error is None


def test_a_run_that_fails_leaves_the_others_and_the_copy_whole(specs, monkeypatch):
    sound = {run.hash: run for run in Bench()(Task(tuple(specs)))}
    original = bench_module.quantized_weights

    def breaks_at_three_bits(model, recipe, *, sites):
        for number, (site, w) in enumerate(original(model, recipe, sites=sites)):
            if "int3" in recipe.weights and number == 5:
                raise MemoryError("no room\nfor a layer")
            yield site, w

    monkeypatch.setattr(bench_module, "quantized_weights", breaks_at_three_bits)
    for run in Bench()(Task(tuple(specs))):
        if json.loads(json.dumps(run.about))["format"] == "int3-b32":
            assert run.error == "MemoryError: no room for a layer"
        else:
            assert run.measurements["loss"] == pytest.approx(sound[run.hash].measurements["loss"], rel=1e-9)


def test_a_text_that_changed_since_the_study_began_is_refused(specs, write_grid, tmp_path):
    (tmp_path / "text.txt").unlink()
    (tmp_path / "text.txt").write_text(TEXT + "More. ")
    (run,) = Bench()(Task((specs[0],)))
    assert run.error is not None
    assert run.error.endswith("text.txt: the text or the tokenizer changed while the study ran. Start it again.")


def test_a_bench_computes_in_the_dtype_of_the_protocol(write_grid):
    text = write_grid().read_text().replace("window: 64", "window: 64, dtype: bfloat16")
    specs = expand(read_grid(write_grid(text=text)))
    runs = Bench()(Task(tuple(specs)))
    assert all(run.error is None for run in runs)
    assert runs[0].measurements["loss"][0] != pytest.approx(math.log(258), rel=1e-3)
    assert torch.get_default_dtype() == torch.float32


def test_a_run_of_integers_is_what_convert_and_evaluate_give(write_grid, folder):
    more = "activations: [8, 5]\ncalibration: text.txt\nfixed_point: {smooth: 0.5}\n"
    specs = expand(read_grid(write_grid("one", more, GRID.replace("b32'", "b32-i8'"))))
    model = load(folder / "one")
    outcomes = {run.hash: run for task in make_tasks(specs) for run in Bench()(task)}
    for spec in [spec for spec in specs if spec.calibration]:
        converted = convert(model, spec.parsed_recipe, TEXT)
        integers = IntegerModel(converted.program, model.config)
        how = {"tokenizer": model.kbit_tokenizer, "protocol": Protocol(window=64, max_windows=6)}
        quality = evaluate(integers, TEXT, reference=model, **how)
        run = outcomes[spec.hash]
        assert run.error is None
        assert run.measurements["loss"][0] == pytest.approx(quality.loss, rel=1e-6)
        assert run.measurements["kld_mean"][0] == pytest.approx(quality.kld_mean, rel=1e-5)
        assert run.measurements["total_bits"] == (converted.bits.total_bits, None)
        assert run.measurements["bits_per_weight"] == (converted.bits.bits_per_weight, None)
    assert len(outcomes) == 5


def test_the_law_is_drawn_for_each_width_of_activations(write_grid, tmp_path):
    """A store of a grid with activations is a table whose kinds are lines of the law's figure."""
    more = "activations: [float, 8, 4]\ncalibration: text.txt\n"
    run_study(write_grid("'{one,two}'", more, GRID.replace("b32'", "b32-i8'")), tmp_path / "runs.db", executor="serial")
    table = read_table(tmp_path / "runs.db")
    assert sorted(set(table["activations"].tolist())) == [0, 4, 8]
    runs = prepare(*choose_slice(table)[:1])
    assert set(runs.kind) == {"f32", "int-b32-i8", "int-b32-i8-a8", "int-b32-i8-a4"}
    assert set(runs.k[runs.quantized]) == {3, 4}
