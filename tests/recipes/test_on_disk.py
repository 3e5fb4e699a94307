"""A checkpoint quantized layer by layer is the model quantized in memory, bit for bit, in little memory, whole or not at all."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from kbit.checkpoints.open import open_checkpoint
from kbit.errors import CheckpointError, FormatError, ModelError
from kbit.models import load
from kbit.recipes import Recipe, quantize, quantize_checkpoint
from kbit.recipes.on_disk import relative_error
from tests.checkpoints.gguf_files import model_to_gguf
from tests.recipes.stored import data_bytes
from tests.tiny_models import TINY, stories260k, tiny, tiny_model

IDS = torch.arange(40)[None] % 256
RECIPES = [  # for every kind of model
    Recipe("nf4-b64", layers={"*.1.*": "int4-b32-asym-o5"}),
    Recipe("fp6e3m2-b32", embeddings="bf16", keep=("*.0.*",)),
]
MORE_RECIPES = [  # for three kinds, since looking for the best range takes longer
    Recipe("int3-b32-s8-o5", method="rtn-mse"),
    Recipe("kmeans2-row", embeddings="bf16", lm_head="int4-b64-min"),
    Recipe("ternary-b64", method="rtn-percentile", layers={"*.1.*": "nvfp4"}),
    Recipe("bf16", embeddings="bf16", lm_head="bf16"),
    Recipe("f32", embeddings="f32", lm_head="f32"),
]


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize(
    ("name", "recipes"),
    [(name, RECIPES) for name in TINY] + [(name, MORE_RECIPES) for name in ("llama-ragged", "gpt2", "qwen2_moe")],
)
def test_what_is_loaded_is_what_was_simulated_and_what_was_counted(name, recipes, written, tmp_path):
    model = load(written(name))
    for number, recipe in enumerate(recipes):
        out = tmp_path / str(number)
        result = quantize_checkpoint(written(name), recipe, out)
        small, again = quantize(model, recipe), load(out, packed=False)
        assert torch.equal(logits(again), logits(small)), recipe
        assert data_bytes(out) * 8 == result.bits.total_bits == small.kbit_bits.total_bits, recipe
        assert again.kbit_tokenizer.encode("né") == model.kbit_tokenizer.encode("né")


def test_the_checkpoint_says_what_it_was_made_from_and_how(written, tmp_path):
    recipe = Recipe("nf4-b64", keep=("*.0.*",))
    quantize_checkpoint(written("llama"), recipe, tmp_path / "out")
    quantization = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert quantization["quant_method"] == "kbit"
    assert quantization["source"] == str(written("llama").resolve())
    assert Recipe.from_dict(quantization["recipe"]) == recipe
    assert "model.layers.0.mlp.up_proj" not in quantization["modules"]
    assert quantization["modules"]["model.layers.1.mlp.up_proj"]["format"] == "nf4-b64"


def test_shards_in_the_source_make_no_difference(tmp_path):
    tiny("mixtral", tmp_path / "one")
    tiny("mixtral", tmp_path / "many", shard="60KB")
    quantize_checkpoint(tmp_path / "one", "int4-b64", tmp_path / "a")
    quantize_checkpoint(tmp_path / "many", "int4-b64", tmp_path / "b")
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


def test_the_same_call_writes_the_same_bytes(written, tmp_path):
    for out in ("a", "b"):
        quantize_checkpoint(written("llama"), "kmeans3-b64", tmp_path / out)
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_experts_of_two_formats_in_odd_shapes(tmp_path):
    sizes = {"hidden_size": 36, "num_attention_heads": 3, "num_key_value_heads": 1, "intermediate_size": 44}
    source = tiny("mixtral", tmp_path / "source", **sizes)
    recipe = Recipe("int3-b32-o5", layers={"*.experts.down_proj.2": "int8-row"}, keep=("*.experts.*.1",))
    quantize_checkpoint(source, recipe, tmp_path / "out")
    assert torch.equal(logits(load(tmp_path / "out", packed=False)), logits(quantize(load(source), recipe)))
    assert data_bytes(tmp_path / "out") == quantize(load(source), recipe).kbit_bits.total_bytes


def test_a_gguf_file_goes_in(tmp_path):
    source = model_to_gguf(tmp_path / "tiny.gguf", tiny_model("llama"), "llama", tokens=0)
    quantize_checkpoint(source, "int5-b64", tmp_path / "out")
    assert torch.equal(logits(load(tmp_path / "out", packed=False)), logits(quantize(load(source), "int5-b64")))


def test_a_bf16_source_and_one_dtype_later_give_the_same(tmp_path):
    source = tiny("llama", tmp_path / "source", dtype=torch.bfloat16)
    quantize_checkpoint(source, "int4-b64", tmp_path / "out")
    assert torch.equal(logits(load(tmp_path / "out", packed=False)), logits(quantize(load(source), "int4-b64")))


def test_an_untied_head_of_a_model_that_claims_to_be_tied_is_kept(written, tmp_path):
    source = shutil.copytree(written("llama"), tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    quantize_checkpoint(source, "int8-row", tmp_path / "out")
    assert torch.equal(logits(load(tmp_path / "out", packed=False)), logits(quantize(load(written("llama")), "int8-row")))


def test_errors_in_the_table_are_relative_and_right(written, tmp_path):
    result = quantize_checkpoint(written("llama"), Recipe("int3-b32", keep=("*.0.mlp.*",)), tmp_path / "out")
    before, after = tiny_model("llama").state_dict(), load(tmp_path / "out", packed=False).state_dict()
    for row in result.rows:
        w, seen = before[f"{row.layer}.weight"].double(), after[f"{row.layer}.weight"].double()
        assert row.error == pytest.approx(float((w - seen).norm() / w.norm()), rel=1e-9)
        assert (row.method is None) == (row.format == "bf16")
        assert row.shape == tuple(w.shape)
    assert len(result.quantized) == len(result.rows) - 3
    assert result.worst == max(result.quantized, key=lambda row: row.error)
    assert result.mean_error == pytest.approx(sum(row.error for row in result.quantized) / len(result.quantized))
    assert result.source_bytes == data_bytes(written("llama"))


def test_the_error_of_a_layer_of_zeros_is_zero():
    assert relative_error(torch.zeros(3, 4), torch.zeros(3, 4)) == 0.0


def test_progress_counts_every_matrix(written, tmp_path):
    seen = []
    quantize_checkpoint(written("llama"), "int8-row", tmp_path / "out", progress=lambda *step: seen.append(step))
    assert [done for done, _, _ in seen] == list(range(17))
    assert {total for _, total, _ in seen} == {16}
    assert seen[3][2] == "model.layers.0.self_attn.v_proj"


def damaged(folder, out, name, place):
    shutil.copytree(folder, out)
    tensors = load_file(out / "model.safetensors")
    tensors[name][place] = float("nan")
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    return out


def test_weights_that_are_not_finite_leave_nothing_behind(written, tmp_path):
    source = damaged(written("llama"), tmp_path / "source", "model.layers.1.mlp.up_proj.weight", (5, 6))
    with pytest.raises(ModelError) as error:
        quantize_checkpoint(source, "nf4-b64", tmp_path / "out")
    assert str(error.value) == (
        f"{source}, model.layers.1.mlp.up_proj: 1 of 1536 weights are not finite (first at [5, 6]). "
        "Mend the checkpoint, or keep this layer in 16 bits."
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_weights_that_are_not_finite_are_an_error_even_where_they_are_kept(written, tmp_path):
    source = damaged(written("llama"), tmp_path / "source", "model.layers.1.mlp.up_proj.weight", (5, 6))
    with pytest.raises(ModelError, match="are not finite"):
        quantize_checkpoint(source, Recipe("nf4-b64", keep=("*.1.mlp.up_proj",)), tmp_path / "out")


@pytest.mark.parametrize(
    ("source", "recipe", "out", "error", "said"),
    [
        ("nowhere/x/y", "nf4-b64", "out", CheckpointError, "does not exist"),
        ("llama", Recipe("nf4-b64", keep=("*.9.*",)), "out", FormatError, "the glob '*.9.*' matches no layer"),
        ("llama", "nf4-b64", "full", CheckpointError, "exists and is not empty"),
    ],
)
def test_faults_of_the_user_are_told_before_anything_is_written(source, recipe, out, error, said, written, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep me")
    with pytest.raises(error) as found:
        quantize_checkpoint(written("llama") if source == "llama" else source, recipe, tmp_path / out)
    assert said in str(found.value)
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
    assert (tmp_path / "full" / "mine.txt").read_text() == "keep me"


def test_a_kbit_checkpoint_is_not_quantized_again(written, tmp_path):
    quantize_checkpoint(written("llama"), "nf4-b64", tmp_path / "once")
    with pytest.raises(ModelError) as error:
        quantize_checkpoint(tmp_path / "once", "int2-b64", tmp_path / "twice")
    assert str(error.value) == (
        f"{tmp_path / 'once'}: is quantized already. Quantize the model that it was made from: {written('llama').resolve()}."
    )


def test_a_kbit_checkpoint_opens_under_its_own_kind(written, tmp_path):
    quantize_checkpoint(written("gpt2"), "nf4-b64", tmp_path / "out")
    checkpoint = open_checkpoint(tmp_path / "out")
    assert checkpoint.kind == "kbit"
    packed = checkpoint.read_packed("transformer.h.1.mlp.c_fc")
    assert packed.shape == (128, 32)  # rows are outputs


MEASURE = """
import sys
from kbit.recipes import quantize_checkpoint
from kbit.recipes.peak import peak_bytes, restart_peak

