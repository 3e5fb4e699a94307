"""Damaged and malicious safetensors files: each is refused by name, and none is read wrongly."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from kbit.checkpoints.safetensors_header import FAULTS, read_header
from kbit.checkpoints.stored_bytes import read_tensor
from kbit.errors import CheckpointError
from tests.hostile.mutations import mutate, replace
from tests.hostile.safetensors_files import DATA, GOOD, HOSTILE, file_of


def pattern(fault: str) -> str:
    """FAULTS[fault] as a regular expression in which anything may stand for its details."""
    return ".*".join(re.escape(piece) for piece in re.split(r"\{\w+\}", FAULTS[fault].replace("{{", "{")))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line_that_says_why(name, tmp_path):
    fault, _, content = HOSTILE[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    expected = "the header: not readable as JSON" if fault == "JSON" else pattern(fault)
    with pytest.raises(CheckpointError, match=expected) as caught:
        read_header(path)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    assert len(text) < 600


def test_every_fault_has_a_hostile_file():
    assert {fault for fault, _, _ in HOSTILE.values()} == FAULTS.keys() - {"missing"} | {"JSON"}


@pytest.mark.parametrize("name", [name for name in HOSTILE if HOSTILE[name][0] not in ("metadata",)])
def test_the_safetensors_library_refuses_them_too_or_is_known_to_be_laxer(name, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(HOSTILE[name][2])
    laxer = {"same name twice", "same key twice", "side is true", "overflow with a zero"}
    try:
        with safe_open(path, "pt") as file:
            file.keys()
    except (SafetensorError, OSError, OverflowError):
        return
    assert name in laxer


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"gone: cannot be opened \(No such file or directory\). Check the path."):
        read_header(tmp_path / "gone")


def test_names_cannot_break_the_line(tmp_path):
    path = tmp_path / "m"
    path.write_bytes(file_of({"x\nkbit: all is well\x1b[2J" + "y" * 10_000: {"dtype": "?", "shape": [], "data_offsets": [0, 0]}}))
    with pytest.raises(CheckpointError, match=r"tensor 'x\\nkbit: all is well\\x1b\[2Jy*\.\.\.' the dtype") as caught:
        read_header(path)
    assert len(str(caught.value)) < 600


def test_a_good_file_is_read_as_the_library_reads_it(tmp_path):
    dtypes = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "complex64"]
    dtypes += ["float8_e4m3fn", "float8_e5m2", "uint16", "uint32", "uint64"]
    raw = torch.randint(0, 2, (3, 5, 16), dtype=torch.uint8)
    tensors = {name: raw.clone().view(getattr(torch, name)) for name in dtypes} | {
        "scalar": torch.tensor(3.5),
        "none": torch.empty(0, 4),
    }
    save_file(tensors, tmp_path / "m")
    entries = read_header(tmp_path / "m")
    assert entries.keys() == tensors.keys()
    for name, tensor in tensors.items():
        read = read_tensor(entries[name])
        assert (read.dtype, read.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(read.reshape(-1).view(torch.uint8), tensor.reshape(-1).view(torch.uint8))


def test_types_of_four_and_six_bits_are_known_but_cannot_be_read(tmp_path):
    path = tmp_path / "m"
    path.write_bytes(file_of({"a": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}, b"\0\0"))
    entry = read_header(path)["a"]
    with pytest.raises(CheckpointError, match="tensor 'a' has the dtype F4, which torch cannot hold"):
        read_tensor(entry)


def test_a_file_that_shrinks_after_it_was_opened_is_an_error(tmp_path):
    path = tmp_path / "m"
    path.write_bytes(file_of(GOOD))
    entries = read_header(path)
    path.write_bytes(file_of(GOOD)[:-10])
    with pytest.raises(CheckpointError, match="ends inside tensor 'b'; it shrank after it was opened"):
        read_tensor(entries["b"])


def check_mutation(path: Path, content: bytes, seed: int) -> None:
    """The mutated file is refused, or what it says holds of the file: places inside it, no overlap, sizes that agree."""
    mutated = mutate(content, random.Random(seed))
    replace(path, mutated)
    try:
        entries = read_header(path)
    except CheckpointError:
        return
    covered = np.zeros(len(mutated), dtype=int)
    for entry in entries.values():
        covered[entry.offset : entry.offset + entry.nbytes] += 1
        if entry.dtype not in ("F4", "F6_E2M3", "F6_E3M2"):
            assert read_tensor(entry).nbytes == entry.nbytes
    start = 8 + int.from_bytes(mutated[:8], "little")
    assert (covered[:start] == 0).all()
    assert (covered[start:] == 1).all()


@pytest.fixture(scope="module")
def real_file(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("real") / "m"
    save_file({f"model.layers.{i}.w": torch.randn(3, 5 + i) for i in range(4)} | {"norm": torch.ones(7).half()}, path)
    return path.read_bytes()


def test_two_thousand_mutations_are_refused_or_consistent(real_file, tmp_path):
    for seed in range(2000):
        check_mutation(tmp_path / "m", real_file, seed)


@pytest.mark.slow
def test_a_hundred_thousand_mutations_are_refused_or_consistent(real_file, tmp_path):
    for seed in range(100_000):
        check_mutation(tmp_path / "m", real_file, seed)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "x"]), inner),
    max_leaves=12,
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "U8", "BF16", "F4"]) | json_values,
        "shape": st.lists(st.integers(-1, 9), max_size=3) | json_values,
        "data_offsets": st.lists(st.integers(0, 30), min_size=2, max_size=2) | json_values,
    }
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.text(max_size=3), entries | json_values, max_size=4))
def test_any_json_for_a_header_is_refused_or_consistent(tmp_path_factory, header):
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    replace(path, file_of(header, DATA))
    try:
        found = read_header(path)
    except CheckpointError:
        return
    assert sum(entry.nbytes for entry in found.values()) == len(DATA)
