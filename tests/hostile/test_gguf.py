"""Damaged and malicious GGUF files: each is refused by name before gguf-py sees it, and none is read wrongly."""

from __future__ import annotations

import random
import re
import struct
import time
from pathlib import Path

import gguf
import pytest

from kbit.checkpoints.gguf_header import FAULTS, MAX_ARRAY, GgufHeader, read_gguf_header
from kbit.errors import CheckpointError
from tests.checkpoints.gguf_files import model_to_gguf
from tests.hostile import gguf_files as made
from tests.hostile.gguf_files import HOSTILE
from tests.hostile.mutations import mutate, replace
from tests.hostile.reading import read_all
from tests.tiny_models import tiny_model


def pattern(fault: str) -> str:
    """FAULTS[fault] as a regular expression in which anything may stand for its details."""
    return ".*".join(re.escape(piece) for piece in re.split(r"\{\w+\}", FAULTS[fault]))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line_that_says_why(name, tmp_path):
    fault, _, content = HOSTILE[name]
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    start = time.perf_counter()
    with pytest.raises(CheckpointError, match=pattern(fault)) as caught:
        read_gguf_header(path)
    text = str(caught.value)
    assert time.perf_counter() - start < 2
    assert text.startswith(str(path))
    assert "\n" not in text
    assert len(text) < 600


def test_every_fault_has_a_hostile_file():
    assert {fault for fault, _, _ in HOSTILE.values()} == FAULTS.keys() - {"missing"}


def test_a_good_file_of_the_same_make_is_read(tmp_path):
    path = tmp_path / "m.gguf"
    path.write_bytes(made.gguf())
    header = read_gguf_header(path)
    assert {name: entry.shape for name, entry in header.tensors.items()} == {"a": (2, 4), "b": (8,)}
    assert header.settings == {"general.architecture": "llama"}


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"gone.gguf: cannot be opened \(No such file or directory\). Check the path."):
        read_gguf_header(tmp_path / "gone.gguf")


def test_another_alignment_moves_the_data(tmp_path):
    path = tmp_path / "m.gguf"
    aligned = made.setting("general.alignment", made.U32, made.U32_OF(128))
    tensors = (made.A, made.tensor("b", (8,), offset=128))
    path.write_bytes(made.gguf((made.ARCHITECTURE, aligned), tensors, 160, alignment=128))
    entries = read_gguf_header(path).tensors
    assert entries["a"].offset % 128 == 0
    assert entries["b"].offset == entries["a"].offset + 128


def test_long_arrays_are_checked_and_not_kept(tmp_path):
    path = tmp_path / "m.gguf"
    long = made.setting("tokenizer.ggml.scores", made.ARRAY, made.array(made.F32, 100_000, bytes(400_000)))
    words = made.setting("tokenizer.ggml.tokens", made.ARRAY, made.array(made.STRING, 100_000, made.text("word") * 100_000))
    path.write_bytes(made.gguf((made.ARCHITECTURE, long, words)))
    header = read_gguf_header(path)
    assert header.lengths["tokenizer.ggml.scores"] == header.lengths["tokenizer.ggml.tokens"] == 100_000
    assert header.settings.keys() == header.raw.keys() == {"general.architecture"}


def test_a_vocabulary_of_the_greatest_length_is_read_in_seconds(tmp_path):
    path = tmp_path / "m.gguf"
    words = made.setting("t", made.ARRAY, made.array(made.STRING, MAX_ARRAY // 16, made.text("") * (MAX_ARRAY // 16)))
    path.write_bytes(made.gguf((made.ARCHITECTURE, words)))
    start = time.process_time()
    read_gguf_header(path)
    assert time.process_time() - start < 1  # 262,144 texts


def agree(path: Path, header: GgufHeader) -> None:
    """gguf-py finds in `path` what our header says."""
    reader = gguf.GGUFReader(path)
    assert {t.name: (t.data_offset, t.n_bytes, tuple(t.shape[::-1].tolist())) for t in reader.tensors} == {
        name: (entry.offset, entry.nbytes, entry.shape) for name, entry in header.tensors.items()
    }
    for key, value in header.settings.items():
        theirs = reader.fields[key].contents()
        assert theirs == value or str(theirs) == str(value), key  # NaN is not itself


@pytest.fixture(scope="module")
def real_file(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("real") / "m.gguf"
    return model_to_gguf(path, tiny_model("llama"), "llama", tokens=20).read_bytes()


def test_two_thousand_mutations_are_refused_or_read_as_gguf_py_reads_them(real_file, tmp_path):
    accepted = 0
    for seed in range(2000):
        replace(path := tmp_path / "m.gguf", mutate(real_file, random.Random(seed), head=3000))
        try:
            header = read_gguf_header(path)
        except CheckpointError:
            continue
        accepted += 1
        if accepted % 10 == 0:  # gguf-py takes milliseconds for each
            agree(path, header)
    assert 100 < accepted < 1900


def test_mutations_that_pass_the_header_make_a_model_or_are_refused(real_file, tmp_path):
    outcomes = [outcome(tmp_path / "m.gguf", real_file, seed) for seed in range(100)]
    assert {"refused by the header", "refused as a model", "read"} == set(outcomes)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.slow
def test_five_thousand_mutations_make_a_model_or_are_refused(real_file, tmp_path):
    for seed in range(5000):
        outcome(tmp_path / "m.gguf", real_file, seed)


def outcome(path: Path, content: bytes, seed: int) -> str:
    """How far a mutated file comes; all but CheckpointError fails the test."""
    replace(path, mutate(content, random.Random(seed), head=1200))  # settings and names, no vocabulary
    try:
        read_gguf_header(path)
    except CheckpointError:
        return "refused by the header"
    try:
        read_all(path)
    except CheckpointError:
        return "refused as a model"
    return "read"


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("value", [0, 1, 2**16, 2**31 - 1, 2**32 - 1])
def test_every_setting_at_an_extreme_makes_a_model_or_is_refused(value, tmp_path):
    model = tiny_model("llama")
    content = model_to_gguf(tmp_path / "good.gguf", model, "llama").read_bytes()
    for key, raw in read_gguf_header(tmp_path / "good.gguf").raw.items():
        if raw[8 + len(key) :][:4] == struct.pack("<I", made.U32):
            replace(path := tmp_path / "m.gguf", content.replace(raw, raw[:-4] + struct.pack("<I", value)))
            try:
                read_all(path)
            except CheckpointError:
                continue
