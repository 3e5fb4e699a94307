"""Where each tensor will lie in safetensors files whose sizes are known before a byte of them is written."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from kbit.checkpoints.safetensors_header import DTYPES

ALIGNMENT = 64  # bytes: a cache line, and the widest register that a kernel loads


@dataclass(frozen=True)
class Plan:
    """One tensor to be written; `group` keeps the parts of one packed tensor in one file, in aligned places."""

    name: str
    dtype: str  # a key of DTYPES
    shape: tuple[int, ...]
    group: str | None = None

    @property
    def nbytes(self) -> int:
        """Its bytes on disk."""
        return prod(self.shape) * DTYPES[self.dtype][0] // 8


@dataclass(frozen=True)
class Shard:
    """One file: its header, and where in the file each tensor begins."""

    file_name: str
    header: bytes  # the 8 bytes of its length included
    offsets: dict[str, int]
    size: int


def lay_out(plans: Iterable[Plan], shard_bytes: int) -> list[Shard]:
    """Shards of at most `shard_bytes` of data (a larger tensor or group gets one of its own), in the order of the plans."""
    shards: list[list[Plan]] = [[]]
    filled = 0
    for group in _groups(plans):
        size = sum(plan.nbytes for plan in group)
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1] += group
        filled += size
    if len(shards) == 1:
        return [_shard("model.safetensors", shards[0])]
    return [_shard(f"model-{i:05d}-of-{len(shards):05d}.safetensors", members) for i, members in enumerate(shards, 1)]


def _groups(plans: Iterable[Plan]) -> list[list[Plan]]:
    groups: dict[str, list[Plan]] = {}
    for plan in plans:
        groups.setdefault(f"tensor {plan.name}" if plan.group is None else f"group {plan.group}", []).append(plan)
    return list(groups.values())


def _shard(file_name: str, plans: list[Plan]) -> Shard:
    """Packed parts first, then what else is whole cache lines, then the rest: holes are not allowed, and so need not be."""
    ordered = sorted(plans, key=lambda plan: (plan.nbytes % ALIGNMENT != 0, plan.group is None))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}  # transformers refuses a file without it
    starts, position = {}, 0
    for plan in ordered:
        starts[plan.name] = position
        header[plan.name] = {"dtype": plan.dtype, "shape": list(plan.shape), "data_offsets": [position, position + plan.nbytes]}
        position += plan.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    first = 8 + len(text)
    offsets = {name: first + at for name, at in starts.items()}
    return Shard(file_name, len(text).to_bytes(8, "little") + text, offsets, first + position)
