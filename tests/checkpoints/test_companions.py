"""Tokenizer files go along with the weights, from folders and out of GGUF files, without code."""

import errno
import os
import shutil

import pytest
from transformers import AutoTokenizer

from kbit.checkpoints import copy_companions
from kbit.errors import CheckpointError
from tests.checkpoints.gguf_files import model_to_gguf
from tests.tiny_models import tiny_llama, tiny_model


def test_a_copied_tokenizer_makes_the_same_tokens(tmp_path):
    source, out = tiny_llama(tmp_path / "a"), tmp_path / "b"
    out.mkdir()
    (source / "folder.json").mkdir()
    assert copy_companions(source, out) == ["generation_config.json", "tokenizer.json", "tokenizer_config.json"]
    text = "To be, or not to be: naïve ☕"
    assert AutoTokenizer.from_pretrained(out)(text) == AutoTokenizer.from_pretrained(source)(text)


def test_a_full_disk_is_an_error_of_one_line(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    source = tiny_llama(tmp_path / "a")
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(CheckpointError, match=r"the tokenizer cannot be copied there \(No space left on device\). Free space"):
        copy_companions(source, tmp_path)


def test_a_vocabulary_that_makes_no_tokenizer_is_an_error_of_one_line(tmp_path):
    path = model_to_gguf(tmp_path / "m.gguf", tiny_model("llama"), "llama")  # without merges, types and a model
    with pytest.raises(CheckpointError, match="transformers cannot read its tokenizer") as caught:
        copy_companions(path, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_gguf_file_without_a_vocabulary_gives_no_tokenizer(tmp_path):
    path = model_to_gguf(tmp_path / "m.gguf", tiny_model("llama"), "llama", tokens=0)
    assert copy_companions(path, tmp_path) == []


@pytest.mark.real_model
def test_smollm2s_tokenizer_is_written_as_transformers_reads_it(smollm2, tmp_path):
    assert "tokenizer.json" in copy_companions(smollm2, tmp_path)
    text = "The capital of France is Paris.  naïve ☕"
    theirs = AutoTokenizer.from_pretrained(smollm2.parent, gguf_file=smollm2.name)
    ours = AutoTokenizer.from_pretrained(tmp_path)
    assert ours(text)["input_ids"] == theirs(text)["input_ids"]
    assert ours.decode(ours(text)["input_ids"]) == text
