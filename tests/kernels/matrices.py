"""Packed weights as the kernels see them: the arguments of kernels.Matrix for a PackedTensor."""

from __future__ import annotations

from typing import Any
from unittest import mock

from kbit.packed import PackedTensor, native


def matrix_fields(packed: PackedTensor) -> dict[str, Any]:
    """What the native matrix of a packed weight is made of."""
    with mock.patch.object(native, "Matrix", dict):
        return {"first": 0, "rise": 1, **native.matrix_of(packed.fmt, packed.shape, packed.parts())}
