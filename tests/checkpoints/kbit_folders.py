"""Small kbit checkpoints for the tests, written matrix by matrix without the recipes' floor."""

from __future__ import annotations

from pathlib import Path

import torch

from kbit.checkpoints import CheckpointWriter
from kbit.formats import Format
from kbit.methods import choose
from kbit.packed import PackedTensor, pack
from tests.packed.formats import TABLE

CONFIG = {"model_type": "llama", "hidden_size": 32}
NORM = torch.linspace(0, 1, 7)


def packed_random(text: str, shape: tuple[int, int], seed: int = 0) -> PackedTensor:
    """A random weight of `shape`, packed."""
    w = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return pack(choose("rtn", w, Format.parse(text, {"TEST": TABLE})))


def write_modules(
    out: Path, packed: dict[str, PackedTensor], plain: dict[str, torch.Tensor] | None = None, *, shard_bytes: int = 10**9
) -> Path:
    """A kbit checkpoint with the weights `packed` (module -> weight) and the tensors `plain`."""
    plain = {"model.norm.weight": NORM} if plain is None else plain
    with CheckpointWriter(out, CONFIG, shard_bytes, recipe={"weights": "many"}, source="tiny") as writer:
        for name, tensor in plain.items():
            writer.declare(name, tensor.dtype, tuple(tensor.shape))
        for key, weight in packed.items():
            writer.declare_packed(key, weight.fmt, weight.shape)
        for key, weight in packed.items():
            writer.add_packed(key, weight)
        for name, tensor in plain.items():
            writer.add(name, tensor)
    return out


def two_modules(out: Path) -> Path:
    """The usual one: two weights in two formats, and a norm."""
    return write_modules(
        out, {"model.up": packed_random("nf4-b64", (48, 100)), "model.down": packed_random("int3-b32-asym", (20, 70))}
    )


def experts(out: Path, *, transposed: bool = False, texts: tuple[str, ...] = ("nf4-b64", "int3-row", "bf16")) -> Path:
    """A 3-D parameter model.experts of several matrices (24, 40), each in a format of its own."""
    from kbit.packed import keep

    weights = [torch.randn(24, 40, generator=torch.Generator().manual_seed(i)) for i in range(len(texts))]
    formats = [Format.parse(text) for text in texts]
    with CheckpointWriter(out, CONFIG, recipe={}, source="tiny") as writer:
        for i, fmt in enumerate(formats):
            writer.declare_packed(f"model.experts.{i}", fmt, (24, 40), transposed=transposed, parameter="model.experts", expert=i)
        for i, (fmt, w) in enumerate(zip(formats, weights, strict=True)):
            writer.add_packed(f"model.experts.{i}", keep(w, fmt) if fmt.is_float else pack(choose("rtn", w, fmt)))
    return out
