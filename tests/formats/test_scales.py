"""Stored scales: near to what was asked, finite whatever comes, and the same when stored again."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.formats import join_scale, split_scale
from kbit.formats.scales import power_of_two, stored_scale, tensor_scale_of

STORAGES = ["f16", "s8", "i8", "e8m0", "e4m3"]
POSITIVE = st.one_of(st.just(0.0), st.floats(2.0**-30, 2.0**17, width=32), st.floats(0, 2.0**127, width=32))


def store(scale: torch.Tensor, storage: str) -> tuple[torch.Tensor, torch.Tensor]:
    tensor_scale = tensor_scale_of(scale.max(), 1.0)
    return stored_scale(scale, storage, tensor_scale), tensor_scale


@given(st.lists(POSITIVE, min_size=1, max_size=40), st.sampled_from(STORAGES))
@settings(max_examples=500, deadline=None)
def test_any_scale_is_stored_finite_and_survives_being_stored_again(scales, storage):
    scale = torch.tensor([scales])
    stored, tensor_scale = store(scale, storage)
    assert stored.shape == scale.shape
    assert bool((stored.isfinite() & (stored >= 0)).all())
    parts = split_scale(stored, storage, tensor_scale)
    assert torch.equal(join_scale(parts, storage), stored)
    assert torch.equal(stored_scale(stored, storage, tensor_scale), stored)
    assert parts["_scale"].dtype == (torch.float16 if storage == "f16" else torch.uint8)


@pytest.mark.parametrize(("storage", "relative"), [("f16", 2**-11), ("e4m3", 2**-4)])
def test_usual_scales_are_near(storage, relative):
    scale = torch.rand(50, 33, generator=torch.Generator().manual_seed(0)) * 0.02 + 0.001
    stored, _ = store(scale, storage)
    assert ((stored - scale).abs() / scale).max() <= relative * 1.001


@pytest.mark.parametrize(("storage", "together"), [("s8", 16), ("i8", 33)])
def test_two_levels_are_off_by_at_most_half_of_a_255th_of_the_largest_that_shares(storage, together):
    scale = torch.rand(50, 33, generator=torch.Generator().manual_seed(0)) * 0.02
    stored, _ = store(scale, storage)
    for start in range(0, 33, together):
        group = scale[:, start : start + together]
        largest = group.amax(1, keepdim=True)
        assert ((stored[:, start : start + together] - group).abs() <= largest * (0.5 / 255 + 2**-11)).all()
        assert torch.equal(stored[:, start : start + together].amax(1, keepdim=True), largest.half().float())


def test_a_row_under_i8_is_whole_numbers_times_one():
    stored, _ = store(torch.rand(5, 40, generator=torch.Generator().manual_seed(0)), "i8")
    parts = split_scale(stored, "i8")
    assert parts["_second_scale"].shape == (5, 1)
    assert torch.equal(parts["_scale"].float() * parts["_second_scale"].float() / 255, stored)


@given(st.floats(2.0**-126, 2.0**127, width=32))
def test_e8m0_is_the_least_power_that_is_not_below(scale):
    power = power_of_two(torch.tensor([[scale]]), 1.0, ocp=False).item()
    assert math.frexp(power)[0] == 0.5
    assert power >= scale * (1 - 2**-21)
    assert power == 2.0**-127 or power / 2 < scale


@given(st.floats(2.0**-100, 2.0**100, width=32), st.sampled_from([6.0, 7.5, 28.0, 448.0, 57344.0]))
def test_e8m0_of_a_float_is_ocps_rule(largest, element_max):
    """OCP MX v1.0, section 6.3: the largest power of two in max |x| over that in the element type."""
    if math.frexp(largest)[0] > 1 - 2**-20:
        largest = math.ldexp(0.75, math.frexp(largest)[1])  # a hair below a power counts as it
    scale = torch.tensor([[largest]]) / element_max
    expected = 2.0 ** (math.floor(math.log2(largest)) - math.floor(math.log2(element_max)))
    assert power_of_two(scale, element_max, ocp=True).item() == expected


def test_e8m0_bytes_are_ocps():
    scale = torch.tensor([[1.0, 2.0, 0.5, 2.0**-127, 2.0**127]])
    assert split_scale(scale, "e8m0")["_scale"].tolist() == [[127, 128, 126, 0, 254]]
    assert torch.equal(split_scale(scale, "e8m0")["_scale"].view(torch.float8_e8m0fnu).float(), scale)


def test_beyond_float16_a_scale_takes_the_end():
    assert stored_scale(torch.tensor([[1e30, 65504.0, 1e-9]]), "f16").tolist() == [[65504.0, 65504.0, 0.0]]
