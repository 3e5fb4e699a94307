"""Losses, KL divergence and "same top" per token equal their definitions in float64, near and far from the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kbit.evaluation import divergence
from kbit.evaluation.divergence import score_against, score_tokens


def logits_pair(distance: float, vocabulary: int, positions: int = 37, scale: float = 3.0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(vocabulary)
    reference = torch.randn(positions, vocabulary, generator=generator) * scale + 5
    logits = reference + torch.randn(positions, vocabulary, generator=generator) * distance
    return logits, reference, torch.randint(0, vocabulary, (positions,), generator=generator)


def by_definition(logits: torch.Tensor, reference: torch.Tensor) -> np.ndarray:
    """sum_v p (log p - log q) in float64."""
    q, p = (np.exp(x - x.max(-1, keepdims=True)) for x in (logits.double().numpy(), reference.double().numpy()))
    q, p = q / q.sum(-1, keepdims=True), p / p.sum(-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p > 0, p * (np.log(p) - np.log(q)), 0).sum(-1)


@pytest.mark.parametrize("vocabulary", [2, 258, 5000])
@pytest.mark.parametrize("distance", [1e-3, 1e-2, 0.1, 1.0, 10.0])
def test_divergence_equals_its_definition(distance: float, vocabulary: int) -> None:
    logits, reference, targets = logits_pair(distance, vocabulary)
    found = score_against(logits, reference, targets)[2]
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, by_definition(logits, reference), rtol=2e-5, atol=1e-9)


def test_divergence_is_right_where_float32_overflows() -> None:
    """A reference that gives 1e-60 where the model gives nearly everything, and the other way round."""
    reference = torch.tensor([[0.0, -140.0, -3.0], [0.0, 0.0, 300.0]])
    logits = torch.tensor([[-140.0, 0.0, -3.0], [300.0, 0.0, 0.0]])
    found = score_against(logits, reference, torch.tensor([0, 2]))[2]
    np.testing.assert_allclose(found, by_definition(logits, reference), rtol=1e-12)


def test_forbidden_tokens_count_nothing() -> None:
    """Where both give a token no probability at all (a padded vocabulary)."""
    logits, reference, targets = logits_pair(0.1, 100)
    padding = torch.full((37, 28), -torch.inf)
    plain, padded = (
        score_against(*pair, targets)
        for pair in ((logits, reference), (torch.cat([logits, padding], 1), torch.cat([reference, padding], 1)))
    )
    for a, b in zip(plain, padded, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_model_is_at_distance_zero_from_itself(dtype: torch.dtype) -> None:
    logits, _, targets = logits_pair(0, 999)
    logits = logits.to(dtype)
    ours, theirs, kld, same = score_against(logits, logits.clone(), targets)
    assert ours.equal(theirs)
    assert (kld == 0).all()
    assert same.all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_losses_are_the_cross_entropy(dtype: torch.dtype) -> None:
    logits, reference, targets = logits_pair(1.0, 999)
    logits = logits.to(dtype)
    expected = torch.nn.functional.cross_entropy(logits.double(), targets, reduction="none")
    torch.testing.assert_close(score_tokens(logits, targets), expected, rtol=0, atol=3e-6)
    ours, theirs, _, _ = score_against(logits, reference.to(dtype), targets)
    assert ours.equal(score_tokens(logits, targets))
    assert theirs.equal(score_tokens(reference.to(dtype), targets))


def test_same_top_asks_for_one_token_at_both_maxima() -> None:
    reference = torch.tensor([[1.0, 2.0, 0.0], [1.0, 2.0, 0.0], [2.0, 2.0, 0.0], [9e6, 9e6 - 1, 0]])
    logits = torch.tensor([[0.0, 5.0, 1.0], [5.0, 0.0, 1.0], [0.0, 5.0, 1.0], [0, 1e-3, 0]])
    assert score_against(logits, reference, torch.zeros(4, dtype=torch.int64))[3].tolist() == [True, False, True, False]


class Largest(TorchDispatchMode):
    """Notes the bytes of the largest tensor that an operation gives anew."""

    bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        inputs = {t.untyped_storage().data_ptr() for t in args if isinstance(t, torch.Tensor)}
        for t in found if isinstance(found, tuple | list) else (found,):
            if isinstance(t, torch.Tensor) and t.untyped_storage().data_ptr() not in inputs:
                self.bytes = max(self.bytes, t.untyped_storage().nbytes())
        return found


def test_no_temporary_is_larger_than_a_chunk() -> None:
    logits, reference, targets = (x.bfloat16() if x.is_floating_point() else x for x in logits_pair(1.0, 60_000, positions=50))
    with Largest() as largest:
        score_against(logits, reference, targets)
    assert 0 < largest.bytes <= 4 * divergence.CPU_CHUNK
    assert logits.nbytes > 5 * largest.bytes
