"""Format strings that tests run over: every codebook at every k, every granularity and option; and weights to try them on."""

from __future__ import annotations

import torch
from torch import Tensor

from kbit.formats import CODEBOOKS, Format

TABLES = {"even": torch.linspace(-1, 1, 5), "uneven": torch.tensor([-2.0, -0.5, 0.25, 3.0])}


def heads(name: str) -> list[str]:
    """Codebook and k of every format of a codebook."""
    if name == "table":
        return ["table3:even", "table2:uneven"]
    if name == "fp":
        return ["fp1"] + [f"fp{k}e{e}m{k - 1 - e}" for k in range(2, 9) for e in range(1, k)]
    codebook = CODEBOOKS[name]
    return [name + (str(k) if codebook.shows_k else "") for k in codebook.ks]


HEADS = [head for name in CODEBOOKS for head in heads(name)]
VARIED = [  # every granularity and option, alone and together
    "int4-b64",
    "int3-b7",
    "int8-row",
    "int4-tensor",
    "int8-token",
    "int1-b16-asym",
    "int2-b64-asym",
    "int4-b32-asym",
    "int8-row-asym",
    "int4-tensor-asym",
    "int1-b16-min",
    "int2-b64-min",
    "int4-b32-min",
    "int4-tensor-min",
    "int4-b64-center",
    "binary-row-center",
    "nf4-b64-center",
    "nf4-b64-s8",
    "int4-b64-i8",
    "int3-b4-asym-i8",
    "int4-b4-asym-s8",
    "int2-b8-min-s8",
    "mxfp4",
    "mxfp6",
    "mxfp6e2m3",
    "mxfp8",
    "mxfp8e5m2",
    "mxint8",
    "nvfp4",
    "fp8e4m3-row-e4m3",
    "nf3-b16-e8m0",
    "int4-b32-asym-e8m0",
    "int4-b32-min-e4m3",
    "int4-b64-o2",
    "nf4-b64-s8-o10",
    "kmeans3-b64-o5",
    "kmeans2-tensor",
    "quantile3-row",
    "ternary-b64",
    "ternary-tensor",
    "table3:even-b64",
    "table2:uneven-b64-e4m3",
]
ALL = [f"{head}-b64" for head in HEADS] + VARIED


def parse(text: str) -> Format:
    """The format of a string of this file, tables included."""
    return Format.parse(text, TABLES)


def weights(n_out: int, n_in: int, seed: int = 0, kind: str = "gauss") -> Tensor:
    """A Gaussian weight of standard deviation 0.02, or a heavy-tailed one."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(n_out, n_in, generator=generator)
    if kind == "heavy":
        w = w * torch.randn(n_out, n_in, generator=generator).square()
    return w * 0.02
