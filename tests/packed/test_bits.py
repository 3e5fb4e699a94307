"""Bit streams: against the definition bit by bit, and there and back."""

import numpy as np
import pytest

from kbit.packed.bits import pack_bits, pack_ternary, unpack_bits, unpack_ternary


def random_codes(rows: int, columns: int, n_levels: int) -> np.ndarray:
    return np.random.default_rng(rows * columns).integers(0, n_levels, (rows, columns), dtype=np.uint8)


@pytest.mark.parametrize("k", range(1, 9))
@pytest.mark.parametrize("shape", [(1, 8), (3, 32), (16, 64), (5, 8 * 40000)])
def test_code_j_takes_the_bits_from_j_times_k_of_its_row(k, shape):
    codes = random_codes(*shape, 2**k)
    bits = np.unpackbits(codes[..., None], axis=-1, bitorder="little")[..., :k]  # the definition: lowest bit first
    expected = np.packbits(bits.reshape(shape[0], -1), axis=-1, bitorder="little")
    np.testing.assert_array_equal(pack_bits(codes, k), expected)


@pytest.mark.parametrize("k", range(1, 9))
def test_unpacking_gives_back_the_codes(k):
    codes = random_codes(7, 8 * 30001, 2**k)  # more than one chunk, and no multiple of it
    np.testing.assert_array_equal(unpack_bits(pack_bits(codes, k), k), codes)


@pytest.mark.parametrize("k", range(1, 9))
def test_any_bytes_unpack_to_codes_of_k_bits_and_pack_to_the_same_bytes(k):
    stream = np.random.default_rng(k).integers(0, 256, (4, 12 * k), dtype=np.uint8)
    codes = unpack_bits(stream, k)
    assert codes.max() < 2**k
    np.testing.assert_array_equal(pack_bits(codes, k), stream)


@pytest.mark.parametrize("columns", [1, 4, 5, 32, 64, 333])
def test_five_ternary_codes_share_a_byte(columns):
    codes = random_codes(6, columns, 3)
    stream = pack_ternary(codes)
    assert stream.shape == (6, -(-columns // 5))
    first = [int(code) * 3**i for i, code in enumerate(codes[0, :5])]
    assert stream[0, 0] == sum(first)
    np.testing.assert_array_equal(unpack_ternary(stream, columns), codes)


def test_any_byte_unpacks_to_ternary_codes():
    assert unpack_ternary(np.arange(256, dtype=np.uint8)[None], 1280).max() == 2
