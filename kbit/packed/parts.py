"""The stored tensors of a packed weight: their names' suffixes, dtypes and sizes."""

from __future__ import annotations

import torch

from kbit.formats.format import Format

# suffix of the name -> dtype; scales are float16 unless the format says otherwise
PART_DTYPES = {
    "": torch.uint8,
    "_scale": torch.float16,
    "_second_scale": torch.float16,
    "_tensor_scale": torch.float32,
    "_zero": torch.uint8,
    "_min": torch.float16,
    "_mean": torch.float16,
    "_levels": torch.float32,
    "_kept_columns": torch.int32,
    "_kept_weight": torch.float16,
}


def part_sizes(fmt: Format, shape: tuple[int, int]) -> dict[str, tuple[torch.dtype, int]]:
    """Suffix -> (dtype, number of values) of each stored part, all of one dimension; their bytes sum to stored_bits / 8."""
    return {suffix: sized(part_dtype(fmt, suffix), nbytes) for suffix, nbytes in fmt.stored_parts(shape).items()}


def part_dtype(fmt: Format, suffix: str) -> torch.dtype:
    """The dtype of one part."""
    if fmt.is_float:
        return fmt.dtype
    if suffix == "_scale" and fmt.scales != "f16":
        return torch.uint8  # s8: 255ths of the second level; e8m0 and e4m3: the bits of those floats
    return PART_DTYPES[suffix]


def sized(dtype: torch.dtype, nbytes: int) -> tuple[torch.dtype, int]:
    """The dtype and how many of it make `nbytes`."""
    assert nbytes % dtype.itemsize == 0
    return dtype, nbytes // dtype.itemsize
