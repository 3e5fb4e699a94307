"""Format strings for the tests of packing: every codebook at every k, and every option with the codebooks it goes with."""

from __future__ import annotations

import torch
from hypothesis import strategies

from kbit.errors import FormatError
from kbit.formats import CODEBOOKS, Encoded, Format
from kbit.methods import choose

TABLE = torch.tensor([-1.0, -0.4, 0.0, 0.1, 0.25, 0.5, 1.0])  # seven levels in three bits
SPLITS = ["fp4e3m0", "fp6e2m3", "fp8e5m2"]
HEADS = [
    *(f"{word}{k}" if codebook.shows_k else word for word, codebook in CODEBOOKS.items() if word != "table" for k in codebook.ks),
    *SPLITS,
    "table3:TEST",
]
GRANULARITIES = ["tensor", "row", "b16", "b40", "b64"]
AFFINES = ["", "-asym", "-min", "-center"]
SCALES = ["", "-s8", "-i8", "-e8m0", "-e4m3"]
KEPT = ["", "-o3"]


def exists(text: str) -> bool:
    """Whether the format string is allowed."""
    try:
        Format.parse(text)
    except FormatError:
        return False
    return True


ALL = [
    text
    for head in HEADS
    for granularity in GRANULARITIES
    for affine in AFFINES
    for scales in SCALES
    for kept in KEPT
    if exists(text := f"{head}-{granularity}{affine}{scales}{kept}")
]
SOME = [f"{head}-b40" for head in HEADS] + [text for text in ALL if text.startswith(("int3-b16-", "nf4-tensor-", "kmeans2-row-"))]

formats = strategies.sampled_from(ALL)
shapes = strategies.tuples(strategies.integers(1, 40), strategies.integers(1, 150))


def encoded(text: str, shape: tuple[int, int], seed: int = 0) -> Encoded:
    """A random weight of `shape`, encoded by rounding to nearest."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(shape, generator=generator) * torch.rand(shape[0], 1, generator=generator)
    return choose("rtn", w, Format.parse(text, {"TEST": TABLE}))
