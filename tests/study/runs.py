"""Outcomes of runs for the tests of the store and its table, made without a model."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from kbit.study.store import Outcome

LLAMA = {
    "layers": 2, "hidden": 64, "intermediate": 160, "heads": 2, "kv_heads": 2,
    "head_dim": 32, "vocabulary": 1024, "context": 256, "kv_bytes_per_token": 512,
}  # fmt: skip


def outcome(
    number: int = 0, *, fmt: str = "int4-b64", embeddings: str = "int8-row", error: str | None = None, **about: Any
) -> Outcome:
    """A run with the hash of `number`; its windows lose 3 nats per token, more or less."""
    recipe = {"weights": fmt, "method": "rtn", "embeddings": embeddings, "lm_head": embeddings, "layers": {}, "keep": []}
    losses = np.random.default_rng(number).normal(3.0, 0.3, 5)
    found = {
        "loss": (losses.mean(), losses.std(ddof=1) / 5**0.5),
        "kld_max": (float("nan"), None),
        "total_bits": (1e6 + number, None),
    }
    return Outcome(
        hash=f"{number:064x}",
        spec={"recipe": json.dumps(recipe), "fingerprint": "f" * 64},
        about={
            "format": fmt,
            "codebook": fmt.rstrip("0123456789-b"),
            "k": 4,
            "block": 64,
            "method": "rtn",
            "embeddings": embeddings,
            "model": "prose-94k",
            "family": "prose",
            "protocol": "family",
            "parameters": 160_000,
            "parameters_linear": 94_208,
            "training_tokens": 8_388_608,
            "seed": 0,
            "architecture": LLAMA,
            **about,
        },
        host="here",
        seconds=1.5,
        peak_bytes=300_000_000,
        finished="2026-11-24T19:00:00+00:00",
        error=error,
        measurements={} if error else found,
        window_losses=np.empty(0) if error else losses,
        window_tokens=np.empty(0, dtype=np.int64) if error else np.full(5, 255),
        window_bytes=np.empty(0, dtype=np.int64) if error else np.arange(700, 705),
    )
