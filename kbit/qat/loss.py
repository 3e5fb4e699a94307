"""The loss of distillation: how far the student's next-token distribution is from the teacher's, in nats per token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

LOGITS_AT_ONCE = 2**17  # whose temporaries stay in the cache: 2^22 took 1.7 times as long (one EPYC core, vocabulary 1024)


class Distillation(Function):
    """Mean over tokens of (1 - share) * KL(teacher || student) - share * log(probability of the token that came).

    The gradient has a closed form, softmax(student) - target with target = (1 - share) * softmax(teacher) + share * [token that
    came], so it is made with the loss, a few rows at a time, and no temporary is as large as the logits.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor | None, tokens: Tensor, share: float) -> Tensor:
        """student, teacher: logits (n, vocabulary) of any float dtype; tokens (n,). teacher may be None where share is 1."""
        n, vocabulary = student.shape
        gradient = torch.empty_like(student, dtype=_precise(student))
        total = torch.zeros((), dtype=torch.float64, device=student.device)
        for start in range(0, n, max(1, LOGITS_AT_ONCE // vocabulary)):
            rows = slice(start, min(n, start + max(1, LOGITS_AT_ONCE // vocabulary)))
            total += _rows(student[rows], None if teacher is None else teacher[rows], tokens[rows], share, gradient[rows])
            gradient[rows].div_(n)
        ctx.gradient = gradient.to(student.dtype)
        return (total / n).to(_precise(student))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """To the student's logits."""
        gradient, ctx.gradient = ctx.gradient, None
        assert gradient is not None, "the loss goes backward once: its gradient is not kept"
        return gradient.mul_(gradients[0].to(gradient.dtype)), None, None, None


def distillation(student: Tensor, teacher: Tensor | None, tokens: Tensor, share: float = 0.0) -> Tensor:
    """The mean loss of logits (..., vocabulary) against the teacher's, and against `tokens` (...) as far as `share` says.

    (1 - share) * KL(teacher || student) + share * cross-entropy (Hinton et al. 2015, temperature 1). Gradients go to the student.
    """
    flat = None if teacher is None or share == 1 else teacher.detach().flatten(0, -2)
    loss: Tensor = Distillation.apply(student.flatten(0, -2), flat, tokens.flatten(), share)
    return loss


def _precise(logits: Tensor) -> torch.dtype:
    """What logits are summed in: float32 at least."""
    return torch.promote_types(logits.dtype, torch.float32)


def _rows(student: Tensor, teacher: Tensor | None, tokens: Tensor, share: float, gradient: Tensor) -> Tensor:
    """Sum of the losses of some rows, float64; their gradient, of the sum, goes into `gradient` (rows, vocabulary).

    KL = sum q (t - s) + lse(s) - lse(t) for logits s and t, q = softmax(t): two exponentials a logit, and no logarithm.
    """
    s = student.to(gradient.dtype)
    lse = _softmax(s, gradient)
    loss = torch.zeros((), dtype=torch.float64, device=student.device)
    if teacher is not None:
        t, q = teacher.to(gradient.dtype), torch.empty_like(gradient)
        divergence = lse - _softmax(t, q) + torch.linalg.vecdot(q, t - s)
        loss += divergence.sum(dtype=torch.float64) * (1 - share)
        gradient.sub_(q, alpha=1 - share)
    if share:
        places = tokens.unsqueeze(-1)
        loss += (lse - s.gather(-1, places).squeeze(-1)).sum(dtype=torch.float64) * share
        gradient.scatter_add_(-1, places, torch.full_like(places, -share, dtype=gradient.dtype))
    return loss


def _softmax(logits: Tensor, out: Tensor) -> Tensor:
    """softmax of logits (rows, vocabulary) into `out`; returns log(sum(exp)) (rows,), from the largest logit and its share."""
    torch.softmax(logits, -1, out=out)
    return logits.amax(-1) - out.amax(-1).log()
