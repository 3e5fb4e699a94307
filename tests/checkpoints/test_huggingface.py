"""Hugging Face directories: one file or shards, read as transformers reads them; what is unsafe or incomplete is refused."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kbit.checkpoints import open_checkpoint
from kbit.checkpoints.huggingface import FAULTS, INDEX
from kbit.errors import CheckpointError
from tests.hostile.reading import read_all
from tests.tiny_models import tiny_llama, tiny_model


def folder_of(path: Path, config: str = "{}", **files: dict[str, torch.Tensor]) -> Path:
    """A folder with `config`, and `files` of tensors (name without its ending)."""
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(config)
    for name, tensors in files.items():
        save_file(tensors, path / f"{name}.safetensors")
    return path


def sharded(path: Path, weight_map: object, **files: dict[str, torch.Tensor]) -> Path:
    """A folder of shards with an index."""
    folder_of(path, **files)
    (path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return path


X, Y = {"x": torch.ones(2)}, {"y": torch.zeros(3)}


def test_a_folder_is_read_tensor_by_tensor(tmp_path):
    folder, model = tiny_llama(tmp_path / "m"), tiny_model("llama")
    checkpoint = open_checkpoint(folder)
    state = model.state_dict()
    assert checkpoint.kind == "huggingface"
    assert checkpoint.path == folder
    assert checkpoint.config["hidden_size"] == model.config.hidden_size
    assert checkpoint.names == tuple(sorted(state))
    for name, tensor in read_all(checkpoint).items():
        assert torch.equal(tensor, state[name])
        assert checkpoint.nbytes(name) == state[name].nbytes
    assert open_checkpoint(str(folder)).names == checkpoint.names


def test_shards_and_one_file_are_the_same_checkpoint(tmp_path):
    one, many = tiny_llama(tmp_path / "one"), tmp_path / "many"
    tiny_model("llama").save_pretrained(many, max_shard_size="20KB")
    assert len(list(many.glob("*.safetensors"))) > 3
    a, b = open_checkpoint(one), open_checkpoint(many)
    assert a.names == b.names
    assert all(torch.equal(a.read(name), b.read(name)) for name in a.names)
    assert a.fingerprint() == b.fingerprint()


def test_the_fingerprint_follows_names_dtypes_shapes_and_bytes(tmp_path):
    variants = {
        "base": {"x": torch.zeros(2, 4)},
        "name": {"z": torch.zeros(2, 4)},
        "shape": {"x": torch.zeros(4, 2)},
        "dtype": {"x": torch.zeros(2, 4, dtype=torch.int32)},
        "bytes": {"x": torch.zeros(2, 4).index_fill(0, torch.tensor(1), 1.0)},
        "more": {"x": torch.zeros(2, 4), "e": torch.empty(0)},
    }
    found = {name: open_checkpoint(folder_of(tmp_path / name, model=tensors)).fingerprint() for name, tensors in variants.items()}
    assert len(set(found.values())) == len(variants)
    assert found["base"] == open_checkpoint(folder_of(tmp_path / "again", model=variants["base"])).fingerprint()


def test_what_is_read_is_a_copy(tmp_path):
    checkpoint = open_checkpoint(folder_of(tmp_path / "m", model=X))
    checkpoint.read("x").fill_(7)
    assert torch.equal(checkpoint.read("x"), X["x"])


def test_the_single_file_goes_before_shards_as_in_transformers(tmp_path):
    folder = sharded(tmp_path / "m", {"y": "a.safetensors"}, model=X, a=Y)
    assert open_checkpoint(folder).names == ("x",)


def test_keys_that_run_code_are_dropped_unless_asked_for(tmp_path):
    config = {
        "model_type": "x",
        "auto_map": {"AutoModel": "evil.py"},
        "text_config": {"auto_map": {}, "n": 1},
        "list": [{"auto_map": 1}],
    }
    folder = folder_of(tmp_path / "m", json.dumps(config), model=X)
    assert open_checkpoint(folder).config == {"model_type": "x", "text_config": {"n": 1}, "list": [{}]}
    assert open_checkpoint(folder, trust_remote_code=True).config == config


def test_a_name_that_is_not_there_is_an_error(tmp_path):
    checkpoint = open_checkpoint(folder_of(tmp_path / "m", model=X))
    for call in (checkpoint.read, checkpoint.shape, checkpoint.dtype, checkpoint.nbytes):
        with pytest.raises(CheckpointError, match=r"holds no tensor 'w'. It holds 1; .names lists them."):
            call("w")


def no_config(path: Path) -> None:
    folder_of(path, model=X)
    (path / "config.json").unlink()


def pickle_only(path: Path) -> None:
    folder_of(path)
    (path / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def adapter(path: Path) -> None:
    folder_of(path, adapter_model=X)
    (path / "adapter_config.json").write_text("{}")


FAULTY = {
    "no config": [no_config],
    "pickle": [pickle_only],
    "adapter": [adapter],
    "no weights": [folder_of, lambda path: folder_of(path, consolidated=X)],
    "quantized": [
        lambda path: folder_of(path, '{"quantization_config": {"quant_method": "gptq"}}', model=X),
        lambda path: folder_of(path, '{"quantization_config": 3}', model=X),
    ],
    "index": [lambda path: sharded(path, ["a.safetensors"], a=X), lambda path: sharded(path, {"x": 1}, a=X)],
    "outside": [
        lambda path: sharded(path, {"x": "../other/a.safetensors"}, a=X),
        lambda path: sharded(path, {"x": "/etc/a.safetensors"}, a=X),
        lambda path: sharded(path, {"x": "a\0.safetensors"}, a=X),
        lambda path: sharded(path, {"x": "pytorch_model.bin"}, a=X),
    ],
    "no shard": [lambda path: sharded(path, {"x": "b.safetensors"}, a=X)],
    "twice": [lambda path: sharded(path, {"x": "a.safetensors", "y": "b.safetensors"}, a=X, b=X | Y)],
    "unlisted": [lambda path: sharded(path, {"x": "a.safetensors"}, a=X | Y)],
    "not in shard": [lambda path: sharded(path, {"x": "a.safetensors", "y": "a.safetensors"}, a=X)],
}


@pytest.mark.parametrize(("fault", "number"), [(fault, i) for fault, makers in FAULTY.items() for i in range(len(makers))])
def test_a_faulty_folder_is_refused_in_one_line_that_says_why(fault, number, tmp_path):
    FAULTY[fault][number](tmp_path / "m")
    pattern = ".*".join(re.escape(piece) for piece in re.split(r"\{\w+\}", FAULTS[fault]))
    with pytest.raises(CheckpointError, match=pattern) as caught:
        open_checkpoint(tmp_path / "m")
    assert str(caught.value).startswith(str(tmp_path / "m"))
    assert "\n" not in str(caught.value)


def test_every_fault_is_tried():
    assert FAULTY.keys() == FAULTS.keys()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1, "a": 2}', '{"a": NaN}', "\xff", "[" * 100_000])
def test_a_config_that_is_no_json_object_is_refused(text, tmp_path):
    folder = folder_of(tmp_path / "m", model=X)
    (folder / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"config\.json: (not readable as JSON|holds list where a JSON object)"):
        open_checkpoint(folder)


@pytest.mark.assets
def test_a_trained_model_reads_as_the_library_reads_it(assets, tmp_path):
    from tests.tiny_models import stories260k

    folder = stories260k(tmp_path / "m", assets)
    expected = load_file(folder / "model.safetensors")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in read_all(folder).items())
