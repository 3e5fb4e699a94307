"""transformers' models: load one, read a prompt, generate."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, logging

from kbit.models.reading import bytes_per_token


class TransformersModel:
    """A model in floats of one type."""

    def __init__(self, folder: Path, dtype: torch.dtype) -> None:
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        warnings.simplefilter("ignore", FutureWarning)  # past_key_values is about to be called cache
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        self.token = torch.tensor([[5]])

    @property
    def token_bytes(self) -> int:
        """Bytes of weights that a token reads."""
        return bytes_per_token(self.model)

    @torch.inference_mode()
    def read(self, count: int) -> None:
        """Forget all, then read so many tokens at once."""
        self.model(self.token.expand(1, count), use_cache=True, logits_to_keep=1)

    @torch.inference_mode()
    def generate(self, count: int) -> None:
        """Forget all, then read so many tokens one by one, with logits after each."""
        past = None
        for _ in range(count):
            past = self.model(self.token, past_key_values=past, use_cache=True).past_key_values
