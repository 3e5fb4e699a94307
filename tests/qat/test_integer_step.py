"""Where gradients pass through a step of integers, and where not."""

from __future__ import annotations

import torch

from kbit.qat.integer_step import within


def test_nothing_passes_where_16_bits_end():
    integers = torch.tensor([-32768, -32767, 0, 32766, 32767], dtype=torch.int16)
    x = torch.ones(5, requires_grad=True)
    within(x * 2, integers).sum().backward()
    assert x.grad.tolist() == [0, 2, 2, 2, 0]
    x.grad = None
    within(x * 2, integers.int()).sum().backward()
    assert x.grad.tolist() == [2] * 5
