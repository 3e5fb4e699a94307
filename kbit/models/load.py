"""Load a causal language model, and its tokenizer, from a folder, a hub id, a GGUF file or a kbit checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from kbit.errors import ModelError


def load(path_or_hub_id: str | Path, *, dtype: torch.dtype = torch.float32, trust_remote_code: bool = False) -> PreTrainedModel:
    """The model in evaluation mode, in `dtype`; .kbit_tokenizer is its tokenizer or None, .kbit_source what was asked for."""
    source = str(path_or_hub_id)
    model, found = AutoModelForCausalLM.from_pretrained(
        source, dtype=dtype, trust_remote_code=trust_remote_code, use_safetensors=True, output_loading_info=True
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if found[kind]:
            raise ModelError(f"{source}: {kind.replace('_', ' ')} {sorted(found[kind])[:3]}.")
    model.kbit_source = source
    try:
        model.kbit_tokenizer = load_tokenizer(source)
    except (OSError, ValueError):
        model.kbit_tokenizer = None
    return model


def load_tokenizer(path_or_hub_id: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer that lies beside the model."""
    return AutoTokenizer.from_pretrained(str(path_or_hub_id))
