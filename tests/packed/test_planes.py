"""Bit planes: against the definition code by code, and there and back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.packed import planes
from kbit.packed.planes import pack_planes, unpack_planes
from tests.packed.definition import code_at

ks = pytest.mark.parametrize("k", range(1, 9))


def random_codes(rows: int, columns: int, n_levels: int) -> np.ndarray:
    return np.random.default_rng(rows * columns).integers(0, n_levels, (rows, columns), dtype=np.uint8)


@ks
@pytest.mark.parametrize("shape", [(16, 32), (16, 4128), (48, 128)])
def test_every_code_lies_as_defined(k, shape, monkeypatch):
    monkeypatch.setattr(planes, "CHUNK", 16 * 128)  # a tile of the last shape
    codes = random_codes(*shape, 2**k)
    stored = pack_planes(codes, k)
    assert stored.shape == (shape[0] // 16, 16 * shape[1] * k // 8)
    flat = stored.tobytes()
    found = [[code_at(flat, k, shape[1], row, column) for column in range(shape[1])] for row in range(shape[0])]
    np.testing.assert_array_equal(found, codes)


def test_one_code_sets_the_bits_that_the_page_names():
    codes = np.zeros((32, 64), dtype=np.uint8)
    codes[16 + 5, 32 + 4 * 6 + 2] = 0b1011011  # tile 1, unit 1, row 5, group 6, column 2 of it
    flat = pack_planes(codes, 7).reshape(-1)
    unit = 16 * 64 * 7 // 8 + 64 * 7
    expected = {
        unit + 64 * 3 + 4 * 5 + 2: 0b1011,  # 4 bits: two groups to a vector, so vector 3, the lower half
        unit + 64 * 4 + 64 * 1 + 4 * 5 + 2: 0b01 << 4,  # then 2: four groups, so vector 1, the third place
        unit + 64 * 6 + 4 * 5 + 2: 0b1 << 6,  # then 1
    }
    assert {int(at): int(flat[at]) for at in flat.nonzero()[0]} == expected


@ks
def test_unpacking_gives_back_the_codes(k):
    codes = random_codes(16 * 41, 32 * 57, 2**k)  # more than one chunk, and no multiple of it
    np.testing.assert_array_equal(unpack_planes(pack_planes(codes, k), k), codes)


@ks
def test_any_bytes_unpack_to_codes_of_k_bits_and_pack_to_the_same_bytes(k):
    stored = np.random.default_rng(k).integers(0, 256, (3, 64 * k * 5), dtype=np.uint8)
    codes = unpack_planes(stored, k)
    assert codes.max() < 2**k
    np.testing.assert_array_equal(pack_planes(codes, k), stored)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 8), st.integers(1, 5), st.integers(1, 9), st.integers(1, 5000))
def test_no_size_of_a_chunk_changes_a_byte(k, tiles, units, chunk):
    codes = random_codes(16 * tiles, 32 * units, 2**k)
    whole = pack_planes(codes, k)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planes, "CHUNK", chunk)
        np.testing.assert_array_equal(pack_planes(codes, k), whole)
        np.testing.assert_array_equal(unpack_planes(whole, k), codes)
