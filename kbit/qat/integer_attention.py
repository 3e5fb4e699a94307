"""Steps of heads in training: rotary positions, the cache of keys and values, attention.

`attention` gives the very integers of kbit.fixedpoint.attention, of whole texts in about a quarter of its time. Sums of products
whose every term is a whole number are taken in floats that hold them exactly; the exponential is one look-up in a table of all
its fractions; positions that a query cannot see are not computed; and what is at hand fits the cache.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kbit.fixedpoint.attention import QUERY_PLACES, RECIPROCAL, WEIGHT, ScoreScale, by_group
from kbit.fixedpoint.exponent import FRACTION, exp2_neg
from kbit.fixedpoint.quantize import Rows, quantize_rows
from kbit.fixedpoint.rotary import rotate
from kbit.fixedpoint.rounding import bits, largest, rounding_shift, saturate, scaled
from kbit.models.integer_blueprint import Blueprint
from kbit.models.integer_float import rotated, rotations
from kbit.models.integer_run import QUERY_BITS
from kbit.qat.fake_quantize import pass_through
from kbit.qat.integer_step import Pass, Taught

QUERIES = 64  # at once
FARTHEST = 31 << FRACTION  # from where on 2^-d is 0


class Rotated(Taught):
    """Rotary positions, in place."""

    def __init__(self, blueprint: Blueprint, *about: Any) -> None:
        super().__init__(*about)
        tables = rotations(blueprint, blueprint.positions)
        assert tables is not None, "rotary steps come of rotary positions"
        self.cosine, self.sine = (table.float() for table in tables)

    def results(self) -> dict[int, float]:
        return {self.step.from_[0]: self.units[self.step.from_[0]]}

    def forward(self, state: Pass) -> None:
        number, head, n = self.step.from_[0], self.step.numbers[0], state.ids.shape[1]
        cosine, sine = (table[:n, None] for table in self.constants)
        y = rotate(state.integers[number].unflatten(-1, (-1, head)), cosine, sine).flatten(-2)

        def surrogate(floats: dict[int, Tensor]) -> Tensor:
            return rotated(floats[number].unflatten(-1, (-1, head)), self.cosine[:n], self.sine[:n]).flatten(-2)

        state.put(number, y, self.units[number], surrogate)


class Stored(Taught):
    """Keys and values into the cache, codes of k bits a head."""

    def __init__(self, head: int, *about: Any) -> None:
        super().__init__(*about)
        self.head = head

    def forward(self, state: Pass) -> None:
        layer, k = self.step.numbers
        rows = [quantize_rows(state.integers[number].unflatten(-1, (-1, self.head)), k) for number in self.step.from_]
        state.cache[layer] = rows[0], rows[1]
        if state.floats is not None:
            keys, values = (
                dequantized(state.floats[number], each, self.units[number], k)
                for number, each in zip(self.step.from_, rows, strict=True)
            )
            state.float_cache[layer] = keys, values


def dequantized(x: Tensor, rows: Rows, unit: float, k: int) -> Tensor:
    """What codes of the heads of x stand for, float32 (batch, n, heads, head), with the gradient of x."""
    return pass_through(x.unflatten(-1, (-1, rows.q.shape[-1])), rows.q.float() * (rows.a.float() * (unit / largest(k))))


class Attended(Taught):
    """Attention over the cache; its gradient is that of softmax in floats, of the same queries, keys and values."""

    def __init__(self, scaling: float, head: int, v_unit: float, *about: Any) -> None:
        super().__init__(*about)
        self.scaling, self.head, self.v_unit = scaling, head, v_unit

    def results(self) -> dict[int, float]:
        steps = largest(self.step.numbers[3])
        return {self.step.to[0]: self.v_unit * (steps + 1) / steps}

    def forward(self, state: Pass) -> None:
        layer, multiplier, shift, k = self.step.numbers
        from_, to = self.step.from_[0], self.step.to[0]
        queries = quantize_rows(state.integers[from_].unflatten(-1, (-1, self.head)), QUERY_BITS)
        keys, values = state.cache[layer]
        y = attention(queries, keys, values, ScoreScale(multiplier, shift), k).flatten(-2)

        def surrogate(floats: dict[int, Tensor]) -> Tensor:
            q = dequantized(floats[from_], queries, self.units[from_], QUERY_BITS).transpose(1, 2)
            group = q.shape[1] // keys.q.shape[2]
            k, v = (each.transpose(1, 2).repeat_interleave(group, 1) for each in state.float_cache[layer])
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scaling)
            return y.transpose(1, 2).flatten(-2)

        state.put(to, y, self.results()[to], surrogate)


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
