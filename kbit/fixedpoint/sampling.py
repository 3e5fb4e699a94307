"""The next token from int32 logits: the largest, or one drawn with integers alone from a counter-based generator."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kbit.errors import FixedPointError
from kbit.fixedpoint.dyadic import Dyadic
from kbit.fixedpoint.exponent import FRACTION, exp2_neg
from kbit.fixedpoint.rounding import scaled
from kbit.fixedpoint.tables import LOG2_E

WORD = 2**32 - 1
DRAW = 48  # bits of a random number
LIMB = 24
SHARE = 16  # places of top_p
MULTIPLIER = 30  # bits: temperatures come from users, and a logit has 31


@dataclass(frozen=True)
class IntegerSampling:
    """How a token is drawn. multiplier 0: the largest logit, of equals the lowest id.

    multiplier, shift  what a logit is multiplied by to become log2 units of 16 places
    top_k              only the k largest logits, of equals those with the lower ids; 0: all
    top_p              of these only the largest, as few as together reach top_p / 2^16 of the probability
    seed               key of the generator, 64 bits
    """

    multiplier: int = 0
    shift: int = 0
    top_k: int = 0
    top_p: int = 2**SHARE
    seed: int = 0

    @classmethod
    def of(
        cls, logit_scale: float, temperature: float = 0.0, top_k: int | None = None, top_p: float = 1.0, seed: int = 0
    ) -> IntegerSampling:
        """From the usual numbers; for conversion. logit_scale: what 1 of the integer logits stands for."""
        if not temperature >= 0 or not 0 < top_p <= 1 or (top_k is not None and top_k < 1):
            raise FixedPointError(f"sampling at temperature {temperature:g}, top-k {top_k}, top-p {top_p:g} leaves no token.")
        wanted = logit_scale * float(LOG2_E) / temperature * 2**FRACTION if temperature else 0.0
        scale = Dyadic.of(wanted, MULTIPLIER, what="scale of the logits over the temperature")
        share = max(1, round(top_p * 2**SHARE))
        return cls(int(scale.multiplier), int(scale.shift), top_k or 0, share, seed & 2**64 - 1)


def next_token(logits: Tensor, sampling: IntegerSampling, position: int, sequence: int = 0) -> int:
    """The id of the next token of int32 logits (vocabulary,). The same seed, position and sequence draw the same token.

    x = logits * multiplier / 2^shift, saturated to 32 bits (31 + 30 bits before);  p = exp2_neg(max x - x), 0 where not kept.
    D = sum p < 2^30 * 2^18;  r = floor(D u / 2^48), u of 48 bits;  the first id whose running sum of p exceeds r.
    A token's chance is p / D to 2^-48, and p is exp2_neg's: within 1 + 2^-20 of it.
    """
    if sampling.multiplier == 0:
        return int((logits == logits.max()).nonzero()[0])
    if len(logits) > 2**18:
        raise FixedPointError(f"sampling among {len(logits)} tokens. Sums are proven for at most {2**18}.")
    x = scaled(logits.long() * sampling.multiplier, sampling.shift)
    p = exp2_neg(x.max() - x)
    p = p * kept(logits, p, sampling)
    running = p.cumsum(0)
    r = share_of(int(running[-1]), draw(sampling.seed, position, sequence))
    return int((running > r).nonzero()[0])


def kept(logits: Tensor, p: Tensor, sampling: IntegerSampling) -> Tensor:
    """bool: the tokens that top_k and top_p leave. A token stays while those before it have less than top_p of the sum.

    With D the sum over the k largest, the limit is floor(D top_p / 2^16) = (D >> 16) top_p + ((D mod 2^16) top_p >> 16).
    """
    order = logits.sort(descending=True, stable=True).indices[: sampling.top_k or None]
    if sampling.top_p < 2**SHARE:
        before = p[order].cumsum(0) - p[order]
        total = int(p[order].sum())
        limit = (total >> SHARE) * sampling.top_p + ((total & 2**SHARE - 1) * sampling.top_p >> SHARE)
        order = order[before < max(1, limit)]
    mask = torch.zeros_like(logits, dtype=torch.bool)
    mask[order] = True
    return mask


def share_of(total: int, u: int) -> int:
    """floor(total * u / 2^48) of two numbers of 48 bits, by limbs of 24, each of whose products has 48."""
    high, low = total >> LIMB, total & 2**LIMB - 1
    u_high, u_low = u >> LIMB, u & 2**LIMB - 1
    return high * u_high + ((high * u_low + low * u_high + (low * u_low >> LIMB)) >> LIMB)


def draw(seed: int, position: int, sequence: int = 0) -> int:
    """48 random bits: the first word of Philox at counter (position, sequence) and key seed, and the upper half of the second."""
    first, second, _, _ = philox((position & WORD, position >> 32, sequence & WORD, sequence >> 32), (seed & WORD, seed >> 32))
    return first << 16 | second >> 16


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Four random words of 32 bits: Philox4x32-10 (Salmon et al. 2011, table 2), the generator of cuRAND and PyTorch's CUDA."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        first, second = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (second >> 32) ^ c1 ^ k0, second & WORD, (first >> 32) ^ c3 ^ k1, first & WORD
        k0, k1 = (k0 + 0x9E3779B9) & WORD, (k1 + 0xBB67AE85) & WORD
    return c0, c1, c2, c3
