"""Codes of k bits to bit planes of tiles and back, for every k by the same few whole-array steps.

A tile is 16 rows, a unit 32 columns of a tile, a group 4 of those columns: 64 codes, one to a byte, are a vector. A unit is its
planes, widest first, each of 8, 4, 2 or 1 bits of every code: those that add up to k. The widest plane has the lowest bits. A
plane of width w is w vectors; byte 4 * row + column of vector v holds the bits of 8 / w groups, group v * 8 / w lowest.
"""

from __future__ import annotations

import numpy as np

from kbit.formats.storage import CODE_COLUMNS, TILE_ROWS

FOUR_CODES = np.dtype("<u4")  # of one row and group, one to a byte; little-endian on every host
WORD = np.dtype("<u8")  # 8 bytes of a vector
VECTOR = 64  # bytes
GROUPS = 8  # of a unit
CHUNK = 2**19  # codes worked on at once, with their temporaries what a core's second-level cache holds


def pack_planes(codes: np.ndarray, k: int) -> np.ndarray:
    """Planes of `codes` (rows, columns) uint8, each below 2^k, whole units only: uint8 (tiles, 16 * columns * k / 8)."""
    rows, columns = codes.shape
    assert rows % TILE_ROWS == 0
    assert columns % CODE_COLUMNS == 0
    tiles, units = rows // TILE_ROWS, columns // CODE_COLUMNS
    words = np.ascontiguousarray(codes).view(FOUR_CODES).reshape(tiles, TILE_ROWS, units, GROUPS)
    planes = np.empty((tiles, units, VECTOR * k), dtype=np.uint8)
    for some in _chunks(tiles, columns):
        vectors = np.ascontiguousarray(words[some].transpose(0, 2, 3, 1)).view(WORD)  # (tiles, units, groups, 8)
        for width, low, shifts in _planes(k):
            groups = vectors.reshape(*vectors.shape[:2], width, 8 // width, 8)
            plane = np.bitwise_or.reduce((groups >> low & _ones(width)) << shifts, axis=3)
            planes[some, :, _place(width, low)] = plane.view(np.uint8).reshape(*vectors.shape[:2], -1)
    return planes.reshape(tiles, -1)


def unpack_planes(planes: np.ndarray, k: int) -> np.ndarray:
    """Inverse of pack_planes: uint8 (rows, columns), codes below 2^k whatever the bytes."""
    tiles, units = len(planes), planes.shape[1] // (VECTOR * k)
    assert planes.shape[1] == units * VECTOR * k
    planes = planes.reshape(tiles, units, VECTOR * k)
    words = np.empty((tiles, TILE_ROWS, units, GROUPS), dtype=FOUR_CODES)
    for some in _chunks(tiles, units * CODE_COLUMNS):
        vectors = np.zeros((len(planes[some]), units, GROUPS, 8), dtype=WORD)
        for width, low, shifts in _planes(k):
            plane = np.ascontiguousarray(planes[some, :, _place(width, low)]).view(WORD)
            groups = plane.reshape(*vectors.shape[:2], width, 1, 8) >> shifts & _ones(width)
            vectors |= (groups << low).reshape(vectors.shape)
        words[some] = vectors.view(FOUR_CODES).transpose(0, 3, 1, 2)
    return words.view(np.uint8).reshape(tiles * TILE_ROWS, units * CODE_COLUMNS)


def _chunks(tiles: int, columns: int) -> list[slice]:
    """Whole tiles, CHUNK codes of them at a time."""
    step = max(1, CHUNK // (TILE_ROWS * columns))
    return [slice(start, start + step) for start in range(0, tiles, step)]


def _planes(k: int) -> list[tuple[int, np.uint64, np.ndarray]]:
    """(width, lowest bit of a code that it holds, shift of each group in a byte) of each plane."""
    planes, low = [], 0
    for width in (8, 4, 2, 1):
        if k & width:
            planes.append((width, np.uint64(low), np.arange(0, 8, width, dtype=WORD)[:, None]))
            low += width
    return planes


def _place(width: int, low: np.uint64) -> slice:
    """The bytes of a plane in its unit: a plane of w bits takes w vectors."""
    return slice(VECTOR * int(low), VECTOR * (int(low) + width))


def _ones(width: int) -> np.uint64:
    """The lowest `width` bits of each byte of a word."""
    return np.uint64(0x0101010101010101 * (2**width - 1))
