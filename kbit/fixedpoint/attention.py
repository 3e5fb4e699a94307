"""Attention in integers: 8-bit queries, keys and values with a step a head, exponentials of 30 places, one division at the end.

Softmax is never stored: an 8-bit probability of a long even row is 0. The exponentials stay unnormalised, the step of each value
is multiplied into its weight, and the sum is divided by theirs at the end, as in online softmax (Milakov and Gimelshein 2018).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kbit.errors import FixedPointError
from kbit.fixedpoint.dyadic import Dyadic
from kbit.fixedpoint.exponent import FRACTION, exp2_neg
from kbit.fixedpoint.products import product, wide_product
from kbit.fixedpoint.quantize import Rows
from kbit.fixedpoint.rounding import bits, largest, rounding_shift, saturate, scaled
from kbit.fixedpoint.tables import LOG2_E

QUERY_PLACES = 6  # taken off a_q * SM, 15 + 15 bits, so that c has 24
WEIGHT = 30  # bits of a position's weight: two digits of 15 to a kernel of int16
RECIPROCAL = 60
MOST_HEAD = 256  # columns of a head: 256 * 127 * 127 < 2^22
MOST_POSITIONS = 2**17
SCORES_AT_ONCE = 2**21  # bounds the memory of the scores of a long prompt


@dataclass(frozen=True)
class ScoreScale:
    """What a score is multiplied by to become log2 units of 16 places: SM * 2^-(6 + ST)."""

    multiplier: int  # SM, 15 bits
    shift: int  # ST, 0 .. 62

    @classmethod
    def of(
        cls, scaling: float, q_scale: float, k_scale: float, k_q: int = 8, k_k: int = 8, name: str = "attention"
    ) -> ScoreScale:
        """scaling * log2(e) * q_scale * k_scale / (L_q L_k) * 2^16; for conversion. k_q, k_k: bits of the queries and keys."""
        wanted = scaling * float(LOG2_E) * q_scale * k_scale / (largest(k_q) * largest(k_k)) * 2**FRACTION
        scale = Dyadic.of(wanted * 2**QUERY_PLACES, what=f"{name}: scale of the scores")
        return cls(int(scale.multiplier), int(scale.shift))


def causal(n_queries: int, n_positions: int) -> Tensor:
    """bool (n_queries, n_positions): the queries are the last of the positions, and each sees those up to itself."""
    return torch.arange(n_positions) <= torch.arange(n_positions - n_queries, n_positions)[:, None]


def attention(q: Rows, k: Rows, v: Rows, scale: ScoreScale, visible: Tensor, k_v: int = 8) -> Tensor:
    """sum_t p_t v_t / sum_t p_t, p = e^(scaling q . k): int16 (batch, queries, heads, width).

    q          codes (batch, queries, heads, width) and a (..., 1), of quantize_rows of int16, so that e is 0
    k, v       codes (batch, positions, groups, width) and a (..., 1), the same; heads = groups * h, head i uses group i // h
    visible    bool (queries, positions) or (batch, queries, positions); a query sees at least one position
    k_v        bits of the values
    A result's unit is the unit of the int16 values times 2^(k_v - 1) / (2^(k_v - 1) - 1), for the next layer to take in.

    For each query and head, over its visible positions t:
     1. s_t = sum_d q_d k_td                    22 bits
     2. c = a_q SM / 2^6                        24; rounded, like every quotient below
     3. x_t = s_t a_k c / 2^ST                  22 + 15 + 24 = 61, saturated to 32: log2 units of 16 places
     4. p_t = exp2_neg(max x - x_t)             30; D = sum p_t, 30 + 17 = 47
     5. u_t = p_t a_v                           45; s = max(0, bits(max u) - 30); w_t = min(u_t / 2^s, 2^30 - 1)
     6. o_d = sum_t w_t v_td                    30 + 7 + 17 = 54; g = max(0, bits(max_d |o_d|) - 30); o'_d = o_d / 2^g
     7. h = max(0, bits(D) - 31); R = floor(2^60 / floor(D / 2^h)), 30 bits, since D >= 2^30
     8. y_d = o'_d R / 2^(60 + h + k_v - 1 - s - g), saturated to 16 bits; the product has 60

    Against float64 softmax of the same codes, with x* = s a_q a_k SM 2^-(6 + ST) for the scores, n positions and V = max a_v:
    |y - y*| <= 1/2 + V (2^-15 + 2^-19 + n 2^-29 + 2 max|x*| / c 2^-17): of the roundings of x (ln 2 / 2^16 each way), of
    exp2_neg, of p and w, and of c. For V = 2^15 and n <= 4096 that is 2 units of y.
    """
    batch, n_q, heads, width = q.q.shape
    groups, positions = k.q.shape[2], k.q.shape[1]
    check_sizes(width, positions, heads, groups)
    per_group = heads // groups
    keys, values = (
        k.q.transpose(1, 2),
        v.q.permute(0, 2, 3, 1),
    )  # (batch, groups, positions, width), (batch, groups, width, positions)
    key_steps, value_steps = (
        rows.a.long().permute(0, 2, 3, 1)[:, :, None] for rows in (k, v)
    )  # (batch, groups, 1, 1, positions)
    visible = visible.expand(batch, n_q, positions)[:, None, None]
    c = rounding_shift(q.a.long() * scale.multiplier, QUERY_PLACES)
    rows = max(1, SCORES_AT_ONCE // (batch * heads * positions))
    out = []
    for start in range(0, n_q, rows):
        some = slice(start, start + rows)
        codes = by_group(q.q[:, some], groups)  # (batch, groups, per_group, queries, width)
        acc = product(codes.flatten(2, 3), keys).unflatten(2, (per_group, -1)).long()
        scores = scaled(acc * key_steps * by_group(c[:, some], groups), scale.shift)
        mixed = mix(scores, values, value_steps, visible[:, :, :, some], k_v)
        out.append(mixed.permute(0, 3, 1, 2, 4).flatten(2, 3))
    return torch.cat(out, 1)


def mix(scores: Tensor, values: Tensor, value_steps: Tensor, visible: Tensor, k_v: int) -> Tensor:
    """Steps 4 to 8: int16 (batch, groups, heads of a group, queries, width) of int64 scores (..., queries, positions)."""
    peak = scores.masked_fill(~visible, -(2**31)).amax(-1, keepdim=True)
    p = exp2_neg((peak - scores).clamp(min=0)) * visible
    total = p.sum(-1, keepdim=True)
    w = p * value_steps
    s = (bits(w.amax(-1, keepdim=True)) - WEIGHT).clamp(min=0)
    w = rounding_shift(w, s).clamp(max=2**WEIGHT - 1)
    o = wide_product(w.flatten(2, 3), values, WEIGHT).unflatten(2, w.shape[2:4])
    g = (bits(o.abs().amax(-1, keepdim=True)) - 30).clamp(min=0)
    h = (bits(total) - 31).clamp(min=0)
    reciprocal = 2**RECIPROCAL // (total >> h)
    return saturate(rounding_shift(rounding_shift(o, g) * reciprocal, RECIPROCAL + h + (k_v - 1) - s - g), 16).to(torch.int16)


def by_group(x: Tensor, groups: int) -> Tensor:
    """(batch, queries, heads, n) as (batch, groups, heads / groups, queries, n)."""
    return x.unflatten(2, (groups, -1)).permute(0, 2, 3, 1, 4)


def check_sizes(width: int, positions: int, heads: int, groups: int) -> None:
    """FixedPointError where a width is not proven."""
    if width > MOST_HEAD:
        raise FixedPointError(
            f"attention: heads of {width} columns. Scores are proven for at most {MOST_HEAD}; give more, narrower heads."
        )
    if positions >= MOST_POSITIONS:
        raise FixedPointError(
            f"attention: {positions} positions. Sums are proven for fewer than {MOST_POSITIONS}; shorten the context."
        )
    if heads % groups:
        raise FixedPointError(f"attention: {heads} heads do not share {groups} groups of keys evenly.")
