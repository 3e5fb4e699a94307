"""kbit's models: load one, read a prompt, generate."""

from __future__ import annotations

from pathlib import Path

import torch

import kbit
from kbit.models.reading import bytes_per_token, open_reader


class KbitModel:
    """kbit's native decoder over a packed checkpoint, with a cache of `capacity` positions."""

    def __init__(self, folder: Path, compute: str | None, capacity: int) -> None:
        self.model = kbit.load(folder)
        self.reader = open_reader(self.model, capacity, compute)
        self.token = torch.tensor([5])

    @property
    def token_bytes(self) -> int:
        """Bytes of weights that a token reads."""
        return bytes_per_token(self.model)

    def read(self, count: int) -> None:
        """Forget all, then read so many tokens at once."""
        self.reader.rewind(0)
        self.reader(self.token.expand(count))

    def generate(self, count: int) -> None:
        """Forget all, then read so many tokens one by one, with logits after each."""
        self.reader.rewind(0)
        for _ in range(count):
            self.reader(self.token)
