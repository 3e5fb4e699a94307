"""Ternary codes, five to a byte, in tiles of 16 rows.

Five digits d_0 .. d_4 of 0, 1, 2 make V = sum d_i * 3^(4-i) <= 242, stored as the fraction V / 243 of 256, rounded up: then the
digits come out one after another by multiplication alone, digit i = (3 * x) >> 8 of x = (byte * 3^i) mod 256.

A row has ceil(columns / 5) bytes. As many as make fours lie in vectors of 64 bytes: byte 4 * row + column of vector v holds the
columns 20v + column + 0, 4, 8, 12, 16 of its row. The bytes left over, up to three a row, follow 16 rows at a time, and hold
five neighbours each.
"""

from __future__ import annotations

import numpy as np

from kbit.formats.storage import CODES_PER_BYTE_TERNARY, TILE_ROWS

DIGITS = CODES_PER_BYTE_TERNARY
LANES = 4  # bytes of a row in a vector
VALUES = 3**DIGITS


def pack_ternary(codes: np.ndarray) -> np.ndarray:
    """Bytes of `codes` (rows, columns) uint8 in 0..2, whole tiles only: uint8 (tiles, 16 * ceil(columns / 5))."""
    rows, columns = codes.shape
    assert rows % TILE_ROWS == 0
    tiles, (full, left) = rows // TILE_ROWS, divmod(-(-columns // DIGITS), LANES)
    padded = np.zeros((tiles, TILE_ROWS, (full * LANES + left) * DIGITS), dtype=np.uint8)
    padded[:, :, :columns] = codes.reshape(tiles, TILE_ROWS, columns)
    in_vectors = padded[:, :, : full * LANES * DIGITS].reshape(tiles, TILE_ROWS, full, DIGITS, LANES)
    rest = padded[:, :, full * LANES * DIGITS :].reshape(tiles, TILE_ROWS, left, DIGITS)
    vectors = _join(in_vectors.transpose(3, 0, 2, 1, 4))
    bytes_left = _join(rest.transpose(3, 0, 2, 1))
    return np.concatenate([vectors.reshape(tiles, -1), bytes_left.reshape(tiles, -1)], axis=1)


def unpack_ternary(stored: np.ndarray) -> np.ndarray:
    """Inverse of pack_ternary: uint8 (rows, columns up to a multiple of 5), codes in 0..2 whatever the bytes."""
    tiles, (full, left) = len(stored), divmod(stored.shape[1] // TILE_ROWS, LANES)
    vectors = stored[:, : full * LANES * TILE_ROWS].reshape(tiles, full, TILE_ROWS, LANES)
    bytes_left = stored[:, full * LANES * TILE_ROWS :].reshape(tiles, left, TILE_ROWS)
    codes = np.empty((tiles, TILE_ROWS, (full * LANES + left) * DIGITS), dtype=np.uint8)
    codes[:, :, : full * LANES * DIGITS] = _split(vectors).transpose(1, 3, 2, 0, 4).reshape(tiles, TILE_ROWS, -1)
    codes[:, :, full * LANES * DIGITS :] = _split(bytes_left).transpose(1, 3, 2, 0).reshape(tiles, TILE_ROWS, -1)
    return codes.reshape(tiles * TILE_ROWS, -1)


def _join(digits: np.ndarray) -> np.ndarray:
    """The byte of each five digits (5, ...): (...)."""
    value = np.zeros(digits.shape[1:], dtype=np.uint8)
    for digit in digits:
        value = value * np.uint8(3) + digit
    return _BYTES[value]


def _split(stored: np.ndarray) -> np.ndarray:
    """The five digits of each byte: (5, ...)."""
    return _DIGITS[:, stored]


_BYTES = np.array([-(-value * 256 // VALUES) for value in range(VALUES)], dtype=np.uint8)
_DIGITS = np.array([[3 * (byte * 3**i % 256) >> 8 for byte in range(256)] for i in range(DIGITS)], dtype=np.uint8)
