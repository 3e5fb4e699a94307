"""A checkpoint of format_version 0 still reads: version0/ was written by the kbit that wrote that version (commit 732b141)."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kbit.checkpoints import KbitCheckpoint, open_checkpoint
from kbit.errors import CheckpointError
from kbit.packed import pack
from tests.hostile.reading import read_all

FOLDER = Path(__file__).parent / "version0"
EXPECTED = Path(__file__).parent / "version0.safetensors"  # every parameter as the kbit of that time read it


def test_every_weight_is_what_it_was():
    checkpoint = open_checkpoint(FOLDER)
    assert isinstance(checkpoint, KbitCheckpoint)
    assert checkpoint.format_version == 0
    expected = load_file(EXPECTED)
    found = read_all(checkpoint)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert len(checkpoint.modules) == 19


def test_it_is_read_as_todays_layout():
    checkpoint = open_checkpoint(FOLDER)
    for key, module in checkpoint.modules.items():
        packed = checkpoint.read_packed(key)
        assert packed.nbytes * 8 == module.fmt.stored_bits(module.shape)
        if not module.fmt.is_float:
            again = pack(packed.unpack())
            assert all(torch.equal(part, again.parts()[suffix]) for suffix, part in packed.parts().items()), key


def test_the_same_bytes_called_another_version_have_another_fingerprint(tmp_path):
    folder = Path(shutil.copytree(FOLDER, tmp_path / "m"))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["format_version"] = 1
    (folder / "config.json").write_text(json.dumps(config))
    assert open_checkpoint(folder).fingerprint() != open_checkpoint(FOLDER).fingerprint()


def test_damaged_numbers_are_refused_as_ever(tmp_path):
    folder = Path(shutil.copytree(FOLDER, tmp_path / "m"))
    tensors = load_file(folder / "model.safetensors")
    tensors["model.nf4.weight_scale"][5] = float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"model.nf4: .*its scale is not finite"):
        read_all(folder)
