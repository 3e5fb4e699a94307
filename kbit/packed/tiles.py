"""Numbers that rows have, such as a scale for each of their blocks, in the order of tiles: (tile, column, row of the tile).

A tile is 16 rows, padded with rows of 0, so that one vector holds the numbers of all its rows.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from kbit.formats.storage import TILE_ROWS

BYTES_OF_BITS = TILE_ROWS // 8  # one bit for each row of a tile


def to_tiles(values: Tensor) -> Tensor:
    """`values` (rows, columns) of any dtype, row after row, as they are stored: one dimension, rows padded to 16."""
    rows, columns = values.shape
    padded = pad(values, (0, 0, 0, -rows % TILE_ROWS))
    return padded.view(-(-rows // TILE_ROWS), TILE_ROWS, columns).transpose(1, 2).flatten()


def from_tiles(stored: Tensor, rows: int, columns: int) -> Tensor:
    """Inverse of to_tiles, in memory of its own; `stored` may be longer."""
    tiles = -(-rows // TILE_ROWS)
    by_tile = stored[: tiles * columns * TILE_ROWS].view(tiles, columns, TILE_ROWS)
    return by_tile.transpose(1, 2).clone(memory_format=torch.contiguous_format).view(tiles * TILE_ROWS, columns)[:rows]


def zeros_to_tiles(zero: Tensor, k: int) -> Tensor:
    """Zero points (rows, columns) below 2^k, uint8, as bit planes: (tile, column, bit) words of 16 bits, one for each row.

    Returns uint8, one dimension; the words are little-endian.
    """
    columns = zero.shape[1]
    by_tile = to_tiles(zero).view(-(-len(zero) // TILE_ROWS), columns, BYTES_OF_BITS, 8)
    planes = torch.empty((len(by_tile), columns, k, BYTES_OF_BITS), dtype=torch.uint8)
    row = torch.arange(8, dtype=torch.uint8)
    for bit in range(k):
        planes[:, :, bit] = ((by_tile >> bit & 1) << row).sum(-1, dtype=torch.uint8)
    return planes.flatten()


def zeros_from_tiles(stored: Tensor, rows: int, columns: int, k: int) -> Tensor:
    """Inverse of zeros_to_tiles; `stored` may be longer, and every zero point is below 2^k whatever the bytes."""
    tiles = -(-rows // TILE_ROWS)
    planes = stored[: tiles * columns * k * BYTES_OF_BITS].view(tiles, columns, k, BYTES_OF_BITS, 1)
    zero = torch.zeros((tiles, columns, BYTES_OF_BITS, 8), dtype=torch.uint8)
    row = torch.arange(8, dtype=torch.uint8)
    for bit in range(k):
        zero |= (planes[:, :, bit] >> row & 1) << bit
    return from_tiles(zero.flatten(), rows, columns)
