"""Attention of whole texts, with the very integers of kbit.fixedpoint.attention, in about a quarter of its time.

Sums of products whose every term is a whole number are taken in floats that hold them exactly; the exponential is one look-up in
a table of all its fractions; positions that a query cannot see are not computed; and what is at hand fits the cache.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from kbit.fixedpoint.attention import QUERY_PLACES, RECIPROCAL, WEIGHT, ScoreScale, by_group
from kbit.fixedpoint.exponent import FRACTION, exp2_neg
from kbit.fixedpoint.quantize import Rows
from kbit.fixedpoint.rounding import bits, rounding_shift, saturate, scaled

QUERIES = 64  # at once
FARTHEST = 31 << FRACTION  # from where on 2^-d is 0


def attention(q: Rows, k: Rows, v: Rows, scale: ScoreScale, k_v: int = 8) -> Tensor:
    """What kbit.fixedpoint.attention gives where query i sees positions 0 .. i: int16 (batch, n, heads, width).

    q: codes (batch, n, heads, width) and a (..., 1); k, v: (batch, n, groups, width). Sums of products of codes are below 2^22,
    which float32 holds; weights below 2^30 times values of 8 bits, of at most 2^15 positions, sum to less than 2^52, which
    float64 does.
    """
    groups, n = k.q.shape[2], q.q.shape[1]
    queries = by_group(q.q, groups).float()  # (batch, groups, heads of a group, n, width)
    c = by_group(rounding_shift(q.a.long() * scale.multiplier, QUERY_PLACES), groups)
    keys, values = k.q.permute(0, 2, 3, 1).float(), v.q.permute(0, 2, 1, 3).double()
    key_steps, value_steps = (rows.a.long().permute(0, 2, 3, 1)[:, :, None] for rows in (k, v))  # (batch, groups, 1, 1, n)
    out = torch.empty(by_group(q.q, groups).shape, dtype=torch.int16)
    for text in range(len(queries)):
        for start in range(0, n, QUERIES):
            rows = slice(start, min(n, start + QUERIES))
            seen = slice(0, rows.stop)
            acc = queries[text, :, :, rows] @ keys[text, :, None, :, seen]
            scores = scaled(acc.long().mul_(key_steps[text, ..., seen]).mul_(c[text, :, :, rows]), scale.shift)
            steps = value_steps[text, ..., seen]
            out[text, :, :, rows] = mixed(scores, values[text, :, None, seen], steps, start, k_v)
    return out.permute(0, 3, 1, 2, 4).flatten(2, 3)


def mixed(scores: Tensor, values: Tensor, steps: Tensor, first: int, k_v: int) -> Tensor:
    """Steps 4 to 8 of kbit.fixedpoint.attention: int16 (..., queries, width) of int64 scores (..., queries, positions).

    values float64 (..., positions, width); the first query is at position `first`.
    """
    n_q, n = scores.shape[-2:]
    hidden = torch.arange(n) > torch.arange(first, first + n_q)[:, None]
    scores = scores.masked_fill_(hidden, -(2**40))
    d = (scores.amax(-1, keepdim=True) - scores).clamp_(max=FARTHEST).int()
    p = (fractions()[d & (2**FRACTION - 1)] >> (d >> FRACTION)).long()
    total = p.sum(-1, keepdim=True)
    w = p.mul_(steps)
    s = (bits(w.amax(-1, keepdim=True)) - WEIGHT).clamp(min=0)
    w = rounding_shift(w, s).clamp_(max=2**WEIGHT - 1)
    o = (w.double() @ values).long()
    g = (bits(o.abs().amax(-1, keepdim=True)) - 30).clamp(min=0)
    h = (bits(total) - 31).clamp(min=0)
    reciprocal = 2**RECIPROCAL // (total >> h)
    return saturate(rounding_shift(rounding_shift(o, g) * reciprocal, RECIPROCAL + h + (k_v - 1) - s - g), 16).to(torch.int16)


@cache
def fractions() -> Tensor:
    """exp2_neg of every d below 1: int32 (65536,). Not to be written to."""
    return exp2_neg(torch.arange(2**FRACTION)).int()
