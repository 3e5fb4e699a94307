"""GGUF files under Hugging Face names: the same weights as transformers' own loader, one tensor at a time."""

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from transformers import AutoModelForCausalLM
from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

from kbit.checkpoints import open_checkpoint
from kbit.checkpoints.gguf_file import names_of
from kbit.checkpoints.rope_factors import llama3_factors
from kbit.errors import CheckpointError
from tests.checkpoints.gguf_files import ARCHITECTURES, llama_rows, model_to_gguf, settings_of, tensors_of, write_gguf
from tests.hostile.reading import read_all
from tests.tiny_models import tiny_model

# what transformers does not read from a GGUF file, so that its own loader needs its defaults
DEFAULTS = {
    "qwen3": {"head_dim": 128},
    "qwen2moe": {"moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632},
    "qwen3moe": {"moe_intermediate_size": 768},
    "gpt2": {"n_positions": 1024},
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tensors_are_those_that_transformers_loads(architecture, tmp_path):
    model = tiny_model(ARCHITECTURES[architecture][0], **DEFAULTS.get(architecture, {}))
    path = model_to_gguf(tmp_path / "m.gguf", model, architecture)
    checkpoint = open_checkpoint(path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32)
    state = loaded.state_dict()
    assert checkpoint.kind == "gguf"
    assert checkpoint.config["architectures"] == [type(loaded).__name__]
    for name in checkpoint.names:
        assert checkpoint.shape(name) == tuple(state[name].shape), name
        assert torch.equal(checkpoint.read(name), state[name]), name
    assert {id(p) for n, p in loaded.named_parameters() if n in checkpoint.names} == {id(p) for p in loaded.parameters()}


@pytest.mark.parametrize("architecture", DEFAULTS)
def test_sizes_that_transformers_does_not_read_are_read(architecture, tmp_path):
    model = tiny_model(ARCHITECTURES[architecture][0])
    checkpoint = open_checkpoint(model_to_gguf(tmp_path / "m.gguf", model, architecture))
    for name, parameter in model.named_parameters():
        assert torch.equal(checkpoint.read(name), parameter), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_names_are_those_that_transformers_maps(architecture):
    model = tiny_model(ARCHITECTURES[architecture][0])
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=model.config.to_dict())
    expected = get_gguf_hf_weights_map(model, processor)
    assert names_of(list(model.state_dict()), architecture, model.config.num_hidden_layers, processor) == expected


def test_rows_of_q_and_k_are_put_back_in_transformers_order(tmp_path):
    model = tiny_model("llama")
    tensors = tensors_of(model, "llama")
    for name, values in tensors.items():
        if ".attn_q." in name or ".attn_k." in name:
            heads = 4 if ".attn_q." in name else 2
            tensors[name] = llama_rows(torch.from_numpy(values), heads).numpy()
    checkpoint = open_checkpoint(write_gguf(tmp_path / "m.gguf", tensors, settings_of(model, "llama")))
    for name, parameter in model.state_dict().items():
        assert torch.equal(checkpoint.read(name), parameter), name


@pytest.mark.parametrize("kind", [Kind.F16, Kind.BF16, Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q8_0, Kind.MXFP4])
def test_every_type_is_dequantized_as_gguf_py_does(kind, tmp_path):
    model = tiny_model("qwen2")
    tensors = tensors_of(model, "qwen2")
    path = write_gguf(tmp_path / "m.gguf", tensors, settings_of(model, "qwen2"), architecture="qwen2", kind=kind)
    checkpoint = open_checkpoint(path)
    name, gguf_name = "model.layers.0.self_attn.o_proj.weight", "blk.0.attn_output.weight"
    expected = gguf.quants.dequantize(gguf.quants.quantize(tensors[gguf_name], kind), kind)
    dtype = {Kind.F16: torch.float16, Kind.BF16: torch.bfloat16}.get(kind, torch.float32)
    assert checkpoint.dtype(name) == checkpoint.read(name).dtype == dtype
    np.testing.assert_array_equal(checkpoint.read(name).float().numpy(), expected)
    assert checkpoint.nbytes(name) == gguf.quants.quantize(tensors[gguf_name], kind).nbytes


def test_a_large_tensor_is_dequantized_in_pieces_alike(tmp_path, monkeypatch):
    path = model_to_gguf(tmp_path / "m.gguf", tiny_model("llama"), "llama", kind=Kind.Q8_0)
    whole = open_checkpoint(path).read("model.embed_tokens.weight")
    monkeypatch.setattr("kbit.checkpoints.gguf_file.CHUNK", 100)
    assert torch.equal(open_checkpoint(path).read("model.embed_tokens.weight"), whole)


def test_llama_3s_frequency_factors_become_the_configs_scaling(tmp_path):
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    model = tiny_model("llama", hidden_size=256, head_dim=64, rope_parameters={"rope_type": "default", "rope_theta": 500000.0})
    factors = llama3_factors(32, 500000.0, 8.0)
    tensors = tensors_of(model, "llama") | {"rope_freqs.weight": factors.numpy()}
    checkpoint = open_checkpoint(write_gguf(tmp_path / "m.gguf", tensors, settings_of(model, "llama")))
    config = type(model.config).from_dict(checkpoint.config)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 500000.0 ** -(torch.arange(32) / 32)
    torch.testing.assert_close(scaled, plain / factors)  # transformers' own formula, from the config that we made
    assert config.rope_parameters["rope_type"] == "llama3"
    assert "rope_freqs.weight" not in checkpoint.names


def test_other_frequency_factors_are_refused(tmp_path):
    model = tiny_model("llama")
    tensors = tensors_of(model, "llama") | {"rope_freqs.weight": np.array([1, 2, 3, 4], dtype=np.float32)}
    checkpoint = open_checkpoint(write_gguf(tmp_path / "m.gguf", tensors, settings_of(model, "llama")))
    with pytest.raises(CheckpointError, match=r"its rope_freqs.weight are not those of Llama 3"):
        read_all(checkpoint)


def test_a_tensor_without_a_place_or_a_place_without_a_tensor_is_refused(tmp_path):
    model = tiny_model("llama")
    tensors, settings = tensors_of(model, "llama"), settings_of(model, "llama")
    surplus = write_gguf(tmp_path / "a.gguf", tensors | {"blk.0.extra.weight": np.ones((2, 32), np.float32)}, settings)
    with pytest.raises(
        CheckpointError, match=r"holds the tensor 'blk.0.extra.weight', which has no place in transformers' LlamaFor"
    ):
        read_all(surplus)
    del tensors["blk.1.ffn_up.weight"]
    with pytest.raises(CheckpointError, match=r"lacks 1 parameters of the model, first model.layers.1.mlp.up_proj.weight"):
        read_all(write_gguf(tmp_path / "b.gguf", tensors, settings))


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("llama.block_count", 2**31, "says block_count = 2147483648, more than its 21 tensors hold"),
        ("llama.expert_count", 2**31, "says expert_count = 2147483648"),
        ("llama.embedding_length", 64, "where the settings ask for"),
        ("llama.attention.head_count", 0, "transformers makes no causal language model"),
        ("llama.vocab_size", 2**32 - 1, "where the settings ask for"),
    ],
)
def test_settings_that_do_not_fit_the_tensors_are_refused(key, value, text, tmp_path):
    model = tiny_model("llama")
    path = write_gguf(tmp_path / "m.gguf", tensors_of(model, "llama"), settings_of(model, "llama") | {key: value})
    with pytest.raises(CheckpointError, match=text):
        read_all(path)


