"""The small files that a model needs beside its weights: tokenizer, generation settings."""

from __future__ import annotations

import shutil
from pathlib import Path

from transformers import AutoTokenizer

from kbit.checkpoints.checkpoint import Checkpoint, without_code
from kbit.checkpoints.gguf_file import GgufCheckpoint
from kbit.checkpoints.huggingface import CONFIG
from kbit.checkpoints.json_file import one_line, read_json
from kbit.checkpoints.modules import PROGRAM
from kbit.checkpoints.open import open_checkpoint
from kbit.checkpoints.writer import write_json
from kbit.errors import CheckpointError

COPIED = (".json", ".model", ".txt", ".jinja")
NOT_COPIED = (CONFIG, PROGRAM, "training.json")  # these, and indexes of shards, speak of the source's weights


def copy_companions(source: Checkpoint | str | Path, out: Path) -> list[str]:
    """Put the tokenizer and generation settings of `source` into the folder `out`; returns the names of the files, sorted.

    Keys that name code (auto_map) are dropped. The tokenizer of a GGUF file is written as transformers reads it there.
    """
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    if isinstance(checkpoint, GgufCheckpoint):
        return _tokenizer_of_gguf(checkpoint, out)
    wanted = [path for path in sorted(checkpoint.path.iterdir()) if _is_companion(path.name) and path.is_file()]
    try:
        for path in wanted:
            if path.name.endswith("_config.json"):
                write_json(out / path.name, without_code(read_json(path)))
            else:
                shutil.copyfile(path, out / path.name)
    except OSError as error:
        raise CheckpointError(
            f"{out}: the tokenizer cannot be copied there ({error.strerror}). Free space or name another folder."
        ) from None
    return [path.name for path in wanted]


def _is_companion(name: str) -> bool:
    return name.endswith(COPIED) and name not in NOT_COPIED and not name.endswith(".index.json")


def _tokenizer_of_gguf(checkpoint: GgufCheckpoint, out: Path) -> list[str]:
    if "tokenizer.ggml.tokens" not in checkpoint.header.lengths:
        return []
    before = set(out.iterdir())
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.path.parent, gguf_file=checkpoint.path.name)
        tokenizer.save_pretrained(out)
    except Exception as error:  # a vocabulary that fits no tokenizer fails anywhere inside transformers
        raise CheckpointError(
            f"{checkpoint.path}: transformers cannot read its tokenizer ({one_line(error)}). "
            "Give the model as a Hugging Face directory."
        ) from None
    return sorted(path.name for path in set(out.iterdir()) - before)
