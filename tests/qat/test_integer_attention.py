"""Attention of training: the very integers of kbit.fixedpoint."""

from __future__ import annotations

import pytest
import torch

from kbit.fixedpoint.attention import ScoreScale, causal
from kbit.fixedpoint.attention import attention as reference
from kbit.fixedpoint.quantize import quantize_rows
from kbit.qat.integer_attention import attention
from tests.qat.integers import numbers


@pytest.mark.parametrize("k_v", [8, 4])
@pytest.mark.parametrize(("heads", "groups", "width", "n"), [(4, 2, 16, 64), (3, 1, 12, 65), (2, 2, 8, 1), (6, 2, 32, 150)])
def test_attention_is_that_of_the_operator(heads, groups, width, n, k_v):
    batch = 3
    sizes = torch.tensor([30000.0, 900.0, 3.0])[:, None, None, None]  # a sharp softmax, an ordinary one, an even one
    q, k, v = (
        (numbers(batch, n, count, width, low=-(2**15), high=2**15 - 1, seed=seed) * sizes / 2**15).to(torch.int16)
        for seed, count in enumerate((heads, groups, groups))
    )
    k[:, n // 2], v[0, 0], q[1, n // 3] = 0, 0, 0
    rows = (quantize_rows(q, 8), quantize_rows(k, 8), quantize_rows(v, k_v))
    for scale in (ScoreScale.of(width**-0.5, 2.0**-11, 2.0**-11), ScoreScale(2**15 - 1, 3)):
        assert torch.equal(attention(*rows, scale, k_v), reference(*rows, scale, causal(n, n), k_v))
