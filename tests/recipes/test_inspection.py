"""Inspecting a model: figures equal their definitions, changes are priced as they cost, and planted faults are found."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import scipy.stats
import torch

from kbit.errors import FormatError, ModelError
from kbit.formats import Format
from kbit.methods import choose
from kbit.recipes import inspect_model
from kbit.recipes.advice import BF16_FLOOR, SAMPLE, Advice, Trial, Tried, advise, measured, try_changes, worth
from kbit.recipes.changes import TABLE, Change, changes_of
from kbit.recipes.facts import facts_of, sample_rows, squared_error
from kbit.recipes.inspection_text import sentences, why
from tests.tiny_models import tiny, tiny_model, tiny_tokenizer


def weights(n_out: int, n_in: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n_out, n_in, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny("llama", tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def inspection(llama):
    return inspect_model(llama, "int4-b16")


# Facts


def test_figures_are_those_of_scipy():
    w = weights(7, 65) ** 3  # heavy tails
    facts = facts_of(w)
    values = w.double().flatten().numpy()
    assert (facts.minimum, facts.maximum) == (float(w.min()), float(w.max()))
    assert facts.std == pytest.approx(values.std(), rel=1e-12)
    assert facts.kurtosis == pytest.approx(scipy.stats.kurtosis(values, fisher=False), rel=1e-9)
    assert facts.max_over_std == pytest.approx(abs(values).max() / values.std(), rel=1e-12)
    assert facts.far_share == (abs(values - values.mean()) > 6 * values.std()).mean()
    assert facts.power == pytest.approx((values**2).mean(), rel=1e-12)


def test_a_matrix_of_one_value_has_no_spread_and_no_tails():
    facts = facts_of(torch.full((4, 8), 0.5))
    assert (facts.std, facts.kurtosis, facts.max_over_std, facts.far_share, facts.outlier_columns) == (0, 0, 0, 0, 0)


@pytest.mark.parametrize("planted", [(), (3,), (0, 17, 63)])
def test_columns_far_wider_than_the_rest_are_counted(planted):
    w = weights(48, 64)
    w[:, list(planted)] *= 10
    assert facts_of(w).outlier_columns == len(planted)


def test_a_sample_is_evenly_spaced_rows_and_all_of_them_where_few():
    w = torch.arange(10.0)[:, None].expand(10, 4)
    assert sample_rows(w, 100) is w
    assert sample_rows(w, 16)[:, 0].tolist() == [0, 3, 6, 9]


# Changes


def test_the_changes_of_int4_are_these():
    found = {change.words: (str(change.fmt), change.method) for change in changes_of(Format.parse("int4-b64"), "rtn")}
    assert found == {
        "one more bit": ("int5-b64", "rtn"),
        "a smaller range (MSE-optimal)": ("int4-b64", "rtn-mse"),
        "smaller blocks": ("int4-b32", "rtn"),
        "smaller blocks, 8-bit scales": ("int4-b32-s8", "rtn"),
        "a zero point": ("int4-b64-asym", "rtn"),
        "a normal-float codebook": ("nf4-b64", "rtn"),
        "a float codebook": ("fp4e2m1-b64", "rtn"),
        "a k-means codebook": ("kmeans4-b64", "rtn"),
        "1% more input features in 16 bits": ("int4-b64-o1", "rtn"),
        "16 bits": ("bf16", "rtn"),
    }


@pytest.mark.parametrize(
    ("before", "words", "after"),
    [
        ("binary-row", "one more bit", "ternary-row"),
        ("ternary-b32", "one more bit", "int3-b32"),
        ("fp6e2m3-b64", "one more bit", "fp7e3m3-b64"),
        ("int3-tensor", "smaller blocks", "int3-row"),
        ("int3-row", "smaller blocks", "int3-b128"),
        ("int4-b64-min-o2", "a normal-float codebook", "nf4-b64-o2"),
        ("mxfp4", "smaller blocks", "fp4e2m1-b16-e8m0"),
    ],
)
def test_a_change_leads_to(before, words, after):
    made = {change.words: str(change.fmt) for change in changes_of(Format.parse(before), "rtn")}
    assert made[words] == str(Format.parse(after))


@pytest.mark.parametrize(
    ("fmt", "method", "words"),
    [
        ("int8-row", "rtn", "one more bit"),
        ("int4-b64", "rtn-mse", "a smaller range (MSE-optimal)"),
        ("int2-b64", "rtn", "a smaller range (MSE-optimal)"),  # rtn takes it already for k <= 2
        ("nf4-b64", "rtn", "a normal-float codebook"),
        ("int1-b64", "rtn", "a normal-float codebook"),  # {-1, +1}, like every codebook of one bit
        ("int4-b64-min", "rtn", "a zero point"),
        ("int4-row", "rtn", "smaller blocks, 8-bit scales"),
        ("int4-b1", "rtn", "smaller blocks"),
    ],
)
def test_there_is_no_change_to(fmt, method, words):
    assert words not in {change.words for change in changes_of(Format.parse(fmt), method)}


@pytest.mark.parametrize(
    "fmt", ["int1-b8", "int4-row", "fp3-b32", "dyn8-b64", "log5-tensor", "kmeans2-b64", "nvfp4", "binary-row"]
)
def test_every_change_leads_to_another_format_that_parses_and_encodes(fmt):
    w = weights(5, 40)
    for change in changes_of(Format.parse(fmt), "rtn"):
        assert (str(change.fmt), change.method) != (str(Format.parse(fmt)), "rtn")
        assert Format.parse(str(change.fmt)) == change.fmt
        assert math.isfinite(measured(w, change.fmt, change.method))


# Advice


def tried(name, mse, bits, *trials, count=1000):
    change = Change("", Format.parse("int4-b64"), "rtn")
    return Tried(name, count, mse, bits, tuple(Trial(replace(change, words=words), m, b) for words, m, b in trials))


def test_a_quarter_of_the_squared_error_is_worth_a_bit():
    assert worth(0.04, 0.01) == pytest.approx(1)
    assert worth(0.01, 0.01) == 0


def test_nothing_is_won_below_the_rounding_of_bf16():
    w = weights(512, 512)
    assert measured(w, Format.parse("bf16"), "rtn") == pytest.approx(
        BF16_FLOOR, rel=0.3
    )  # a normal curve is not even in a binade
    assert worth(BF16_FLOOR / 2, 0) == 0
    assert worth(0.01, 0) == worth(0.01, BF16_FLOOR)


def test_advice_ranks_by_worth_less_costs():
    layer = tried("a", 0.04, 4.0, ("dear", 0.0025, 7.0), ("free", 0.03, 4.0), ("fair", 0.01, 4.5))
    found = advise([layer])
    assert [advice.words for advice in found] == ["fair", "free", "dear"]
    assert found[0].worth == pytest.approx(1)
    assert found[0].costs == pytest.approx(0.5)
    assert found[0].net == pytest.approx(0.5)
    assert (found[0].error_before, found[0].error_after) == pytest.approx((0.2, 0.1))
    assert found[0].everywhere


def test_a_change_is_taken_where_it_pays():
    hurt = tried("hurt", 0.5, 4.0, ("16 bits", 0.0, 16.0), count=100)
    fine = [tried(f"fine {i}", 0.01, 4.0, ("16 bits", 0.0, 16.0), count=1000) for i in range(9)]
    (advice,) = advise([*fine, hurt])
    assert advice.layers == ("hurt",)
    assert not advice.everywhere
    assert advice.costs == pytest.approx(12 * 100 / 9100)
    assert advice.worth == pytest.approx(0.5 * math.log2((0.5 + 9 * 0.01) / (9 * 0.01)), rel=1e-3)


def test_a_change_that_pays_nowhere_is_priced_everywhere():
    (advice,) = advise([tried(name, 0.01, 4.0, ("16 bits", 0.0, 16.0)) for name in "abc"])
    assert advice.everywhere
    assert advice.net < 0
    assert advice.costs == pytest.approx(12)


def test_trials_measure_what_the_definition_says_and_count_all_stored_bits():
    w = weights(33, 96)
    found = try_changes("w", w, Format.parse("int3-b32"), "rtn")
    assert found.bits_per_weight == Format.parse("int3-b32").stored_bits((33, 96)) / (33 * 96)
    for trial in found.trials:
        if not trial.change.fmt.is_float:
            error = w - choose(trial.change.method, w, trial.change.fmt).dequantize()
            assert trial.relative_mse == pytest.approx(float(error.square().mean() / w.square().mean()), rel=1e-5)
        assert trial.bits_per_weight == trial.change.fmt.stored_bits((33, 96)) / (33 * 96)


def test_a_large_layer_is_tried_on_a_sample_that_knows_its_error():
    w = weights(2200, 1024)
    assert len(w) * 1024 > 2 * SAMPLE
    whole = squared_error(w, choose("rtn", w, Format.parse("int4-b64")).dequantize())
    sampled = measured(sample_rows(w, SAMPLE), Format.parse("int4-b64"), "rtn")
    assert sampled == pytest.approx(whole / float(w.square().mean()), rel=0.005)


def best_of(w: torch.Tensor, fmt: str) -> Advice:
    return advise([try_changes("w", w, Format.parse(fmt), "rtn")])[0]


def test_normal_weights_want_a_codebook_that_is_denser_near_zero():
    assert best_of(weights(128, 256), "int3-b64").words in ("a k-means codebook", "a normal-float codebook")


def test_even_weights_want_nothing_but_bits():
    even = torch.rand(128, 256, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = advise([try_changes("w", even, Format.parse("int4-b64"), "rtn")])
    fixed = [advice for advice in found if advice.words in ("a normal-float codebook", "a float codebook")]
    assert all(advice.error_after > advice.error_before for advice in fixed)


def test_two_wild_input_features_want_16_bits():
    w = weights(256, 256)
    w[:, [7, 200]] *= 40
    found = advise([try_changes("w", w, Format.parse("nf4-row"), "rtn")])
    kept = next(advice for advice in found if advice.words == "1% more input features in 16 bits")
    one = next(advice for advice in found if advice.words == "one more bit")
    assert kept.net > one.net
    assert kept.error_after < one.error_after


# A model


def test_errors_are_those_of_the_definition(inspection):
    w = tiny_model("llama").get_parameter("model.layers.1.mlp.down_proj.weight").detach()
    layer = next(layer for layer in inspection.layers if layer.name == "model.layers.1.mlp.down_proj")
    error = w - choose("rtn", w, Format.parse("int4-b16")).dequantize()
    assert layer.shape == tuple(w.shape)
    assert layer.relative_error == pytest.approx(float(error.norm() / w.norm()), rel=1e-5)
    assert layer.bits_per_weight == Format.parse("int4-b16").stored_bits(layer.shape) / w.numel()


def test_theory_explains_the_error_of_normal_weights(inspection):
    assert all(0.8 < layer.ratio < 1.25 for layer in inspection.linear)
    assert inspection.predicted_error == pytest.approx(inspection.relative_error, rel=0.05)


def test_embeddings_are_shown_in_the_format_that_they_would_get(inspection):
    roles = {layer.name: (layer.role, layer.format) for layer in inspection.layers}
    assert roles["model.embed_tokens"] == ("embedding", "int8-row")
    assert roles["lm_head"] == ("lm_head", "int8-row")
    assert len(inspection.linear) == 14


@pytest.mark.parametrize("name", ["gpt2", "llama-ragged"])
def test_any_model_that_can_be_walked_is_inspected(name, tmp_path):
    found = inspect_model(tiny(name, tmp_path), "nf3-row")
    assert found.linear
    assert all(math.isfinite(layer.relative_error) for layer in found.layers)


def test_a_planted_outlier_is_named_as_the_reason(tmp_path):
    model = tiny_model("llama")
    with torch.no_grad():
        model.get_parameter("model.layers.0.self_attn.q_proj.weight")[:, 5] *= 8
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    text = sentences(inspect_model(tmp_path, "int4-row"))
    assert text[1].startswith("Most error in model.layers.0.self_attn.q_proj (")
    assert "1 input feature stands far out" in text[1]


def test_weights_on_the_grid_want_nothing(tmp_path):
    model = tiny_model("llama")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("_proj.weight"):
                parameter.copy_(parameter.sign() * 0.75)  # 3 steps of 0.25: exact in float16
    model.save_pretrained(tmp_path)
    found = inspect_model(tmp_path, "int3-b16")
    assert found.relative_error == 0
    assert sentences(found)[-1].startswith("No change here is worth more bits than it costs.")


def test_reasons_follow_the_figures():
    normal = facts_of(weights(64, 64))
    assert why(normal).startswith("the weights are close to a normal curve")
    assert why(replace(normal, kurtosis=1.8)).startswith("the weights are spread almost evenly")
    assert why(replace(normal, kurtosis=9.0)).startswith("heavy tails")
    assert why(replace(normal, max_over_std=20.0)).startswith("single weights")
    assert why(replace(normal, outlier_columns=2)).startswith("2 input features stand")


def test_json_holds_every_figure_of_the_table(inspection):
    written = json.loads(json.dumps(inspection.to_json()))
    assert len(written["layers"]) == len(inspection.layers)
    keys = {"name", "shape", "minimum", "maximum", "std", "kurtosis", "max_over_std", "far_share", "outlier_columns"}
    assert keys | {"relative_error", "predicted_error", "ratio", "bits_per_weight", "advice"} <= set(written["layers"][0])
    assert [advice["net"] for advice in written["advice"]] == sorted((a["net"] for a in written["advice"]), reverse=True)
    assert {advice["words"] for advice in written["advice"]} <= set(TABLE)


def test_progress_is_told_for_each_matrix(llama):
    told = []
    inspect_model(llama, "binary-row", progress=lambda done, total, name: told.append((done, total, name)))
    assert told[0] == (0, 16, "model.embed_tokens")
    assert told[-1] == (16, 16, "")
    assert [done for done, *_ in told] == list(range(17))


def test_a_format_that_keeps_floats_is_refused(llama):
    with pytest.raises(FormatError) as error:
        inspect_model(llama, "bf16")
    assert str(error.value) == (
        "format 'bf16' keeps weights as they are, so there is nothing to inspect. Use a k-bit format, such as nf4-b64."
    )


def test_weights_that_are_not_finite_are_named(tmp_path):
    model = tiny_model("llama")
    with torch.no_grad():
        model.get_parameter("model.layers.1.mlp.up_proj.weight")[3, 4] = math.nan
    model.save_pretrained(tmp_path)
    with pytest.raises(
        ModelError, match=r"model\.layers\.1\.mlp\.up_proj: 1 of 1536 weights are not finite \(first at \[3, 4\]\)"
    ):
        inspect_model(tmp_path, "int4-b16")
