"""Stored parts of format_version 0, the layout before this one, brought into the order of today's.

There codes were a plain stream of bits: code j of a row took bits j*k .. (j+1)*k - 1 of the row, counted from the lowest bit of
its first byte; five ternary codes were the byte sum code_d * 3^d. Scales, means and kept weights lay row after row, and zero
points were one stream of k bits each. The parts, their sizes and the other numbers are the same.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kbit.formats.format import Format
from kbit.formats.storage import CODE_COLUMNS, CODES_PER_BYTE_TERNARY, SECOND_LEVELS, TILE_ROWS, pad, row_bytes, second_scales
from kbit.packed.planes import pack_planes
from kbit.packed.ternary import pack_ternary
from kbit.packed.tiles import to_tiles, zeros_to_tiles

CHUNK = 2**20  # codes that lie unpacked at a time


def upgraded(fmt: Format, shape: tuple[int, int], parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """The parts of version 1 that mean what `parts` of version 0 mean, those of reordered numbers in memory of their own.

    parts: suffix -> one dimension, of the dtypes and sizes of part_sizes(fmt, shape).
    """
    if fmt.is_float:
        return dict(parts)
    n_out, n_in = shape
    n_kept = fmt.n_kept(n_in)
    n_blocks = fmt.n_blocks(n_in - n_kept)
    columns = {"_kept_weight": n_kept}
    if fmt.scales in SECOND_LEVELS:
        columns["_second_scale"] = second_scales(fmt.scales, n_blocks)
    if fmt.granularity != "tensor":  # one number has no order
        columns |= {"_scale": n_blocks, "_min": n_blocks, "_mean": n_blocks}
    changed = {
        suffix: to_tiles(parts[suffix][: n_out * n].view(n_out, n)) for suffix, n in columns.items() if n and suffix in parts
    }
    if fmt.affine == "asym" and fmt.granularity != "tensor":
        rows = pad(n_out, TILE_ROWS)
        stream = parts["_zero"].numpy()[: rows * n_blocks * fmt.k // 8]
        zero = torch.from_numpy(unpack_bits(stream, fmt.k)).view(rows, n_blocks)
        zero[n_out:] = 0
        changed["_zero"] = zeros_to_tiles(zero, fmt.k)
    changed[""] = torch.from_numpy(_codes(fmt, shape, parts[""].numpy()))
    return parts | {suffix: _filled(values, len(parts[suffix])) for suffix, values in changed.items()}


def unpack_bits(stream: np.ndarray, k: int) -> np.ndarray:
    """Codes of k bits, uint8, of a stream of bytes: (codes,)."""
    bits = np.unpackbits(stream, bitorder="little").reshape(-1, k)
    return np.packbits(bits, axis=-1, bitorder="little").reshape(-1)


def unpack_ternary(stream: np.ndarray, columns: int) -> np.ndarray:
    """Ternary codes of a stream (rows, bytes): uint8 (rows, columns), in 0..2 whatever the bytes."""
    return _TERNARY_DIGITS[stream].reshape(len(stream), -1)[:, :columns]


def _codes(fmt: Format, shape: tuple[int, int], stream: np.ndarray) -> np.ndarray:
    """The codes of version 1, some tiles after another."""
    rows, columns = pad(shape[0], TILE_ROWS), pad(shape[1] - fmt.n_kept(shape[1]), CODE_COLUMNS)
    of_row = row_bytes(fmt, columns)
    by_row = stream[: rows * of_row].reshape(rows, of_row)
    codes = np.empty(rows * of_row, dtype=np.uint8)
    step = max(TILE_ROWS, CHUNK // columns // TILE_ROWS * TILE_ROWS)
    for start in range(0, rows, step):
        some = by_row[start : start + step]
        place = slice(start * of_row, (start + len(some)) * of_row)
        if fmt.codebook == "ternary":
            codes[place] = pack_ternary(unpack_ternary(some, columns)).reshape(-1)
        else:
            codes[place] = pack_planes(unpack_bits(some.reshape(-1), fmt.k).reshape(-1, columns), fmt.k).reshape(-1)
    return codes


def _filled(values: Tensor, count: int) -> Tensor:
    """`values` and zeros up to `count`."""
    return torch.nn.functional.pad(values, (0, count - len(values)))


# byte -> its five codes; bytes above 3^5 - 1 = 242, which no packer wrote, give codes in 0..2 too
_TERNARY_DIGITS = (np.arange(256)[:, None] // 3 ** np.arange(CODES_PER_BYTE_TERNARY) % 3).astype(np.uint8)
