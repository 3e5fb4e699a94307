"""Codes of k bits to a plain stream of bytes and back, for every k by the same few whole-array steps.

The stream: code j of a row takes the bits j*k .. (j+1)*k - 1 of the row, counted from the lowest bit of its first byte. So 8
codes fill exactly k bytes, and a row of a multiple of 8 codes is whole bytes. Ternary codes go five to a byte: sum code_i * 3^i.
"""

from __future__ import annotations

import numpy as np

WORD = np.dtype("<u8")  # 8 codes, one to a byte; little-endian on every host
CHUNK = 2**16  # words worked on at once: 512 KiB, which a core's second-level cache holds
TERNARY_POWERS = np.array([1, 3, 9, 27, 81], dtype=np.uint8)


def pack_bits(codes: np.ndarray, k: int) -> np.ndarray:
    """Stream of `codes` (rows, columns) uint8, each below 2^k, columns a multiple of 8: uint8 (rows, columns * k / 8)."""
    rows, columns = codes.shape
    assert columns % 8 == 0
    if k == 8:
        return codes.copy()
    words = np.ascontiguousarray(codes).view(WORD).reshape(-1)
    stream = np.empty((len(words), k), dtype=np.uint8)
    for start in range(0, len(words), CHUNK):
        word = words[start : start + CHUNK].copy()
        for lane in (8, 16, 32):  # bits between neighbours' starts; each round pushes the upper of two together with the lower
            low = _low_lanes(lane)
            word = (word & low) | ((word & ~low) >> np.uint64(lane - lane // 8 * k))
        stream[start : start + CHUNK] = word.view(np.uint8).reshape(-1, 8)[:, :k]
    return stream.reshape(rows, columns * k // 8)


def unpack_bits(stream: np.ndarray, k: int) -> np.ndarray:
    """Inverse of pack_bits: uint8 (rows, bytes * 8 / k), codes below 2^k whatever the bytes."""
    rows, row_bytes = stream.shape
    assert row_bytes % k == 0
    if k == 8:
        return stream.copy()
    groups = np.ascontiguousarray(stream).reshape(-1, k)
    words = np.empty(len(groups), dtype=WORD)
    for start in range(0, len(groups), CHUNK):
        part = groups[start : start + CHUNK]
        padded = np.zeros((len(part), 8), dtype=np.uint8)
        padded[:, :k] = part
        word = padded.view(WORD).reshape(-1)
        for lane in (32, 16, 8):
            bits = np.uint64(lane // 8 * k)
            low = _lanes_of(lane, lane // 8 * k)
            word = (word & low) | ((word & (low << bits)) << np.uint64(lane) - bits)
        words[start : start + CHUNK] = word
    return words.view(np.uint8).reshape(rows, row_bytes // k * 8)


def pack_ternary(codes: np.ndarray) -> np.ndarray:
    """Five to a byte: codes (rows, columns) uint8 in 0..2 to uint8 (rows, ceil(columns / 5))."""
    rows, columns = codes.shape
    padded = np.zeros((rows, -(-columns // 5) * 5), dtype=np.uint8)
    padded[:, :columns] = codes
    return (padded.reshape(rows, -1, 5) * TERNARY_POWERS).sum(-1, dtype=np.uint8)


def unpack_ternary(stream: np.ndarray, columns: int) -> np.ndarray:
    """Inverse of pack_ternary: uint8 (rows, columns), codes in 0..2 whatever the bytes."""
    return _TERNARY_DIGITS[stream].reshape(len(stream), -1)[:, :columns]


def _low_lanes(lane: int) -> np.uint64:
    """Ones in the lower of every two lanes of `lane` bits."""
    return np.uint64(sum(((1 << lane) - 1) << at for at in range(0, 64, 2 * lane)))


def _lanes_of(lane: int, bits: int) -> np.uint64:
    """Ones in the lowest `bits` of every second lane of `lane` bits."""
    return np.uint64(sum(((1 << bits) - 1) << at for at in range(0, 64, 2 * lane)))


# byte -> its five codes; bytes above 3^5 - 1 = 242, which no packer writes, give codes in 0..2 too
_TERNARY_DIGITS = (np.arange(256)[:, None] // TERNARY_POWERS[None, :].astype(np.int64) % 3).astype(np.uint8)
