"""Parameters come from the checkpoint's tensors by transformers' own conversions, read one at a time."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from kbit.checkpoints.open import open_checkpoint
from kbit.errors import ModelError
from kbit.models import Assembly, skeleton
from tests.tiny_models import TINY, tiny, tiny_model


def assembly_of(folder):
    checkpoint = open_checkpoint(folder)
    return Assembly(skeleton(checkpoint), checkpoint)


@pytest.mark.parametrize("name", TINY)
def test_every_parameter_is_read_as_it_was(name, written):
    assembly = assembly_of(written(name))
    for key, tensor in tiny_model(name).state_dict().items():
        assert torch.equal(assembly.read(key), tensor), key


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe"])
def test_experts_that_lie_apart_become_one_parameter(name, written):
    checkpoint = open_checkpoint(written(name))
    assembly = assembly_of(written(name))
    assert not any("gate_up_proj" in name for name in checkpoint.names)  # the file is in the old layout
    gate = "block_sparse_moe.experts.2.w1" if name == "mixtral" else "mlp.experts.2.gate_proj"
    joined = assembly.read("model.layers.1.mlp.experts.gate_up_proj")
    first = checkpoint.read(f"model.layers.1.{gate}.weight")
    assert torch.equal(joined[2, : len(first)], first)


def test_only_what_is_asked_for_is_read(written, monkeypatch):
    checkpoint = open_checkpoint(written("mixtral"))
    read = []
    monkeypatch.setattr(checkpoint, "read", lambda name, read_it=checkpoint.read: read.append(name) or read_it(name))
    assembly = Assembly(skeleton(checkpoint), checkpoint)
    assert read == []
    assembly.read("model.layers.0.mlp.experts.down_proj")
    assert sorted(read) == [f"model.layers.0.block_sparse_moe.experts.{expert}.w2.weight" for expert in range(4)]


def test_the_dtype_is_that_of_the_checkpoint(tmp_path):
    tiny("llama", tmp_path, dtype=torch.bfloat16)
    assert assembly_of(tmp_path).read("model.norm.weight").dtype == torch.bfloat16


def test_two_tensors_for_one_parameter_are_refused(tmp_path):
    tiny("gpt2", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = next(name for name in tensors if name.endswith("ln_f.weight"))
    other = name.removeprefix("transformer.") if name.startswith("transformer.") else f"transformer.{name}"
    save_file({**tensors, other: tensors[name].clone()}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"both mean the parameter transformer\.ln_f\.weight\. Mend the checkpoint\."):
        assembly_of(tmp_path)
