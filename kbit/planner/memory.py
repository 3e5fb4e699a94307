"""Bytes: sizes as users write them, and what running a model takes beside its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from kbit.errors import BudgetError
from kbit.laws.text import size

DECIMAL = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
BINARY = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
CHUNK = 512  # tokens of a prompt computed at once where memory allows; more brings little speed
ACTIVATION_BYTES = 4  # float32


def parse_size(text: str) -> int:
    """Bytes of a size: 2GiB, 2MB, 512KiB, 1.5 GB, 2000000. MB is 10^6 and MiB 2^20 bytes; case does not matter.

    Raises BudgetError for anything else, and for less than one byte.
    """
    found = re.fullmatch(r"\s*(\d{1,18}(?:\.\d+)?|\.\d+)\s*([kmgt]?)(i?)b?\s*", text.lower(), re.ASCII)
    if found is None or (found[3] and not found[2]):
        raise BudgetError(f"memory '{text}' is not a size. Write it as 2GiB, 1.5GB, 512KiB or in bytes.")
    units = BINARY if found[3] else DECIMAL
    total = int(float(found[1]) * units[found[2].upper()])
    if total < 1:
        raise BudgetError(f"memory '{text}' is less than one byte. Write a larger size, such as 2GiB.")
    return total


def budget_text(total_bytes: int) -> str:
    """A budget as its user would write it: 2 GiB where it is a round number of those, else 2.00 MB."""
    for unit, scale in reversed(BINARY.items()):
        if total_bytes % scale == 0 and total_bytes % 1000:
            return f"{total_bytes // scale} {unit}iB"
    return size(total_bytes)


@dataclass(frozen=True)
class Footprint:
    """Bytes of a model at work; `activations` are those of `chunk` prompt tokens at once, `total` counts one token's."""

    weights: int
    kv_cache: int
    one_token: int
    activations: int
    context: int
    chunk: int

    @property
    def total(self) -> int:
        """The least that the model runs in: weights, KV cache of the whole context, and one token at a time."""
        return self.weights + self.kv_cache + self.one_token


def kv_cache_bytes(architecture: Mapping[str, int], context: int, batch: int, kv_bits: float) -> int:
    """Bytes of keys and values: 2 x layers x kv_heads x head_dim x kv_bits / 8 for each token of each sequence."""
    return round(architecture["kv_bytes_per_token"] * kv_bits / 16 * context * batch)


def activation_bytes(architecture: Mapping[str, int], tokens: int, batch: int) -> int:
    """Bytes of the largest set of buffers alive at once while `tokens` of each sequence are computed, in float32.

    4 batch max(tokens (2 hidden + max(attention, mlp)), vocabulary + 2 hidden), where 2 hidden is the residual and its norm,
    attention = (2 heads + 2 kv_heads) head_dim the queries, keys, values and outputs, mlp = 3 intermediate its gate, its other
    half and their product, and logits are computed for the last token alone. Attention scores are computed in tiles
    (scaled_dot_product_attention) and never stored whole.
    """
    hidden = 2 * architecture["hidden"]
    attention = 2 * (architecture["heads"] + architecture["kv_heads"]) * architecture["head_dim"]
    layer = hidden + max(attention, 3 * architecture["intermediate"])
    return ACTIVATION_BYTES * batch * max(tokens * layer, architecture["vocabulary"] + hidden)


def footprint(
    weights: int, architecture: Mapping[str, int], memory_bytes: int, *, context: int, batch: int, kv_bits: float
) -> Footprint:
    """What a model takes at this context (at most its own longest), and the longest chunk of a prompt that fits beside it."""
    longest = min(context, architecture.get("context") or context)
    cache = kv_cache_bytes(architecture, longest, batch, kv_bits)
    spare = memory_bytes - weights - cache
    chunk = 1
    while 2 * chunk <= min(CHUNK, longest) and activation_bytes(architecture, 2 * chunk, batch) <= spare:
        chunk *= 2
    one_token, many = (activation_bytes(architecture, tokens, batch) for tokens in (1, chunk))
    return Footprint(weights, cache, one_token, many, longest, chunk)
