"""Loaded models by name, such as kbit:int4-b64 or llama.cpp:Q4_0: kbit's and other programs', each behind the same few words."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Protocol

import torch

from peers.kbit_model import KbitModel
from peers.llama_model import LlamaModel
from peers.model_files import file_of
from peers.transformers_model import TransformersModel

RUNNERS = [
    *(f"kbit:int{k}-b64" for k in range(2, 9)),
    "kbit:nf4-b64",
    *(f"integers:int{k}-b64-i8" for k in (2, 4, 8)),
    *(f"llama.cpp:{name}" for name in ("Q2_K", "Q3_K", "Q4_0", "Q8_0")),
    "transformers:float32",
    "transformers:bfloat16",
]
OURS = ("kbit:", "integers:")
CAPACITY = 1024


class Runner(Protocol):
    """A loaded model."""

    @property
    def token_bytes(self) -> int:
        """Bytes of weights that a token reads."""

    def read(self, count: int) -> None:
        """Forget all, then read so many tokens at once."""

    def generate(self, count: int) -> None:
        """Forget all, then read so many tokens one by one, with logits after each."""


def opened(runner: str, folder: Path, threads: int, compute: str) -> Runner:
    """The runner of one of RUNNERS."""
    kind, name = runner.split(":")
    path = file_of(folder, runner)
    if runner.startswith(OURS):
        return KbitModel(path, compute if kind == "kbit" else None, CAPACITY)
    if kind == "transformers":
        return TransformersModel(path, getattr(torch, name))
    return LlamaModel(path, threads, CAPACITY)


def import_modules_of(runner: str) -> None:
    """Import what loading a runner needs, which takes the same time for any model."""
    needed = {
        "kbit": "kbit.models.decoder",
        "integers": "kbit.models.integer_model",
        "llama.cpp": "llama_cpp",
        "transformers": "transformers.models.llama.modeling_llama",
    }
    import_module(needed[runner.split(":")[0]])
