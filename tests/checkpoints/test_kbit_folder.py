"""kbit checkpoints: the bits come back, the sizes are what the formats say, and plain transformers refuses them."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from kbit.checkpoints import CheckpointWriter, KbitCheckpoint, open_checkpoint
from kbit.checkpoints.safetensors_header import read_header
from kbit.errors import CheckpointError
from kbit.formats import Format
from kbit.methods import choose
from kbit.packed import pack
from tests.checkpoints.kbit_folders import NORM, experts, packed_random, two_modules, write_modules
from tests.hostile.reading import read_all
from tests.packed.formats import formats, shapes
from tests.tiny_models import tiny_model


def bytes_of_data(folder: Path) -> int:
    """Bytes of all safetensors files of `folder` without their headers."""
    return sum(path.stat().st_size - 8 - int.from_bytes(path.read_bytes()[:8], "little") for path in folder.glob("*.safetensors"))


def test_packed_weights_come_back_bit_for_bit_and_dequantized(tmp_path):
    packed = {"model.up": packed_random("nf4-b64", (48, 100)), "model.down": packed_random("kmeans3-b32-o3", (20, 70))}
    checkpoint = open_checkpoint(write_modules(tmp_path / "m", packed))
    assert isinstance(checkpoint, KbitCheckpoint)
    assert (checkpoint.kind, checkpoint.source, checkpoint.recipe) == ("kbit", "tiny", {"weights": "many"})
    assert checkpoint.config == {"model_type": "llama", "hidden_size": 32}
    assert checkpoint.format_version == checkpoint.quantization["format_version"] == 1
    assert checkpoint.names == ("model.down.weight", "model.norm.weight", "model.up.weight")
    assert torch.equal(checkpoint.read("model.norm.weight"), NORM)
    for key, expected in packed.items():
        for found in (checkpoint.read_packed(key), checkpoint.read_packed(key + ".weight")):
            assert (found.fmt, found.shape) == (expected.fmt, expected.shape)
            assert found.parts().keys() == expected.parts().keys()
            assert all(torch.equal(part, expected.parts()[suffix]) for suffix, part in found.parts().items())
        assert torch.equal(checkpoint.read(key + ".weight"), expected.dequantize())
        assert checkpoint.nbytes(key + ".weight") == expected.nbytes
    read_all(checkpoint)


def test_the_files_are_as_documented(tmp_path):
    folder = two_modules(tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    assert {name: (tensor.dtype, tensor.dim()) for name, tensor in tensors.items()} == {
        "model.up.weight": (torch.uint8, 1),
        "model.up.weight_scale": (torch.float16, 1),
        "model.down.weight": (torch.uint8, 1),
        "model.down.weight_scale": (torch.float16, 1),
        "model.down.weight_zero": (torch.uint8, 1),
        "model.norm.weight": (torch.float32, 1),
    }
    assert json.loads((folder / "config.json").read_text())["quantization_config"] == {
        "quant_method": "kbit",
        "format_version": 1,
        "source": "tiny",
        "recipe": {"weights": "many"},
        "modules": {
            "model.up": {"format": "nf4-b64", "shape": [48, 100]},
            "model.down": {"format": "int3-b32-asym", "shape": [20, 70]},
        },
    }


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(formats, shapes), min_size=1, max_size=4), st.sampled_from([1, 5000, 10**9]))
def test_bytes_on_disk_are_the_stored_bits_of_the_formats(tmp_path_factory, modules, shard_bytes):
    folder = tmp_path_factory.mktemp("m") / "m"
    packed = {f"m{i}": packed_random(text, shape, seed=i) for i, (text, shape) in enumerate(modules)}
    write_modules(folder, packed, {}, shard_bytes=shard_bytes)
    expected = sum(Format.parse(text).stored_bits(shape) for text, shape in modules)
    assert bytes_of_data(folder) * 8 == expected == 8 * sum(weight.nbytes for weight in packed.values())
    checkpoint = open_checkpoint(folder)
    assert sum(checkpoint.nbytes(name) for name in checkpoint.names) * 8 == expected
    assert all(torch.equal(checkpoint.read(f"{key}.weight"), weight.dequantize()) for key, weight in packed.items())


@pytest.mark.parametrize("transposed", [False, True])
def test_matrices_of_experts_are_one_parameter(transposed, tmp_path):
    checkpoint = open_checkpoint(experts(tmp_path / "m", transposed=transposed))
    assert checkpoint.names == ("model.experts",)
    assert checkpoint.shape("model.experts") == ((3, 40, 24) if transposed else (3, 24, 40))
    whole = checkpoint.read("model.experts")
    for i in range(3):
        matrix = checkpoint.read_packed(f"model.experts.{i}").dequantize()
        assert torch.equal(whole[i], matrix.T if transposed else matrix)
    sizes = [Format.parse(text).stored_bits((24, 40)) // 8 for text in ("nf4-b64", "int3-row", "bf16")]
    assert checkpoint.nbytes("model.experts") == sum(sizes) == bytes_of_data(tmp_path / "m")
    read_all(checkpoint)


def test_a_weight_that_is_not_there_is_an_error(tmp_path):
    checkpoint = open_checkpoint(two_modules(tmp_path / "m"))
    for call in (checkpoint.read, checkpoint.shape, checkpoint.read_packed):
        with pytest.raises(CheckpointError, match=r"holds no (tensor|packed weight) 'model.norm.weigh'. It holds \d; .\w+ lists"):
            call("model.norm.weigh")


def test_the_fingerprint_follows_the_formats_too(tmp_path):
    found = {}
    for text in ("nf4-b64", "fp4e2m1-b64"):  # of one size
        packed = packed_random("nf4-b64", (48, 100))
        folder = write_modules(tmp_path / text, {"m": packed})
        config = (folder / "config.json").read_text().replace("nf4-b64", text)
        (folder / "config.json").write_text(config)
        found[text] = open_checkpoint(folder).fingerprint()
    assert found["nf4-b64"] != found["fp4e2m1-b64"]
    assert found["nf4-b64"] == open_checkpoint(write_modules(tmp_path / "again", {"m": packed}, shard_bytes=1)).fingerprint()


def quantized(out: Path, name: str) -> Path:
    """The tiny model `name` with every matrix in nf4-b64, and its 3-D parameters matrix by matrix."""
    model, fmt = tiny_model(name), Format.parse("nf4-b64")
    plain, weights = {}, {}
    for parameter, tensor in model.named_parameters():
        matrices = {None: tensor} if tensor.dim() == 2 else dict(enumerate(tensor)) if tensor.dim() == 3 else {}
        for expert, w in matrices.items():
            key = parameter.removesuffix(".weight") if expert is None else f"{parameter}.{expert}"
            weights[key] = (pack(choose("rtn", w.detach(), fmt)), None if expert is None else parameter, expert)
        if not matrices:
            plain[parameter] = tensor.detach()
    with CheckpointWriter(out, model.config.to_dict(), recipe={}, source=name) as writer:
        for parameter, tensor in plain.items():
            writer.declare(parameter, tensor.dtype, tuple(tensor.shape))
        for key, (packed, parameter, expert) in weights.items():
            writer.declare_packed(key, fmt, packed.shape, parameter=parameter, expert=expert)
        for key, (packed, _, _) in weights.items():
            writer.add_packed(key, packed)
        for parameter, tensor in plain.items():
            writer.add(parameter, tensor)
    return out


@pytest.mark.parametrize("name", ["llama", "llama-tied", "gpt_neox", "bloom", "gemma2", "mixtral", "qwen3_moe"])
def test_plain_transformers_refuses_a_kbit_checkpoint(name, tmp_path):
    folder = quantized(tmp_path / "m", name)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
def test_plain_transformers_refuses_it_though_only_the_experts_are_packed(name, tmp_path):
    model, fmt = tiny_model(name), Format.parse("nf4-b64")
    state = dict(model.named_parameters())
    stacks = {parameter: tensor for parameter, tensor in state.items() if tensor.dim() == 3}
    with CheckpointWriter(tmp_path / "m", model.config.to_dict(), recipe={}) as writer:
        for parameter, tensor in state.items():
            if parameter not in stacks:
                writer.declare(parameter, tensor.dtype, tuple(tensor.shape))
                continue
            for i, w in enumerate(tensor):
                writer.declare_packed(f"{parameter}.{i}", fmt, tuple(w.shape), parameter=parameter, expert=i)
        for parameter, tensor in state.items():
            if parameter not in stacks:
                writer.add(parameter, tensor)
                continue
            for i, w in enumerate(tensor):
                writer.add_packed(f"{parameter}.{i}", pack(choose("rtn", w.detach(), fmt)))
    assert open_checkpoint(tmp_path / "m").names == tuple(sorted(state))
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "m")


def test_every_byte_of_the_data_belongs_to_the_parts_that_the_header_names(tmp_path):
    folder = two_modules(tmp_path / "m")
    checkpoint = open_checkpoint(folder)
    named = {name for module in checkpoint.modules.values() for name in module.part_sizes()}
    assert read_header(folder / "model.safetensors").keys() == named | {"model.norm.weight"}
