"""Packed weights as the kernels see them: the arguments of kernels.Matrix for a PackedTensor."""

from __future__ import annotations

from typing import Any
from unittest import mock

import torch

from kbit.kernels import Matrix
from kbit.packed import PackedTensor, native


def matrix_fields(packed: PackedTensor) -> dict[str, Any]:
    """What the native matrix of a packed weight is made of."""
    with mock.patch.object(native, "Matrix", dict):
        return {"first": 0, "rise": 1, **native.matrix_of(packed.fmt, packed.shape, packed.parts())}


def small_fields(n_out: int, n_in: int, seed: int = 0) -> dict[str, Any]:
    """The arguments of kernels.Matrix for random bytes as 4-bit integers in one block a row, the scale of every row 1."""
    rows, columns = -(-n_out // 16) * 16, -(-n_in // 32) * 32
    codes = torch.randint(256, (rows * columns // 2,), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)
    scale = torch.zeros(-(-rows // 32) * 32, dtype=torch.float16)
    scale[:n_out] = 1
    return {
        "n_out": n_out,
        "n_in": n_in,
        "k": 4,
        "coding": "linear",
        "first": -7,
        "codes": codes,
        "scale": scale,
        "levels": torch.arange(-7.0, 9.0),
    }


def small_matrix(n_out: int, n_in: int, seed: int = 0) -> Matrix:
    """The matrix of small_fields."""
    return Matrix(**small_fields(n_out, n_in, seed))
