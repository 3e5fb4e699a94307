"""The loss of distillation against torch's own, and its gradient against finite differences."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy, kl_div

from kbit.qat import loss as loss_module
from kbit.qat.loss import distillation


def logits(seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return 3 * torch.randn(4, 5, 11, generator=torch.Generator().manual_seed(seed), dtype=dtype)


TOKENS = torch.arange(20).view(4, 5) % 11


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("at_once", [1, 3 * 11, 2**17])
def test_it_is_the_kl_divergence_and_the_cross_entropy_of_torch(share, at_once, monkeypatch):
    monkeypatch.setattr(loss_module, "LOGITS_AT_ONCE", at_once)
    student, teacher = logits(0).requires_grad_(), logits(1)
    found = distillation(student, teacher, TOKENS, share)
    (3 * found).backward()
    again = student.detach().requires_grad_()
    p, q = again.log_softmax(-1).flatten(0, 1), teacher.log_softmax(-1).flatten(0, 1)
    wanted = (1 - share) * kl_div(p, q, reduction="batchmean", log_target=True) + share * cross_entropy(p, TOKENS.flatten())
    (3 * wanted).backward()
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(student.grad, again.grad)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_its_gradient_is_that_of_finite_differences(share):
    student, teacher, step = logits(2, torch.float64).requires_grad_(), logits(3, torch.float64), 1e-5
    distillation(student, teacher, TOKENS, share).backward()
    for place in range(0, student.numel(), 7):
        nudge = torch.zeros(student.numel(), dtype=torch.float64).index_fill_(0, torch.tensor(place), step).view(student.shape)
        ends = [float(distillation(student.detach() + sign * nudge, teacher, TOKENS, share)) for sign in (1, -1)]
        assert float(student.grad.flatten()[place]) == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-9)


def test_a_model_that_says_the_same_loses_nothing():
    assert float(distillation(logits(4), logits(4), TOKENS)) == pytest.approx(0, abs=1e-7)


def test_bfloat16_logits_are_summed_in_float32():
    student, teacher = logits(5).bfloat16(), logits(6).bfloat16()
    found = distillation(student, teacher, TOKENS)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, distillation(student.float(), teacher.float(), TOKENS))
