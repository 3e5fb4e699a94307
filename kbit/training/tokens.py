"""From documents to training windows: one byte-level BPE, one token stream, one seeded order of windows for all sizes."""

from __future__ import annotations

import json
import lzma
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from kbit.errors import TextError

END_OF_TEXT = "<|endoftext|>"
TOKENIZER_SHARE = 8  # the tokenizer learns from every 8th document: more text does not change 1024 merges noticeably


def read_documents(folder: Path) -> Iterator[str]:
    """The "text" of each line of each *.jsonl or *.jsonl.xz in `folder`, files in order of their names.

    Files whose name starts with valid or test are held out and not read. Raises TextError where there is nothing to read.
    """
    paths = sorted(p for p in folder.glob("*.jsonl*") if not p.name.startswith(("valid", "test")))
    if not paths:
        raise TextError(f"{folder}: no *.jsonl or *.jsonl.xz to train on. Name a folder of files with a 'text' on each line.")
    for path in paths:
        yield from read_lines(path)


def read_lines(path: Path) -> Iterator[str]:
    """The "text" of each line of a *.jsonl or *.jsonl.xz. Raises TextError where a line has none."""
    open_text = lzma.open if path.suffix == ".xz" else open
    with open_text(path, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield json.loads(line)["text"]
            except (ValueError, KeyError, TypeError) as error:
                raise TextError(f"{path}, line {number}: no JSON object with a 'text' ({error}).") from error


def train_tokenizer(folder: Path, vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE of `vocabulary` entries, learned from every 8th document; deterministic for the same files."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    sample = (text for index, text in enumerate(read_documents(folder)) if index % TOKENIZER_SHARE == 0)
    tokenizer.train_from_iterator(sample, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT, bos_token=END_OF_TEXT)


def write_token_stream(folder: Path, tokenizer: PreTrainedTokenizerFast, path: Path) -> None:
    """Every document as uint16 tokens, each ended by end-of-text, one after the other, in the .npy file `path`."""
    end = tokenizer.eos_token_id
    parts = []
    for text in read_documents(folder):
        ids = tokenizer.backend_tokenizer.encode(text).ids
        parts.append(np.array([*ids, end], dtype=np.uint16))
    temporary = path.with_name(path.name + ".partial.npy")
    np.save(temporary, np.concatenate(parts))
    os.replace(temporary, path)


def window_order(stream_length: int, context: int, seed: int) -> np.ndarray:
    """Starts of all windows of context + 1 tokens (neighbours share one token), in an order that only `seed` decides."""
    starts = np.arange(0, stream_length - context, context)
    return np.random.default_rng(seed).permutation(starts)
