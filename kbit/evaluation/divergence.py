"""What one model's logits say of the tokens that came, and how far they are from another's: a number per position."""

from __future__ import annotations

import torch
from torch import Tensor

# A chunk of this many logits has temporaries of 1 MB, which stay in a core's cache; on an accelerator launches cost more.
CPU_CHUNK = 2**18
ACCELERATOR_CHUNK = 2**25
# From here on exp(x) could leave float32 where the reference's probability underflows, so float64 takes over.
LARGEST_LOG_RATIO = 60.0


def score_tokens(logits: Tensor, targets: Tensor) -> Tensor:
    """-log softmax(logits)[target] in nats, float64 (positions,).

    logits: (positions, vocabulary) of any float dtype; targets: int64 (positions,). Softmax in float32 (float64 for
    float64), a chunk of positions at a time.
    """
    return torch.cat([_nats(part, part.softmax(-1), chosen) for part, chosen in _chunks(logits, targets)])


def score_against(logits: Tensor, reference: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Negative log likelihoods under the model and the reference, KL(reference || model) and "same top": (positions,) each.

    The first three are float64 nats; the last is True where some token is the likeliest under both (ties
    as float32 probabilities have them).
    KL = log(1 + sum_v p (e^x - 1 - x)), x = (logit - reference logit) - its mean under p, p = softmax(reference).
    That equals sum_v p (log p - log q), but where the models are close the plain difference of log-softmaxes loses all
    digits in float32 (12% error at 5e-5 nats), while x is exact there: equal logits give exactly 0, others 1e-5 of the KL.
    Where x is very large the definition is computed in float64.
    """
    parts = [_score_chunk(*chunk) for chunk in _chunks(logits, reference, targets)]
    nats, reference_nats, divergence, same_top = (torch.cat(column) for column in zip(*parts, strict=True))
    return nats, reference_nats, divergence, same_top


def _chunks(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Rows of all tensors together, few enough at a time that temporaries stay small."""
    budget = CPU_CHUNK if tensors[0].device.type == "cpu" else ACCELERATOR_CHUNK
    rows = max(1, budget // tensors[0].shape[-1])
    split = (tensor.split(rows) for tensor in tensors)
    return [
        tuple(part if part.dtype in (torch.float64, torch.int64) else part.float() for part in chunk)
        for chunk in zip(*split, strict=True)
    ]


def _score_chunk(logits: Tensor, reference: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of one chunk. Three buffers serve all steps: fresh ones for each cost a third more (page faults)."""
    p, q = reference.softmax(-1), logits.softmax(-1)
    nats, reference_nats = _nats(logits, q, targets), _nats(reference, p, targets)
    # p q is at its largest possible value, max p max q, exactly where one token is at both maxima. Twice as fast as argmax.
    both = torch.mul(p, q, out=torch.empty_like(p))
    same_top = both.amax(-1) == p.amax(-1) * q.amax(-1)

    x, spare = torch.sub(logits, reference, out=both), q
    x -= torch.mul(p, x, out=spare).sum(-1, keepdim=True)
    far = ~(x.amax(-1) < LARGEST_LOG_RATIO)  # True for NaN too
    excess = torch.expm1(x, out=spare).sub_(x).mul_(p).sum(-1)
    divergence = excess.log1p().double().clamp_(min=0)
    if far.any():
        divergence[far] = _divergence_by_definition(logits[far], reference[far])
    return nats, reference_nats, divergence, same_top


def _nats(logits: Tensor, probabilities: Tensor, targets: Tensor) -> Tensor:
    """-log p(target), float64: the target's distance from the largest logit, whose own probability cannot underflow."""
    below = logits.amax(-1) - logits.gather(-1, targets[:, None])[:, 0]
    return below.double() - probabilities.amax(-1).double().log()


def _divergence_by_definition(logits: Tensor, reference: Tensor) -> Tensor:
    log_q, log_p = logits.double().log_softmax(-1), reference.double().log_softmax(-1)
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), 0.0).sum(-1)
