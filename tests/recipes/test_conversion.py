"""A model becomes integers, in memory and on disk; and what cannot is refused in one line."""

import hashlib
import json
import math
from dataclasses import replace

import pytest
import torch

import kbit
from kbit.checkpoints import open_checkpoint
from kbit.errors import FixedPointError, FormatError, ModelError, TextError
from kbit.models.integer_float import run
from kbit.models.integer_run import Interpreter
from kbit.recipes import FixedPoint, Recipe, convert, fixed_point_recipe, integer_format, quantize_fixed_point
from kbit.recipes.calibration import ESTIMATORS, clips
from kbit.recipes.conversion import MIGRATED
from kbit.recipes.rotation import ROTATIONS
from tests.models.integer_models import TEXT, distance, doubled, ids_of, rounding, tiny_of
from tests.tiny_models import tiny_model, tiny_tokenizer


def made(model, weights=8, seed=0, **settings):
    return convert(model, fixed_point_recipe(weights, FixedPoint(**settings)), TEXT, tokenizer=tiny_tokenizer(), seed=seed)


def logits_of(converted, ids):
    return Interpreter(converted.program)(ids).double() * 2.0**-converted.program.logits_shift


def clipped(ends):
    """What static steps are defined to do: nearest of the levels of 8 bits between -end and end of each place."""
    by_row = rounding(8)

    def see(place, values):
        if place not in ends:
            return by_row(place, values)
        return (values / ends[place] * 127).round().clamp(-127, 127) / 127 * ends[place]

    return see


@pytest.mark.parametrize("rotate", ["none", "down", "inputs"])
@pytest.mark.parametrize("ranges", ESTIMATORS)
def test_static_steps_add_no_error_to_that_of_their_ranges(ranges, rotate):
    converted = made(tiny_of("llama"), ranges=ranges, rotate=rotate, smooth=0.0)
    ids = torch.tensor([tiny_tokenizer()(TEXT)["input_ids"][:128]])
    blueprint = doubled(converted.in_floats())
    exact = run(blueprint, ids)
    simulated = run(blueprint, ids, clipped(clips(converted.calibration, ranges, lambda place: 8)))
    assert distance(logits_of(converted, ids), exact) < 1.2 * distance(simulated, exact) < 0.2


def test_static_steps_are_numbers_of_the_program():
    converted = made(tiny_of("llama"), ranges="min-max", rotate="none", smooth=0.0)
    program = converted.program
    (_, a, e, _), *_, (_, last, _, _) = (step.numbers for step in program.steps if step.op == "quantize")
    norm = 2.0 ** (14 - math.frexp(converted.calibration.largest["0.attention"])[1])  # twice the largest fits 16 bits
    assert (a, e) == (round(converted.calibration.largest["0.attention"] * norm), 0)
    assert last > 0
    dynamic = made(tiny_of("llama"), rotate="none", smooth=0.0).program
    assert {step.numbers[1:3] for step in dynamic.steps if step.op == "quantize"} == {(0, 0)}


@pytest.mark.parametrize("smooth", ["auto", 0.0, 0.5])
@pytest.mark.parametrize("rotate", ROTATIONS)
def test_the_floats_that_are_lowered_are_the_model(smooth, rotate):
    model, ids = tiny_of("qwen2"), ids_of()
    with torch.no_grad():
        expected = model(input_ids=ids).logits
    converted = made(model, smooth=smooth, rotate=rotate)
    torch.testing.assert_close(run(converted.blueprint, ids), expected, rtol=0, atol=2e-4)
    assert bool(converted.migrated) == (smooth != 0.0 and bool(MIGRATED[rotate]))


def test_the_model_itself_is_untouched():
    model = tiny_of("llama-tied")
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    made(model, smooth=0.5, rotate="all")
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_the_same_text_and_seed_give_the_same_program():
    one, two = (made(tiny_of("llama"), 4, rotate="all", seed=5).program for _ in range(2))
    assert one.to_json() == two.to_json()
    assert all(torch.equal(a, b) for a, b in zip(one.tensors, two.tensors, strict=True))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_checkpoint_is_what_was_made(written, tmp_path, kind):
    recipe = fixed_point_recipe(4, FixedPoint(8), layers={"*.0.*": "int6-row"})
    result = quantize_fixed_point(written(kind), recipe, tmp_path / "out", text=TEXT)
    model, ids = kbit.load(tmp_path / "out"), ids_of()
    source = kbit.load(written(kind))
    expected = Interpreter(convert(source, recipe, TEXT).program)(ids)
    assert torch.equal(model.integer_logits(ids), expected)
    assert model.kbit_tokenizer is not None
    checkpoint = open_checkpoint(tmp_path / "out")
    assert Recipe.from_dict(checkpoint.recipe) == replace(recipe, fixed_point=FixedPoint(8).bind(TEXT))
    assert checkpoint.recipe["fixed_point"]["text_sha256"] == hashlib.sha256(TEXT.encode()).hexdigest()
    assert result.bits.total_bytes == model.sizes["total_bytes"] == sum(checkpoint.nbytes(name) for name in checkpoint.names)
    assert result.bits.bits_per_weight == pytest.approx(model.sizes["bits_per_weight"])
    assert result.bits.parameters == sum(parameter.numel() for parameter in source.parameters())
    formats = {row.layer: row.format for row in result.rows}
    assert {fmt for name, fmt in formats.items() if ".0." in name} == {"int6-row"}
    assert {fmt for name, fmt in formats.items() if ".1." in name} == {"int4-b64-i8"}
    assert result.calibration_tokens == 384
    assert json.dumps(result.to_json())


