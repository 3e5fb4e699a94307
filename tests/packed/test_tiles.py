"""The order of the numbers that rows have: against the definition, and there and back."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kbit.packed.tiles import from_tiles, to_tiles, zeros_from_tiles, zeros_to_tiles
from tests.packed.definition import number_at, up, zero_at

sides = (st.integers(1, 40), st.integers(0, 9))


@given(*sides, st.sampled_from([torch.float16, torch.float32, torch.uint8]))
def test_numbers_lie_as_defined_and_come_back(rows, columns, dtype):
    values = torch.arange(1, rows * columns + 1).view(rows, columns).to(dtype)
    stored = to_tiles(values)
    assert stored.dtype == dtype
    assert stored.shape == (up(rows, 16) * columns,)
    for row in range(up(rows, 16)):
        for column in range(columns):
            expected = values[row, column] if row < rows else 0
            assert number_at(stored.tolist(), columns, row, column) == expected
    found = from_tiles(torch.cat([stored, torch.ones(5).to(dtype)]), rows, columns)
    assert torch.equal(found, values)


def test_what_comes_back_is_in_memory_of_its_own():
    stored = torch.arange(16.0)
    from_tiles(stored, 16, 1).zero_()
    assert torch.equal(stored, torch.arange(16.0))


@given(*sides, st.integers(1, 8), st.integers(0, 99))
def test_zero_points_lie_as_defined_and_come_back(rows, columns, k, seed):
    zero = torch.randint(0, 2**k, (rows, columns), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    stored = zeros_to_tiles(zero, k)
    assert stored.shape == (up(rows, 16) * columns * k // 8,)
    flat = bytes(stored.tolist())
    for row in range(up(rows, 16)):
        for column in range(columns):
            assert zero_at(flat, k, columns, row, column) == (zero[row, column] if row < rows else 0)
    assert torch.equal(zeros_from_tiles(torch.cat([stored, torch.full((5,), 255).byte()]), rows, columns, k), zero)


@pytest.mark.parametrize("k", range(1, 9))
def test_any_bytes_give_zero_points_of_k_bits(k):
    stored = torch.randint(0, 256, (6 * k * 2,), generator=torch.Generator().manual_seed(k), dtype=torch.uint8)
    assert int(zeros_from_tiles(stored, 32, 3, k).max()) < 2**k