restart_peak()
before = peak_bytes()
result = quantize_checkpoint(sys.argv[1], sys.argv[2], sys.argv[3])
print(result.peak_bytes - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize("fmt", ["nf4-b64", "int3-b64-asym-o2", "int2-b64", "kmeans3-row"])
@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_the_peak_is_four_times_the_largest_layer_and_200_mb(name, fmt, tmp_path):
    """The models hold 0.6 GB and 0.7 GB, far above the limit. The largest layer: 28 MB, and 67 MB (gate and up of 8 experts)."""
    sizes = {"hidden_size": 1024, "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 2048}
    more = {"llama": {"intermediate_size": 7168}, "mixtral": {"intermediate_size": 1024, "num_local_experts": 8}}[name]
    source = tiny(name, tmp_path / "source", num_hidden_layers=6, shard="200MB", **sizes, **more)
    largest = max(tensor.numel() * 4 for tensor in tiny_model(name, num_hidden_layers=1, **sizes, **more).parameters())
    assert data_bytes(source) > 4 * largest + 200e6
    command = [sys.executable, "-c", MEASURE, str(source), fmt, str(tmp_path / "out")]
    peak = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert peak <= 4 * largest + 200e6, f"{peak / 1e6:.0f} MB for a largest layer of {largest / 1e6:.0f} MB"


@pytest.mark.assets
def test_stories260k_at_8_bits_tells_the_same_story(assets, tmp_path):
    quantize_checkpoint(stories260k(tmp_path / "source", assets), "int8-b64", tmp_path / "out")
    model = load(tmp_path / "out")
    out = model.generate(torch.tensor([[1]]), max_new_tokens=30, do_sample=False)
    assert model.kbit_tokenizer.decode(out[0], skip_special_tokens=True).startswith(
        "Once upon a time, there was a little girl named"
    )


@pytest.mark.real_model
@pytest.mark.slow
def test_smollm2_at_3_bits_still_writes_english(smollm2, tmp_path):
    result = quantize_checkpoint(smollm2, "int3-b64-asym", tmp_path / "out")
    assert 3.2 < result.bits.bits_per_weight < 3.4
    model = load(tmp_path / "out")
    ids = model.kbit_tokenizer("The capital of France is", return_tensors="pt").input_ids
    out = model.generate(ids, max_new_tokens=8, do_sample=False)
    assert model.kbit_tokenizer.decode(out[0]).startswith("The capital of France is")
