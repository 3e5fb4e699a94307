"""Which tokens may come, against the definition; the same seed draws the same."""

from __future__ import annotations

import math

import pytest
import torch

from kbit.errors import KbitError, ModelError
from kbit.models.sampling import Sampling, most_likely


def definition(logits, temperature, top_k, top_p):
    """Probability of each token that may come, in plain words."""
    ranked = sorted(range(len(logits)), key=lambda i: (-logits[i], i))[:top_k]
    weight = {i: math.exp((logits[i] - logits[ranked[0]]) / temperature) for i in ranked}
    total, kept, so_far = sum(weight.values()), [], 0.0
    for i in ranked:
        kept.append(i)
        so_far += weight[i] / total
        if so_far >= top_p and top_p < 1:
            break
    return {i: weight[i] / sum(weight[j] for j in kept) for i in kept}


@pytest.mark.parametrize("size", [1, 7, 300, 5000])  # the last needs more than the first look where logits are flat
@pytest.mark.parametrize("spread", [0.01, 3.0])
@pytest.mark.parametrize("top_k", [None, 1, 5, 40, 10**6])
@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.5, 1e-9])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_what_may_come_is_what_the_definition_says(size, spread, top_k, top_p, temperature):
    logits = (torch.randn(size, generator=torch.Generator().manual_seed(size)) * spread * 8).round() / 8  # with ties
    ids, probabilities = Sampling(temperature, top_k, top_p).kept(logits)
    wanted = definition(logits.tolist(), temperature, top_k, top_p)
    assert set(ids.tolist()) == set(wanted)
    assert len(ids) == len(wanted)
    torch.testing.assert_close(probabilities, torch.tensor([wanted[i] for i in ids.tolist()], dtype=torch.float64))


def test_of_equally_likely_tokens_the_lower_ids_go_first():
    logits = torch.tensor([1.0, 3.0, 3.0, 2.0, 3.0])
    assert [most_likely(logits, n).tolist() for n in (1, 2, 4, 9)] == [[1], [1, 2], [1, 2, 4, 3], [1, 2, 4, 3, 0]]
    assert Sampling().draw(logits, Sampling().generator()) == 1


def test_tokens_are_drawn_as_often_as_they_are_likely():
    probabilities = torch.tensor([0.5, 0.1, 0.3, 0.1])
    sampling, n = Sampling(temperature=1.0, seed=3), 4000
    generator = sampling.generator()
    drawn = torch.tensor([sampling.draw(probabilities.log(), generator) for _ in range(n)]).bincount(minlength=4)
    assert ((drawn - n * probabilities).abs() <= 4 * (n * probabilities * (1 - probabilities)).sqrt()).all()


def test_the_same_seed_draws_the_same_and_another_seed_something_else():
    logits = torch.zeros(1000)

    def draws(seed):
        sampling = Sampling(temperature=1.0, seed=seed)
        generator = sampling.generator()
        return [sampling.draw(logits, generator) for _ in range(20)]

    assert draws(1) == draws(1) != draws(2)


def test_a_token_without_a_chance_is_never_drawn():
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf])
    sampling = Sampling(temperature=1.0)
    assert {sampling.draw(logits, sampling.generator()) for _ in range(20)} == {1}


@pytest.mark.parametrize("logits", [[0.0, math.nan], [math.inf, 0.0], [-math.inf, -math.inf]])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_refused(logits, temperature):
    sampling = Sampling(temperature)
    with pytest.raises(ModelError, match=r"^the model's logits are not finite, so no token can be chosen\. "):
        sampling.draw(torch.tensor(logits), sampling.generator())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"temperature": -1.0}, "temperature -1 is not to be had. Write 0 for the most likely token, or more."),
        ({"temperature": math.nan}, "temperature nan is not to be had."),
        ({"temperature": math.inf}, "temperature inf is not to be had."),
        ({"top_k": 0}, "top-k 0 leaves no token. Write 1 or more, or leave it out for all."),
        ({"top_p": 0.0}, "top-p 0 is no share of the probability. Write a number above 0 and up to 1."),
        ({"top_p": 1.5}, "top-p 1.5 is no share of the probability."),
        ({"seed": 2**63}, "seed 9223372036854775808 does not fit 64 bits. Write a smaller one."),
    ],
)
def test_a_value_that_is_not_allowed_is_refused(values, said):
    with pytest.raises(KbitError) as caught:
        Sampling(**values)
    assert str(caught.value).startswith(said)
