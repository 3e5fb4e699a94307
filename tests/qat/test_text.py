"""Training text: enough of it, in an order of a seed, with windows held out; and what is too short."""

from __future__ import annotations

import json
import lzma

import pytest
import torch

import kbit
from kbit.errors import TextError
from kbit.qat.text import PASSAGE, cut, read_training_text

HOW = {"window": 16, "batch": 2, "steps": 10, "held_out": 3}
LINES = "\n".join(f"line {i} says that {i * i} is the square of {i}." for i in range(3000))


@pytest.fixture
def tokenizer(written):
    return kbit.load_tokenizer(written("llama"))


def test_passages_are_the_document_and_end_with_lines():
    for document in (LINES, "x" * (3 * PASSAGE + 5), "short", LINES[:PASSAGE]):
        passages = list(cut(document))
        assert "".join(passages) == document
        assert all(len(passage) <= 2 * PASSAGE for passage in passages)
    assert all(passage.endswith("\n") for passage in list(cut(LINES))[:-1])


def test_windows_are_tokens_of_the_text_and_none_is_held_out_and_trained_on(tmp_path, tokenizer):
    (tmp_path / "text.txt").write_text(LINES)
    text = read_training_text(tmp_path / "text.txt", tokenizer, **HOW)
    assert text.windows.shape == (20, 17)
    assert text.held_out.shape == (3, 17)
    for window in (*text.windows, *text.held_out):
        assert tokenizer.decode(window) in LINES
    assert not any(torch.equal(a, b) for a in text.windows for b in text.held_out)


def test_the_seed_decides_the_order(tmp_path, tokenizer):
    (tmp_path / "text.txt").write_text(LINES)
    texts = [read_training_text(tmp_path / "text.txt", tokenizer, seed=seed, **HOW) for seed in (0, 0, 1)]
    assert texts[0].sha256 == texts[1].sha256 != texts[2].sha256
    assert torch.equal(texts[0].windows, texts[1].windows)


def test_a_text_that_ends_begins_again(tmp_path, tokenizer):
    (tmp_path / "text.txt").write_text(LINES[:600])
    text = read_training_text(tmp_path / "text.txt", tokenizer, window=16, batch=4, steps=1000, held_out=2)
    n = len(text.windows)
    assert 4 <= n < 40
    seen = torch.cat([text.of_step(step, 4) for step in range(n)])
    assert torch.equal(seen, text.windows.repeat(4, 1))


def test_json_lines_and_folders_are_read(tmp_path, tokenizer):
    lines = [json.dumps({"text": part}) + "\n" for part in cut(LINES)]
    (tmp_path / "a.jsonl").write_text("".join(lines))
    with lzma.open(tmp_path / "b.jsonl.xz", "wt") as file:
        file.writelines(lines)
    (tmp_path / "valid.jsonl").write_text('{"text": "held out"}\n')
    (tmp_path / "text.txt").write_text(LINES)
    one, two = (read_training_text(tmp_path / name, tokenizer, **HOW).sha256 for name in ("a.jsonl", "b.jsonl.xz"))
    assert one == two
    assert len(read_training_text(tmp_path, tokenizer, **HOW).windows) == 20


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "far too short", r"the text has 13 tokens, but 3 windows to hold out and a batch of 2 to train on are 85"),
        ("a.txt", " ", "the text is empty"),
        ("a.jsonl", '{"words": "x"}\n', r"a\.jsonl, line 1: no JSON object with a 'text'"),
    ],
)
def test_a_text_that_cannot_be_trained_on_is_refused(tmp_path, tokenizer, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(TextError, match=message):
        read_training_text(tmp_path / name, tokenizer, **HOW)


def test_a_missing_text_is_refused(tmp_path, tokenizer):
    with pytest.raises(TextError, match="cannot be read"):
        read_training_text(tmp_path / "none.txt", tokenizer, **HOW)
