"""Drawing tokens with integers: published random numbers, and the frequencies that the logits ask for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kbit.errors import FixedPointError
from kbit.fixedpoint.sampling import IntegerSampling, draw, kept, next_token, philox, share_of

LOGIT_SCALE = 2.0**-16

# counter, key -> words: the known answers of Random123's philox4x32 with 10 rounds (Salmon et al. 2011)
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_random_numbers_are_the_published_ones(counter, key, words):
    def numbers(text):
        return tuple(int(word, 16) for word in text.split())

    assert philox(numbers(counter), numbers(key)) == numbers(words)


@given(st.integers(0, 2**48 - 1), st.integers(0, 2**48 - 1))
def test_a_share_is_the_exact_floor(total, u):
    assert share_of(total, u) == total * u >> 48


def integer_logits(*values: float) -> torch.Tensor:
    return torch.tensor([round(v / LOGIT_SCALE) for v in values], dtype=torch.int32)


def frequencies_of(logits: torch.Tensor, sampling: IntegerSampling, n: int = 4000) -> torch.Tensor:
    ids = torch.tensor([next_token(logits, sampling, position) for position in range(n)])
    return torch.bincount(ids, minlength=len(logits)).double() / n


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_tokens_come_as_often_as_softmax_says(temperature):
    logits = integer_logits(0.3, -1.0, 2.0, 1.1, -9.0)
    p = (logits.double() * LOGIT_SCALE / temperature).softmax(0)
    found = frequencies_of(logits, IntegerSampling.of(LOGIT_SCALE, temperature, seed=5))
    assert ((found - p).abs() <= 4.5 * (p * (1 - p) / 4000).sqrt() + 1e-9).all()


def test_at_temperature_0_the_first_of_the_largest():
    logits = torch.tensor([3, 9, 9, -(2**31)], dtype=torch.int32)
    assert next_token(logits, IntegerSampling.of(LOGIT_SCALE), 0) == 1


@pytest.mark.parametrize(("top_k", "top_p", "expected"), [
    (2, 1.0, {2, 3}), (None, 0.5, {2}), (None, 0.66, {2, 3}), (3, 0.99, {0, 2, 3}), (1, 0.1, {2}), (None, 1e-9, {2}),
])  # fmt: skip
def test_top_k_and_top_p_keep_the_fewest_that_suffice(top_k, top_p, expected):
    logits = integer_logits(0.1, -1.0, 1.2, 0.3, -30.0)
    p = (logits.double() * LOGIT_SCALE).softmax(0)
    order = p.argsort(descending=True)[: top_k or None]
    share = p[order] / p[order].sum()
    nucleus = set(order[share.cumsum(0) - share < top_p].tolist())
    sampling = IntegerSampling.of(LOGIT_SCALE, 1.0, top_k, top_p)
    found = frequencies_of(logits, sampling, 400)
    assert set(found.nonzero().flatten().tolist()) == nucleus


def test_ties_at_the_edge_of_top_k_go_to_the_lower_ids():
    logits = torch.tensor([5, 7, 5, 5], dtype=torch.int32)
    mask = kept(logits, torch.ones(4, dtype=torch.int64), IntegerSampling(1, 0, top_k=2))
    assert mask.tolist() == [True, True, False, False]


def test_the_draw_depends_on_seed_position_and_sequence_alone():
    assert draw(1, 2, 3) == draw(1, 2, 3)
    assert len({draw(seed, position, sequence) for seed in (0, 2**64 - 1) for position in (0, 2**40) for sequence in (0, 1)}) == 8


def test_extreme_logits_draw_the_largest():
    logits = torch.tensor([-(2**31), 2**31 - 1, -(2**31)], dtype=torch.int32)
    assert next_token(logits, IntegerSampling.of(1.0, 1.0), 0) == 1


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_p": 0.0}, {"top_k": 0}])
def test_what_leaves_no_token_is_refused(wrong):
    with pytest.raises(FixedPointError, match="leaves no token"):
        IntegerSampling.of(LOGIT_SCALE, **{"temperature": 1.0, **wrong})
