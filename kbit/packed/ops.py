"""The products of packed weights as operators of torch: eager, under torch.compile and torch.export, and with gradients.

An operator is given the stored tensors themselves, with the format that gives them meaning, so it always multiplies what they
hold now. What is made ready once (the kernels' description of a matrix) is kept beside the codes, for as long as these live.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor

from kbit.formats.format import Format
from kbit.packed.packed_tensor import PackedTensor
from kbit.packed.parts import part_sizes


@torch.library.custom_op("kbit::matmul", mutates_args=())
def matmul(x: Tensor, parts: list[Tensor], fmt: str, n_out: int, n_in: int, compute: str) -> Tensor:
    """x (..., n_in) times the transpose of a packed weight: (..., n_out) in the dtype of x, float32 for whole numbers.

    parts: the stored tensors, in the order of part_sizes. compute: a word of COMPUTE.
    """
    return packed_of(parts, fmt, n_out, n_in).multiply(x, compute)


@torch.library.custom_op("kbit::matmul_transposed", mutates_args=())
def matmul_transposed(y: Tensor, parts: list[Tensor], fmt: str, n_out: int, n_in: int) -> Tensor:
    """y (..., n_out) times a packed weight, dequantized some rows at a time: (..., n_in) in the dtype of y."""
    x = torch.zeros(*y.shape[:-1], n_in, device=y.device)
    for rows, w in packed_of(parts, fmt, n_out, n_in).chunks():
        x += y[..., rows].float() @ w.to(y.device)
    return x.to(y.dtype)


@torch.library.custom_op("kbit::rows", mutates_args=())
def rows(ids: Tensor, parts: list[Tensor], fmt: str, n_out: int, n_in: int) -> Tensor:
    """Rows `ids` (...) of a packed weight: float32 (..., n_in)."""
    return packed_of(parts, fmt, n_out, n_in).rows(ids)


@matmul.register_fake
def _(x: Tensor, parts: list[Tensor], fmt: str, n_out: int, n_in: int, compute: str) -> Tensor:
    return x.new_empty((*x.shape[:-1], n_out), dtype=x.dtype if x.is_floating_point() else torch.float32)


@matmul_transposed.register_fake
def _(y: Tensor, parts: list[Tensor], fmt: str, n_out: int, n_in: int) -> Tensor:
    return y.new_empty((*y.shape[:-1], n_in))


@rows.register_fake
def _(ids: Tensor, parts: list[Tensor], fmt: str, n_out: int, n_in: int) -> Tensor:
    return ids.new_empty((*ids.shape, n_in), dtype=torch.float32)


def _keep_weight(ctx: Any, inputs: tuple, output: Tensor) -> None:
    _, parts, *ctx.weight = inputs
    ctx.save_for_backward(*parts)


def _matmul_backward(ctx: Any, grad: Tensor) -> tuple:
    """int8 rounds the activations; the gradient passes straight through that."""
    parts, (fmt, n_out, n_in, _) = list(ctx.saved_tensors), ctx.weight
    return matmul_transposed(grad, parts, fmt, n_out, n_in), [None] * len(parts), None, None, None, None


def _transposed_backward(ctx: Any, grad: Tensor) -> tuple:
    parts = list(ctx.saved_tensors)
    return matmul(grad, parts, *ctx.weight, "exact"), [None] * len(parts), None, None, None


matmul.register_autograd(_matmul_backward, setup_context=_keep_weight)
matmul_transposed.register_autograd(_transposed_backward, setup_context=_keep_weight)


def packed_of(parts: list[Tensor], fmt: str, n_out: int, n_in: int) -> PackedTensor:
    """The packed weight of these stored tensors: the one of the last call, where they are the same.

    It holds them as tensors of their own over the same memory, so that the entry goes when the codes that it stands for go.
    """
    codes = parts[0]
    state = (fmt, n_out, n_in, *[part.data_ptr() for part in parts])
    entry = _PACKED.get(id(codes))
    if entry is not None and entry[0]() is codes and entry[1] == state:
        return entry[2]
    parsed = Format.parse(fmt)
    suffixes = part_sizes(parsed, (n_out, n_in))
    held = {suffix: part.detach() for suffix, part in zip(suffixes, parts, strict=True)}
    packed = PackedTensor.from_parts(parsed, (n_out, n_in), held)
    key = id(codes)
    _PACKED[key] = (weakref.ref(codes, lambda _: _PACKED.pop(key, None)), state, packed)
    return packed


_PACKED: dict[int, tuple[weakref.ref, tuple, PackedTensor]] = {}
