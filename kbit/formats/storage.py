"""The one place that counts stored bytes: which tensors a format writes for a weight, and how long each is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kbit.errors import FormatError

if TYPE_CHECKING:
    from kbit.formats.format import Format

TILE_ROWS = 16  # rows of a tile: one AVX-512 register of floats, two AVX2, four NEON
CODE_COLUMNS = 32  # codes of a row pad to this many, so that a plane of one bit is whole words
ALIGNMENT = 64  # bytes: a cache line, and the widest vector
CODES_PER_BYTE_TERNARY = 5  # 3^5 = 243 <= 256
SECOND_LEVELS = {"s8": 16, "i8": None}  # blocks of a row that share one float16; None: all


def pad(size: int, multiple: int) -> int:
    """The least multiple of `multiple` that is not below `size`."""
    return -(-size // multiple) * multiple


def second_scales(scales: str, n_blocks: int) -> int:
    """Scales of the second level that a row of `n_blocks` blocks has."""
    return -(-n_blocks // (SECOND_LEVELS[scales] or n_blocks))


def row_bytes(fmt: Format, n_coded: int) -> int:
    """Bytes that the codes of a row take, for `n_coded` coded columns, padded to 32; the codes of a tile are 16 times as many."""
    columns = pad(n_coded, CODE_COLUMNS)
    return -(-columns // CODES_PER_BYTE_TERNARY) if fmt.codebook == "ternary" else columns * fmt.k // 8


def stored_parts(fmt: Format, shape: tuple[int, int]) -> dict[str, int]:
    """Bytes of each stored tensor of an (n_out, n_in) weight, by the suffix of its name; docs/formats.md describes each.

    Rows pad to 16 and the codes of a row to 32 columns; each part pads to 64 bytes. f32, f16 and bf16 are stored as they are,
    unpadded. Raises FormatError where a side is not positive.
    """
    n_out, n_in = shape
    if n_out < 1 or n_in < 1:
        raise FormatError(
            f"format '{fmt}': a weight of shape ({n_out}, {n_in}) holds nothing. Give a matrix of at least one row and column."
        )
    if fmt.is_float:
        return {"": n_out * n_in * fmt.k // 8}
    n_kept = fmt.n_kept(n_in)
    rows = pad(n_out, TILE_ROWS)
    n_blocks = fmt.n_blocks(n_in - n_kept)
    n_scales = 1 if fmt.granularity == "tensor" else rows * n_blocks
    parts = {"": rows * row_bytes(fmt, n_in - n_kept), "_scale": n_scales * (2 if fmt.scales == "f16" else 1)}
    if fmt.scales in SECOND_LEVELS:
        parts["_second_scale"] = 2 * rows * second_scales(fmt.scales, n_blocks)
    if fmt.scales == "e4m3":
        parts["_tensor_scale"] = 4
    if fmt.affine == "asym":
        parts["_zero"] = -(-n_scales * fmt.k // 8)
    if fmt.affine in ("min", "center"):
        parts["_min" if fmt.affine == "min" else "_mean"] = 2 * n_scales
    if fmt.learned:
        parts["_levels"] = 4 * 2**fmt.k
    if n_kept:
        parts["_kept_columns"] = 4 * n_kept
        parts["_kept_weight"] = 2 * rows * n_kept
    return {suffix: pad(size, ALIGNMENT) for suffix, size in parts.items()}
