"""Writes the stored models of integers, and the SHA-256 of their logits: python -m tests.models.make_integer_models.

Calibration runs in floating point, which rounds otherwise on other machines, so the models are stored as they came out once. What
is held against another machine is the path from token ids to logits.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import torch
from torch import Tensor

import kbit
from kbit.models.integer_run import Interpreter
from kbit.recipes import FixedPoint, convert, fixed_point_recipe
from kbit.recipes.conversion import write_program
from tests.models.integer_models import tiny_of
from tests.tiny_models import tiny_tokenizer

ROOT = Path(__file__).parents[2]
STORED = Path(__file__).parent / "integer"
TEXT = ROOT / "family" / "texts" / "textbooks.txt"  # to calibrate on
READ = "It was a bright cold day in April, and the clocks were striking thirteen. The boats had come in, and nobody was there. "
TOKENS = 100


def sha256_of(logits: Tensor) -> str:
    """Of integer logits (n, vocabulary): int32, little-endian, row after row."""
    return hashlib.sha256(logits.contiguous().numpy().astype("<i4").tobytes()).hexdigest()


def main() -> None:
    """A trained Llama with a rotation, and a random GPT-2."""
    text = TEXT.read_text(encoding="utf-8")
    trained = kbit.load(ROOT / "family" / "prose-94k", packed=False)
    for name, model, tokenizer, settings in (
        ("llama-w4a8", trained, trained.kbit_tokenizer, FixedPoint(8)),
        ("gpt2-w6a6", tiny_of("gpt2"), tiny_tokenizer(), FixedPoint(6, ranges="min-max", smooth=0.5, rotate="none")),
    ):
        folder = STORED / name
        shutil.rmtree(folder, ignore_errors=True)
        recipe = fixed_point_recipe(4 if settings.activations == 8 else 6, settings)
        program = convert(model, recipe, text, tokenizer=tokenizer).program
        write_program(program, folder, model.config.to_dict(), recipe, name)
        ids = tokenizer(READ * 3, add_special_tokens=False)["input_ids"][:TOKENS]
        logits = Interpreter(program)(torch.tensor([ids]))[0]
        (folder / "logits.json").write_text(json.dumps({"ids": ids, "sha256": sha256_of(logits)}) + "\n")


if __name__ == "__main__":
    main()
