"""A packed weight as the kernels read it: its stored bytes, and what each number of a code means."""

from __future__ import annotations

import torch
from torch import Tensor

from kbit.errors import CheckpointError
from kbit.formats.format import Format
from kbit.formats.integer_levels import integer_levels
from kbit.kernels import Matrix

LINEAR, TABLE, TERNARY = "linear", "table", "ternary"  # how the kernels come from a code to its level
FLOATS = {"_tensor_scale": "tensor_scale", "_scale": "scale", "_second_scale": "scale", "_min": "minimum", "_mean": "mean"}
FLOATS |= {"_levels": "levels", "_kept_weight": "kept_weight"}
E4M3_NAN = 0x7F  # without its sign
E8M0_NAN = 0xFF
AGAIN = "The file is damaged: download or copy it again."


def coding_of(fmt: Format, levels: Tensor) -> tuple[str, int, int]:
    """(coding, first, rise): LINEAR codes mean first + rise * code; the others are looked up, and first and rise are 0."""
    if fmt.is_linear and len(levels) > 1 and (fmt.k > 1 or fmt.affine in ("asym", "min")):
        return LINEAR, int(levels[0]), 1
    if fmt.k == 1 and not fmt.learned and levels.tolist() == [-1.0, 1.0]:
        return LINEAR, -1, 2
    return (TERNARY if fmt.codebook == "ternary" else TABLE), 0, 0


def matrix_of(fmt: Format, shape: tuple[int, int], parts: dict[str, Tensor]) -> Matrix:
    """The kernels' description of the weight whose stored tensors are `parts`, which it holds without copying them.

    Raises CheckpointError where a stored number is one that no packer writes.
    """
    levels = check_numbers(fmt, shape, parts)
    n_kept = fmt.n_kept(shape[1])
    coding, first, rise = coding_of(fmt, levels)
    whole = integer_levels(fmt, levels)
    size = 2**fmt.k
    return Matrix(
        n_out=shape[0],
        n_in=shape[1],
        n_kept=n_kept,
        block=fmt.block_size(shape[1] - n_kept),
        k=fmt.k,
        coding=coding,
        first=first,
        rise=rise,
        scales=fmt.scales,
        per_tensor=fmt.granularity == "tensor",
        step=whole.step,
        tensor_scale=float(parts["_tensor_scale"][0]) if fmt.scales == "e4m3" else 1.0,
        codes=parts[""],
        scale=parts["_scale"],
        second_scale=parts.get("_second_scale"),
        zero=parts.get("_zero"),
        shift=parts.get("_min", parts.get("_mean")),
        levels=filled(levels, size),
        integer_levels=None if coding == LINEAR else filled(whole.values, size).to(torch.int16),
        integer_bits=whole.bits,
        kept_columns=parts["_kept_columns"] if n_kept else None,
        kept_weight=parts["_kept_weight"] if n_kept else None,
    )


def check_numbers(fmt: Format, shape: tuple[int, int], parts: dict[str, Tensor]) -> Tensor:
    """The levels, float32 (n_levels,). Raises CheckpointError where a stored number is not finite, levels or kept columns do not
    ascend, or a kept column is none.
    """
    for suffix, name in FLOATS.items():
        if suffix in parts and not _finite(parts[suffix], fmt.scales, parts.get("_tensor_scale")):
            raise CheckpointError(f"a packed weight of shape {shape} in {fmt}: its {name} is not finite. {AGAIN}")
    if n_kept := fmt.n_kept(shape[1]):
        kept_columns(parts["_kept_columns"][:n_kept], shape[1])
    return stored_levels(parts["_levels"][: 2**fmt.k]) if fmt.learned else fmt.levels()


def stored_levels(stored: Tensor) -> Tensor:
    """Learned levels without the repetitions of the last that fill 2^k places."""
    rises = stored[1:] > stored[:-1]
    count = 1 + int(rises.sum())
    if not rises[: count - 1].all() or not (stored[count - 1 :] == stored[count - 1]).all():
        raise CheckpointError(f"a packed weight has levels that do not ascend. {AGAIN}")
    return stored[:count].clone()


def kept_columns(columns: Tensor, n_in: int) -> Tensor:
    """The columns, where they are ascending columns of a weight."""
    if (columns < 0).any() or (columns >= n_in).any() or (columns[1:] <= columns[:-1]).any():
        raise CheckpointError(f"a packed weight has kept columns that are not ascending columns of its {n_in}. {AGAIN}")
    return columns


def filled(levels: Tensor, size: int) -> Tensor:
    """Levels, and the last of them again up to `size`: no code reads outside."""
    return torch.cat([levels, levels[-1:].expand(size - len(levels))])


def _finite(values: Tensor, scales: str, tensor_scale: Tensor | None) -> bool:
    """Whether all are; bytes are scales of 8 bits."""
    if values.dtype != torch.uint8:
        return bool(values.isfinite().all())
    if scales == "e8m0":
        return bool((values != E8M0_NAN).all())
    if tensor_scale is None:
        return True  # s8, i8: 255ths of the second level
    largest = (values & E4M3_NAN).max()  # the bits of e4m3 ascend as its values do
    return int(largest) != E4M3_NAN and bool((largest.view(torch.float8_e4m3fn).float() * tensor_scale[0]).isfinite())
