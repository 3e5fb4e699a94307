"""Llama 3's scaling of rotary frequencies: a GGUF file holds its factors, a config.json the four numbers behind them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kbit.errors import CheckpointError

ROPE_FACTORS = "rope_freqs.weight"
LOW_FREQUENCY, HIGH_FREQUENCY, ORIGINAL_CONTEXT = 1.0, 4.0, 8192  # of every Llama 3 model; the factor is 8 or 32


def rope_scaling(factors: Tensor, settings: dict[str, Any], path: Path) -> dict[str, Any] | None:
    """The config's rope_scaling whose frequencies are divided by `factors`, None where they are all 1.

    Raises CheckpointError where the factors are not those of Llama 3: leaving them out would change the model silently.
    """
    if (factors == 1).all():
        return None
    base, factor = float(settings.get("rope_theta", 10000.0)), float(factors.max())
    expected = llama3_factors(len(factors), base, factor)
    if not torch.allclose(factors, expected, rtol=1e-3):
        raise CheckpointError(
            f"{path}: its {ROPE_FACTORS} are not those of Llama 3, and transformers has no place for others. "
            "Give the model as a Hugging Face directory."
        )
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": LOW_FREQUENCY,
        "high_freq_factor": HIGH_FREQUENCY,
        "original_max_position_embeddings": ORIGINAL_CONTEXT,
    }


def llama3_factors(count: int, base: float, factor: float) -> Tensor:
    """What each of `count` rotary frequencies is divided by (Llama 3.1's apply_scaling; llama.cpp's converter writes the same).

    Wavelengths below 8192 / 4 tokens stay, those above 8192 / 1 grow by `factor`, and between them the frequency is interpolated.
    """
    frequency = base ** -(torch.arange(count, dtype=torch.float64) / count)
    turns = ORIGINAL_CONTEXT * frequency / (2 * math.pi)
    smooth = ((turns - LOW_FREQUENCY) / (HIGH_FREQUENCY - LOW_FREQUENCY)).clamp(0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).float()
