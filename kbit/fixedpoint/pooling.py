"""Pooling keeps the scale of its input, so nothing is calibrated."""

from __future__ import annotations

import torch
from torch import Tensor

from kbit.fixedpoint.fixed import Fixed
from kbit.fixedpoint.windows import Window


def max_pool2d(x: Fixed, window: Window) -> Fixed:
    """The largest value of each window of x (n, channels, height, width), exactly: padding is the least code."""
    return x.like(window.patches(x.q, x.type.low).amax((-2, -1)))


def average_pool2d(x: Fixed, window: Window, *, count_padding: bool = True) -> Fixed:
    """The mean of each window, rounded half to even. Error at most 1/2.

    count_padding: zeros around count as values, as in torch.nn.functional.avg_pool2d. A sum of up to 2^31 codes of 32 bits fits.
    """
    total = window.patches(x.q, x.type.zero).long().sum((-2, -1)) - window.kernel[0] * window.kernel[1] * x.type.zero
    if count_padding:
        count = torch.tensor(window.kernel[0] * window.kernel[1])
    else:
        count = window.patches(torch.ones(1, 1, *x.q.shape[2:], dtype=torch.int64), 0).sum((-2, -1)).clamp(min=1)
    return x.type.hold(rounding_divide(total, count))


def rounding_divide(x: Tensor, n: Tensor) -> Tensor:
    """x / n rounded to a whole number, half to even: int64; n > 0, and 2 n below 2^63."""
    whole = x // n
    rest = 2 * (x - whole * n)
    return whole + ((rest > n) | ((rest == n) & (whole % 2 == 1))).long()