def test_sums_that_could_leave_32_bits_fall_back_to_rows():
    model = tiny_model("llama", intermediate_size=640)
    with torch.no_grad():  # 640 * 127 * 255 * 127 > 2^31: every code and every scale is the largest
        model.model.layers[1].mlp.down_proj.weight.copy_(torch.randn(32, 640).sign() * 0.02)
    converted = made(model, rotate="none", smooth=0.0)
    assert converted.fallbacks == ("model.layers.1.mlp.down_proj in int8-row, since sums over blocks could leave 32 bits",)
    formats = {row.layer: row.format for row in converted.rows}
    assert formats["model.layers.1.mlp.down_proj"] == "int8-row"
    assert formats["model.layers.0.mlp.down_proj"] == "int8-b64-i8"
    assert made(model, rotate="none", smooth=0.0, activations=7).fallbacks == ()


def dead(model):
    """Values of layer 1 are all 0, so its o multiplies nothing."""
    with torch.no_grad():
        model.model.layers[1].self_attn.v_proj.weight.zero_()
    return model


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_range_of_no_width_is_refused_where_steps_are_static(estimator):
    said = r"1\.mixed: calibration saw nothing but 0 there, a range of no width\. Calibrate with another text, or take ranges per"
    with pytest.raises(FixedPointError, match=said):
        made(dead(tiny_model("llama")), ranges=estimator)


@pytest.mark.parametrize("smooth", ["auto", 0.5])
def test_values_that_are_all_zero_are_no_trouble_per_token(smooth):
    ids = ids_of()
    converted = made(dead(tiny_model("llama")), smooth=smooth)
    assert distance(logits_of(converted, ids), run(converted.in_floats(), ids)) < 0.05


def test_a_scale_that_underflows_is_refused():
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(1e-9)
    said = r"model\.layers\.0\.mlp\.up_proj: its weights are at most .*e-10, so small that their scale underflows\. Scale"
    with pytest.raises(FixedPointError, match=said):
        made(model, smooth=0.0)


def test_a_text_that_is_too_short_is_refused(written, tmp_path):
    with pytest.raises(TextError, match="the calibration text has 3 tokens"):
        quantize_fixed_point(written("llama"), fixed_point_recipe(4), tmp_path / "out", text="abc")
    assert not (tmp_path / "out").exists()


def test_a_model_without_integers_is_refused(written, tmp_path):
    with pytest.raises(FixedPointError, match=r"BloomAttention of BloomForCausalLM has no fixed-point form"):
        quantize_fixed_point(written("bloom"), fixed_point_recipe(4), tmp_path / "out", text=TEXT)
    quantize_fixed_point(written("llama"), fixed_point_recipe(4), tmp_path / "out", text=TEXT)
    with pytest.raises(ModelError, match="is quantized already"):
        quantize_fixed_point(tmp_path / "out", fixed_point_recipe(4), tmp_path / "again", text=TEXT)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"activations": 3}, "activations of 3 bits are not to be had. Write 4 to 8."),
        ({"activations": 9}, "activations of 9 bits are not to be had."),
        ({"activations": True}, "activations of True bits are not to be had."),
        ({"ranges": "mean"}, "ranges 'mean' is not to be had. There are token, min-max, percentile, mse, kl, moving-average;"),
        ({"rotate": "left"}, "rotate 'left' is not to be had. There are none, down, inputs, all;"),
        ({"smooth": 1.5}, "smooth 1.5 is no strength. Write auto, or a number from 0 (none) to 1."),
        ({"smooth": "much"}, "smooth 'much' is no strength."),
        ({"tokens": 0}, "0 tokens calibrate nothing. Write 64 or more."),
        (
            {"activation": 8},
            "fixed_point has no setting 'activation'. Settings are activations, ranges, smooth, rotate, ",
        ),
    ],
)
def test_settings_that_are_none_are_refused(settings, said):
    with pytest.raises(FormatError) as caught:
        Recipe("int4-b64-i8", fixed_point=settings)
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["nf4-b64", "int4-b64", "int4-b64-asym-i8", "int1-row", "int4-b64-i8-o2", "int4-tensor", "bf16"])
def test_a_format_without_whole_numbers_is_refused(text):
    with pytest.raises(FormatError, match=r"has no integer form: that wants whole numbers under one scale a row\."):
        integer_format(text)
    for role in ("weights", "embeddings", "lm_head"):
        with pytest.raises(FormatError, match="has no integer form"):
            Recipe(**{"weights": "int4-b64-i8", role: text}, fixed_point={})
    recipe = Recipe("int4-b64-i8", layers={"*.up_proj": text}, fixed_point={})
    with pytest.raises(FormatError, match="has no integer form"):
        convert(tiny_of("llama"), recipe, TEXT, tokenizer=tiny_tokenizer())


@pytest.mark.parametrize("bits", [1, 9, 0])
def test_bits_of_weights_that_are_none_are_refused(bits):
    with pytest.raises(FormatError, match=rf"weights of {bits} bits have no integer form\. Write 2 to 8\."):
        integer_format(bits)


def test_a_recipe_of_integers_comes_back_from_its_json():
    recipe = fixed_point_recipe(3, FixedPoint(6, ranges="kl", smooth=0.25, rotate="all", tokens=512), lm_head="int6-row")
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert str(integer_format(5)) == "int5-b64-i8"
    assert "fixed_point" not in Recipe("int4-b64-i8").to_json()
    with pytest.raises(FormatError, match="nothing stays in 16 bits where a model runs on integers alone"):
        Recipe("int4-b64-i8", keep=("*.0.*",), fixed_point={})
