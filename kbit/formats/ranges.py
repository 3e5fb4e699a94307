"""Ranges: how the ends [low, high] of what the codes of a block span are found from its weights.

Each entry of RANGES takes the coded columns of a weight and gives (low, high), (n_out, n_blocks) float32 each, or (1, 1) for
granularity tensor. For -center they are those of the block less its mean. Moving averages, for values that arrive in batches, are
in tracking.py.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from kbit.formats.blocks import min_max, reduce_blocks
from kbit.formats.format import Format
from kbit.formats.kl import kl_range
from kbit.formats.mse import mse_range

PERCENT_INSIDE = 99.9  # of the weights of a block (Wu et al. 2020 calibrate activations with 99.9 to 99.9999)


def min_max_range(
    w: Tensor, fmt: Format, levels: Tensor, *, mean: Tensor | None = None, tensor_scale: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Least and largest value of each block; nothing is clipped. `levels` and `tensor_scale` are not needed here."""
    return min_max(w, fmt, mean)


def percentile_range(
    w: Tensor, fmt: Format, levels: Tensor, *, mean: Tensor | None = None, tensor_scale: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Ends that leave 0.1% of a block outside: of |x| for symmetric codebooks, half of it on either side for -asym and -min.

    Between two order statistics the quantile is interpolated, so that a block of 64 loses a little of its largest weight.
    `levels` and `tensor_scale` are not needed here.
    """
    if fmt.affine in ("asym", "min"):
        outside = (1 - PERCENT_INSIDE / 100) / 2
        return quantile(w, fmt, outside, None, magnitude=False), quantile(w, fmt, 1 - outside, None, magnitude=False)
    high = quantile(w, fmt, PERCENT_INSIDE / 100, mean, magnitude=True)
    return -high, high


def quantile(w: Tensor, fmt: Format, share: float, mean: Tensor | None, *, magnitude: bool) -> Tensor:
    """The value of each block that a `share` of its weights (or magnitudes, less the block's mean) does not exceed."""

    def of_last_axis(x: np.ndarray) -> Tensor:
        x = np.abs(x) if magnitude else x
        place = share * (x.shape[-1] - 1)
        below, above = int(np.floor(place)), int(np.ceil(place))
        ends = np.partition(x, (below, above), axis=-1)[..., [below, above]].astype(np.float64)
        return torch.as_tensor(ends[..., 0] + (place - below) * (ends[..., 1] - ends[..., 0])).float()

    if fmt.granularity == "tensor":
        centred = w.float() if mean is None else w.float() - mean
        return of_last_axis(centred.reshape(-1).numpy()).reshape(1, 1)
    if mean is None:
        return reduce_blocks(w, fmt, lambda x: of_last_axis(x.numpy()), torch.amax)
    size = fmt.block_size(w.shape[1])
    centred = w.float() - mean.repeat_interleave(size, 1)[:, : w.shape[1]]
    return reduce_blocks(centred, fmt, lambda x: of_last_axis(x.numpy()), torch.amax)


RANGES: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "min-max": min_max_range,
    "percentile": percentile_range,
    "mse": mse_range,
    "kl": kl_range,
}
