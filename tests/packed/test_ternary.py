"""Ternary codes: against the definition digit by digit, and there and back."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.packed.ternary import pack_ternary, unpack_ternary
from tests.packed.definition import ternary_code_at, up


def random_codes(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(rows * columns).integers(0, 3, (rows, columns), dtype=np.uint8)


@pytest.mark.parametrize("columns", [1, 4, 5, 19, 20, 21, 32, 64, 96, 333, 4128])  # 7, 13, 20 bytes a row: 3, 1, 0 left over
def test_every_code_lies_as_defined(columns):
    codes = random_codes(32, columns)
    stored = pack_ternary(codes)
    assert stored.shape == (2, 16 * up(columns, 5) // 5)
    flat = stored.tobytes()
    found = [[ternary_code_at(flat, columns, row, column) for column in range(up(columns, 5))] for row in range(32)]
    np.testing.assert_array_equal(found, np.pad(codes, ((0, 0), (0, -columns % 5))))


def test_the_243_bytes_are_the_least_whose_digits_come_out_by_multiplication():
    codes = np.zeros((3**5 + -(3**5) % 16, 5), dtype=np.uint8)
    codes[: 3**5] = list(product(range(3), repeat=5))
    stored = pack_ternary(codes).reshape(-1)[: 3**5]
    assert stored.tolist() == [-(-value * 256 // 243) for value in range(3**5)]
    for byte, digits in zip(stored.tolist(), product(range(3), repeat=5), strict=True):
        assert digits == tuple(byte * 3**d % 256 * 3 // 256 for d in range(5))


def test_any_byte_unpacks_to_ternary_codes_by_the_same_multiplication():
    codes = unpack_ternary(np.arange(256, dtype=np.uint8).reshape(16, 16))  # sixteen tiles of one byte a row
    assert codes.tolist() == [[byte * 3**d % 256 * 3 >> 8 for d in range(5)] for byte in range(256)]
    assert codes.max() == 2


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4), st.integers(1, 200))
def test_unpacking_gives_back_the_codes(tiles, columns):
    codes = random_codes(16 * tiles, columns)
    found = unpack_ternary(pack_ternary(codes))
    np.testing.assert_array_equal(found[:, :columns], codes)
    assert not found[:, columns:].any()
