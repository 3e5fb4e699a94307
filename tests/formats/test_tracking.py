"""Moving ranges: the formula, and torch's own observer."""

from __future__ import annotations

import pytest
import torch

from kbit.errors import FormatError
from kbit.formats.tracking import MovingRange, update


def test_the_first_batch_gives_its_own_range():
    state = update(MovingRange(), torch.tensor([[1.0, -2.0], [3.0, 0.0]]))
    assert (state.low.tolist(), state.high.tolist(), state.batches) == ([-2.0], [3.0], 1)


def test_later_batches_move_it_by_one_less_momentum():
    state = MovingRange(momentum=0.75)
    for batch in ([-1.0, 1.0], [-3.0, 5.0], [0.0, 2.0]):
        state = update(state, torch.tensor(batch))
    low = 0.75 * (0.75 * -1 + 0.25 * -3) + 0.25 * 0
    high = 0.75 * (0.75 * 1 + 0.25 * 5) + 0.25 * 2
    assert (state.low.item(), state.high.item(), state.batches) == (low, high, 3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("per_feature", [False, True])
def test_it_agrees_with_torchs_observer(per_feature):
    from torch.ao.quantization import MovingAverageMinMaxObserver, MovingAveragePerChannelMinMaxObserver

    observer = (
        MovingAveragePerChannelMinMaxObserver(averaging_constant=0.1, ch_axis=1)
        if per_feature
        else MovingAverageMinMaxObserver(averaging_constant=0.1)
    )
    state = MovingRange(momentum=0.9, per_feature=per_feature)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        batch = torch.randn(7, 5, generator=generator)
        observer(batch)
        state = update(state, batch)
    torch.testing.assert_close(state.low, observer.min_val.reshape(-1))
    torch.testing.assert_close(state.high, observer.max_val.reshape(-1))


def test_a_state_is_a_value():
    before = update(MovingRange(), torch.tensor([1.0]))
    update(before, torch.tensor([100.0]))
    assert before.high.tolist() == [1.0]
    assert update(before, torch.empty(0, 3)) is before


def test_what_is_not_finite_is_refused():
    state = update(MovingRange(), torch.tensor([1.0]))
    with pytest.raises(FormatError, match="batch 2 of a moving range holds NaN or infinite values"):
        update(state, torch.tensor([1.0, torch.nan]))
    with pytest.raises(FormatError, match="batch 2 of a moving range holds NaN or infinite values"):
        update(state, torch.tensor([1.0, torch.inf]))
    with pytest.raises(FormatError, match="cannot have momentum 1"):
        update(MovingRange(momentum=1.0), torch.tensor([1.0]))
