"""Ranges of values that arrive in batches, such as activations: a moving average of each batch's least and largest value.

The state is a value: `state = update(state, batch)`, starting from `MovingRange()`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from kbit.errors import FormatError


@dataclass(frozen=True)
class MovingRange:
    """What has been seen so far: low and high, float32 (n_groups,), None before the first batch; and how many batches made them.

    momentum: what stays of the average when a batch comes in (Jacob et al. 2018 keep nearly all). per_feature: one range for each
    place of the last axis, instead of one for all.
    """

    momentum: float = 0.99
    per_feature: bool = False
    low: Tensor | None = None
    high: Tensor | None = None
    batches: int = 0


def update(state: MovingRange, batch: Tensor) -> MovingRange:
    """The state after `batch` (..., n_features): low = momentum * low + (1 - momentum) * min(batch), high likewise.

    The first batch gives its own range, so that there is no start at 0 to forget. An empty batch changes nothing.
    Raises FormatError where a value is NaN or infinite, or the momentum is not in [0, 1).
    """
    if not 0 <= state.momentum < 1:
        raise FormatError(f"a moving range cannot have momentum {state.momentum}. Give a share from 0 up to, but not, 1.")
    if not batch.numel():
        return state
    rows = batch.detach().float().reshape(-1, batch.shape[-1] if state.per_feature else 1)
    low, high = rows.amin(0), rows.amax(0)
    if not bool((low.isfinite() & high.isfinite()).all()):
        raise FormatError(f"batch {state.batches + 1} of a moving range holds NaN or infinite values. Remove them first.")
    if state.low is not None and state.high is not None:
        low = state.momentum * state.low + (1 - state.momentum) * low
        high = state.momentum * state.high + (1 - state.momentum) * high
    return replace(state, low=low, high=high, batches=state.batches + 1)
