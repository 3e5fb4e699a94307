"""Loading gives transformers' own model, whatever the kind of file, and never one with a weight that was made up."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from kbit.errors import ModelError
from kbit.models import load, load_tokenizer
from tests.checkpoints.gguf_files import model_to_gguf
from tests.tiny_models import TINY, stories260k, tiny, tiny_model

IDS = torch.arange(40)[None] % 256


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def changed(folder, out, change):
    """A copy of `folder` with its tensors passed through `change`."""
    shutil.copytree(folder, out)
    tensors = load_file(out / "model.safetensors")
    change(tensors)
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    return out


def with_config(folder, out, **settings):
    """A copy of `folder` with some settings of its config.json changed."""
    shutil.copytree(folder, out)
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, **settings}))
    return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", TINY)
def test_it_is_the_model_that_transformers_loads(name, dtype, written):
    ours, theirs = load(written(name), dtype=dtype), AutoModelForCausalLM.from_pretrained(written(name), dtype=dtype)
    for (name_ours, one), (name_theirs, other) in zip(
        (*ours.named_parameters(), *ours.named_buffers()), (*theirs.named_parameters(), *theirs.named_buffers()), strict=True
    ):
        assert name_ours == name_theirs
        assert one.dtype == other.dtype
        assert torch.equal(one, other), name_ours  # buffers too, such as the rotary frequencies that no file holds
    assert torch.equal(logits(ours), logits(theirs))
    assert not ours.training


@pytest.mark.parametrize("name", ["llama-tied", "gpt2", "mixtral"])
def test_shards_make_the_same_model(name, written, tmp_path):
    tiny(name, tmp_path, shard="40KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    assert torch.equal(logits(load(tmp_path)), logits(tiny_model(name)))


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_gpt2_loads_with_and_without_the_prefix_of_its_base_model(prefix, written, tmp_path):
    def rename(tensors):
        for key in list(tensors):
            tensors[prefix + key.removeprefix("transformer.")] = tensors.pop(key)
        tensors[prefix + "h.0.attn.bias"] = torch.ones(1, 1, 4, 4)  # the mask that old checkpoints hold

    assert torch.equal(logits(load(changed(written("gpt2"), tmp_path / "a", rename))), logits(tiny_model("gpt2")))


def test_a_gguf_file_gives_the_same_model(tmp_path):
    path = model_to_gguf(tmp_path / "tiny.gguf", tiny_model("llama"), "llama")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32)
    assert torch.equal(logits(load(path)), logits(theirs))


def test_the_tokenizer_and_source_come_with_the_model(written, tmp_path):
    model = load(str(written("llama")))
    assert model.kbit_source == model.name_or_path == str(written("llama"))
    assert model.kbit_tokenizer.encode("né") == load_tokenizer(written("llama")).encode("né")
    bare = shutil.copytree(written("llama"), tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    assert load(bare).kbit_tokenizer is None
    with pytest.raises(ModelError, match=re.escape("bare: there is no tokenizer. Copy tokenizer.json and tokenizer_config.json")):
        load_tokenizer(bare)


def test_a_damaged_tokenizer_is_one_line(written, tmp_path):
    folder = shutil.copytree(written("llama"), tmp_path / "damaged")
    (folder / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(ModelError, match="transformers cannot read its tokenizer: ") as error:
        load(folder)
    assert "\n" not in str(error.value)


def test_settings_for_generation_come_with_the_model(written, tmp_path):
    folder = shutil.copytree(written("llama"), tmp_path / "a")
    (folder / "generation_config.json").write_text(json.dumps({"max_new_tokens": 17, "do_sample": False}))
    assert load(folder).generation_config.max_new_tokens == 17


def test_a_missing_parameter_is_named(written, tmp_path):
    folder = changed(written("llama"), tmp_path / "a", lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(ModelError) as error:
        load(folder)
    assert str(error.value) == (
        f"{folder}: 1 parameters of the model are missing: model.layers.1.mlp.up_proj.weight. "
        "The checkpoint is incomplete or not of this model."
    )


def test_a_missing_head_that_is_not_tied_is_named(written, tmp_path):
    folder = changed(written("llama"), tmp_path / "a", lambda tensors: tensors.pop("lm_head.weight"))
    with pytest.raises(ModelError, match=re.escape("missing: lm_head.weight.")):
        load(folder)


def test_a_missing_expert_is_an_error(written, tmp_path):
    key = "model.layers.1.block_sparse_moe.experts.3.w1.weight"
    folder = changed(written("mixtral"), tmp_path / "a", lambda tensors: tensors.pop(key))
    with pytest.raises(ModelError, match=re.escape("model.layers.1.mlp.experts.gate_up_proj")):
        load(folder)


def test_a_tensor_without_a_place_is_named(written, tmp_path):
    folder = changed(written("llama"), tmp_path / "a", lambda tensors: tensors.update({"model.layers.2.x": torch.ones(3)}))
    with pytest.raises(ModelError, match=re.escape("1 tensors have no place in the model: model.layers.2.x.")):
        load(folder)


def test_a_wrong_shape_is_named(written, tmp_path):
    folder = with_config(written("llama"), tmp_path / "a", intermediate_size=64)
    with pytest.raises(ModelError) as error:
        load(folder)
    assert str(error.value) == (
        f"{folder}: model.layers.0.mlp.down_proj.weight has the shape (32, 48), but its config.json asks for (32, 64). "
        "Weights and config.json are not of one model."
    )


def test_weights_that_are_not_finite_are_named(written, tmp_path):
    def damage(tensors):
        tensors["model.layers.0.self_attn.k_proj.weight"][3, 7] = float("nan")

    folder = changed(written("llama"), tmp_path / "a", damage)
    with pytest.raises(ModelError) as error:
        load(folder)
    assert str(error.value) == (
        f"{folder}, model.layers.0.self_attn.k_proj: 1 of 512 weights are not finite (first at [3, 7]). "
        "Mend the checkpoint, or keep this layer in 16 bits."
    )


def test_a_head_with_weights_of_its_own_is_not_tied_whatever_the_config_says(written, tmp_path):
    model = load(with_config(written("llama"), tmp_path / "a", tie_word_embeddings=True))
    assert torch.equal(logits(model), logits(tiny_model("llama")))
    assert model.lm_head.weight is not model.model.embed_tokens.weight


def test_a_head_that_repeats_the_embedding_is_tied(written, tmp_path):
    def repeat(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    model = load(changed(written("llama-tied"), tmp_path / "a", repeat))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(logits(model), logits(tiny_model("llama-tied")))


def test_a_tied_model_whose_file_holds_only_the_head_loads(written, tmp_path):
    def move(tensors):
        tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")

    model = load(changed(written("llama-tied"), tmp_path / "a", move))
    assert torch.equal(logits(model), logits(tiny_model("llama-tied")))


def test_code_that_comes_with_a_model_is_not_run(written, tmp_path):
    folder = with_config(
        written("llama"),
        tmp_path / "a",
        model_type="mine",
        auto_map={"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"},
    )
    (folder / "mine.py").write_text("raise SystemExit('code of the checkpoint ran')")
    with pytest.raises(ModelError) as error:
        load(folder)
    assert str(error.value) == (
        f"{folder}: transformers knows no model_type 'mine'. Upgrade transformers, or, where the model brings its own code and "
        "you trust its maker, allow trust_remote_code."
    )


def test_code_that_the_user_trusts_is_run(written, tmp_path):
    folder = with_config(
        written("llama"),
        tmp_path / "a",
        model_type="mine",
        auto_map={"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"},
    )
    (folder / "mine.py").write_text(
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class Config(LlamaConfig):\n    model_type = 'mine'\n"
        "class Model(LlamaForCausalLM):\n    config_class = Config\n"
    )
    model = load(folder, trust_remote_code=True)
    assert type(model).__name__ == "Model"
    assert torch.equal(logits(model), logits(tiny_model("llama")))


def test_trusted_code_that_is_not_there_is_one_line(written, tmp_path):
    folder = with_config(written("llama"), tmp_path / "a", model_type="mine", auto_map={"AutoConfig": "mine.Config"})
    with pytest.raises(ModelError, match="a: the code that comes with the model is not there or fails: ") as error:
        load(folder, trust_remote_code=True)
    assert "\n" not in str(error.value)


def test_a_model_that_is_no_causal_language_model_is_refused(written, tmp_path):
    folder = with_config(written("llama"), tmp_path / "a", model_type="t5", num_heads=4, d_model=32)
    with pytest.raises(ModelError, match=r"transformers cannot make a causal language model from its config\.json: ") as error:
        load(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("settings", [{"hidden_size": "many"}, {"num_hidden_layers": -1}, {"hidden_size": 33}])
def test_a_config_with_values_that_do_not_fit_is_one_line(settings, written, tmp_path):
    folder = with_config(written("llama"), tmp_path / "a", **settings)
    with pytest.raises(ModelError) as error:
        load(folder)
    assert str(error.value).startswith(f"{folder}: ")
    assert "\n" not in str(error.value)


@pytest.mark.assets
def test_stories260k_tells_its_story(assets, tmp_path):
    """Text and loss as the authors of the conversion state them (0.674 nats a token on a story)."""
    model = load(stories260k(tmp_path / "stories", assets))
    out = model.generate(torch.tensor([[1]]), max_new_tokens=40, do_sample=False)
    assert model.kbit_tokenizer.decode(out[0], skip_special_tokens=True).startswith(
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
    )


@pytest.mark.real_model
@pytest.mark.slow
def test_smollm2_knows_the_capital_of_france(smollm2):
    model = load(smollm2)
    ids = model.kbit_tokenizer("The capital of France is", return_tensors="pt").input_ids
    out = model.generate(ids, max_new_tokens=4, do_sample=False)
    assert "Paris" in model.kbit_tokenizer.decode(out[0])
