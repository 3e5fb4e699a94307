"""Embedding rows and the residual sum."""

from __future__ import annotations

import pytest
import torch

from kbit.errors import FixedPointError
from kbit.fixedpoint.embedding import add, embed
from tests.fixedpoint import exact
from tests.fixedpoint.test_linear import columns, layer


@pytest.mark.parametrize("blocks", [False, True])
def test_an_embedding_is_its_row_in_the_scale_of_the_residual(blocks):
    w = layer(5, 37, 16, blocks, seed=0)
    ids = torch.tensor([[4, 0, 0], [2, 3, 1]])
    y = embed(ids, w)
    assert y.dtype == torch.int32
    for i, row in enumerate(ids.tolist()):
        for j, r in enumerate(row):
            expected = [exact.scaled(c * int(w.multiplier[r]), int(w.shift[r])) for c in columns(w, r)]
            assert y[i, j].tolist() == expected


def test_an_id_without_a_row_is_refused():
    with pytest.raises(FixedPointError, match=r"^linear: ids run from -1 to 5, but there are 5 rows\."):
        embed(torch.tensor([5, -1]), layer(5, 3, 16, False, seed=0))


def test_a_sum_saturates():
    x = torch.tensor([2**31 - 1, -(2**31), 7], dtype=torch.int32)
    assert add(x, torch.tensor([5, -5, -9], dtype=torch.int16)).tolist() == [2**31 - 1, -(2**31), -2]