def test_an_architecture_that_transformers_cannot_read_is_refused(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", {"a.weight": np.ones((2, 32), np.float32)}, {}, architecture="gptneox")
    with pytest.raises(CheckpointError, match=r"transformers makes no causal language model of its settings .*gptneox"):
        read_all(path)


def test_a_vocabulary_without_tensors_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no tensors"):
        open_checkpoint(write_gguf(tmp_path / "m.gguf", {}, {}))


def test_the_fingerprint_follows_the_bytes_of_the_tensors(tmp_path):
    a = open_checkpoint(model_to_gguf(tmp_path / "a.gguf", tiny_model("llama"), "llama")).fingerprint()
    assert open_checkpoint(model_to_gguf(tmp_path / "b.gguf", tiny_model("llama"), "llama")).fingerprint() == a
    assert open_checkpoint(model_to_gguf(tmp_path / "c.gguf", tiny_model("llama", seed=1), "llama")).fingerprint() != a
    assert open_checkpoint(model_to_gguf(tmp_path / "d.gguf", tiny_model("llama"), "llama", kind=Kind.F16)).fingerprint() != a


@pytest.mark.real_model
def test_smollm2_reads_as_transformers_reads_it(smollm2):
    checkpoint = open_checkpoint(smollm2)
    loaded = AutoModelForCausalLM.from_pretrained(smollm2.parent, gguf_file=smollm2.name, dtype=torch.float32)
    state = loaded.state_dict()
    assert set(checkpoint.names) == {name for name, _ in loaded.named_parameters()}
    for name in checkpoint.names:
        assert torch.equal(checkpoint.read(name), state[name]), name
    theirs = loaded.config.to_dict()
    for key in ("hidden_size", "rope_parameters", "rms_norm_eps", "vocab_size", "tie_word_embeddings", "max_position_embeddings"):
        assert checkpoint.config[key] == theirs[key]
