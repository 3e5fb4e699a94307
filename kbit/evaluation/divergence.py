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
    return torch.cat([_negative_log(part, chosen) for part, chosen in _chunks(logits, targets)])


def score_against(logits: Tensor, reference: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Negative log likelihoods under the model and the reference, KL(reference || model) and "same top": (positions,) each.

    The first three are float64 nats; the last is True where some token is the likeliest under both.
    KL = log(1 + sum_v p (e^x - 1 - x)), x = (logit - reference logit) - its mean under p, p = softmax(reference).
    That equals sum_v p (log p - log q), but where the models are close the plain difference of log-softmaxes loses all
    digits in float32 (12% error at 5e-5 nats), while x is exact there: equal logits give exactly 0, others 1e-5 of the KL.
    Where x is very large the definition is computed in float64.
    """
    parts = [
        (_negative_log(ours, chosen), _negative_log(theirs, chosen), _divergence(ours, theirs), _same_top(ours, theirs))
        for ours, theirs, chosen in _chunks(logits, reference, targets)
    ]
    nats, reference_nats, divergence, same_top = (torch.cat(column) for column in zip(*parts, strict=True))
    return nats, reference_nats, divergence, same_top


def _chunks(*tensors: Tensor) -> list[tuple[Tensor, ...]]:
    """Rows of all tensors together, few enough at a time that temporaries stay small; logits at least in float32."""
    budget = CPU_CHUNK if tensors[0].device.type == "cpu" else ACCELERATOR_CHUNK
    rows = max(1, budget // tensors[0].shape[-1])
    return list(zip(*(tensor.split(rows) for tensor in tensors), strict=True))


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _negative_log(logits: Tensor, targets: Tensor) -> Tensor:
    return -_wide(logits).log_softmax(-1).gather(-1, targets[:, None])[:, 0].double()


def _divergence(logits: Tensor, reference: Tensor) -> Tensor:
    logits, reference = _wide(logits), _wide(reference)
    p = reference.softmax(-1)
    x = logits - reference
    x -= torch.linalg.vecdot(p, x)[:, None]
    far = ~(x.amax(-1) < LARGEST_LOG_RATIO)  # True for NaN too
    divergence = torch.linalg.vecdot(p, x.expm1().sub_(x)).log1p().double().clamp_(min=0)
    if far.any():
        divergence[far] = _divergence_by_definition(logits[far], reference[far])
    return divergence


def _divergence_by_definition(logits: Tensor, reference: Tensor) -> Tensor:
    log_q, log_p = logits.double().log_softmax(-1), reference.double().log_softmax(-1)
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), 0.0).sum(-1)


def _same_top(logits: Tensor, reference: Tensor) -> Tensor:
    """Whether one token is at both maxima: both differences are <= 0, so their sum is 0 where both are. Faster than argmax."""
    logits, reference = _wide(logits), _wide(reference)
    below = (logits - logits.amax(-1, keepdim=True)).add_(reference - reference.amax(-1, keepdim=True))
    return below.amax(-1) == 0
