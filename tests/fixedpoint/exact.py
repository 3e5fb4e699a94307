"""The operators as docs/fixedpoint.md writes them, in Python's unbounded integers and plain loops: what cannot wrap."""

from __future__ import annotations

import math


def shifted(x: int, shift: int) -> int:
    """x / 2^shift, rounded half to even; a negative shift is exact."""
    if shift <= 0:
        return x << -shift
    whole, rest = x >> shift, x & (1 << shift) - 1
    half = 1 << (shift - 1)
    return whole + (rest > half or (rest == half and whole & 1))


def held(x: int, low: int, high: int) -> int:
    return min(max(x, low), high)


def saturated(x: int, k: int) -> int:
    return held(x, -(2 ** (k - 1)), 2 ** (k - 1) - 1)


def scaled(x: int, shift: int, k: int = 32) -> int:
    return saturated(shifted(x, shift), k)


def quantize_rows(x: list[int], k: int, width: int) -> tuple[list[int], int, int]:
    a0 = min(max(abs(v) for v in x), 2 ** (width - 1) - 1)
    e = max(0, a0.bit_length() - 15)
    x = [held(shifted(v, e), -32767, 32767) for v in x]
    a = max(abs(v) for v in x)
    reciprocal = ((2 ** (k - 1) - 1) << 23) // a if a else 0
    return [shifted(v * reciprocal, 23) for v in x], a, e


def exp2_neg(d: int, table: list[int]) -> int:
    n, f = divmod(d, 2**16)
    i, between = divmod(f, 256)
    v = table[i] - shifted((table[i] - table[i + 1]) * between, 8)
    return v >> n


def norm(
    x: list[int], gamma: list[int], shift: int, epsilon: int, least: int, bias: list[int] | None, centred: bool
) -> list[int]:
    if centred:
        x = [len(x) * v - sum(x) for v in x]
    e = max(max(abs(v) for v in x).bit_length() - 22, least)
    x = [held(shifted(v, e), -(2**22 - 1), 2**22 - 1) for v in x]
    squares = sum(v * v for v in x) + (epsilon >> 2 * (e - least))
    t = (62 - squares.bit_length()) // 2 * 2
    root = math.isqrt(squares << t)
    reciprocal = 2**60 // max(root, 1)
    y = [scaled(shifted(v * reciprocal, 22) * g, shift - t // 2) for v, g in zip(x, gamma, strict=True)]
    return [saturated(v + b, 16) for v, b in zip(y, bias or [0] * len(y), strict=True)]


def attention(
    q: list[int], a_q: int, keys: list[list[int]], a_k: list[int], values: list[list[int]], a_v: list[int],
    multiplier: int, shift: int, k_v: int, table: list[int],
) -> list[int]:  # fmt: skip
    """One query of one head over the positions that it sees."""
    c = shifted(a_q * multiplier, 6)
    scores = [scaled(sum(x * y for x, y in zip(q, key, strict=True)) * a * c, shift) for key, a in zip(keys, a_k, strict=True)]
    peak = max(scores)
    p = [exp2_neg(peak - x, table) for x in scores]
    u = [x * a for x, a in zip(p, a_v, strict=True)]
    s = max(0, max(u).bit_length() - 30)
    w = [min(shifted(x, s), 2**30 - 1) for x in u]
    o = [sum(x * row[d] for x, row in zip(w, values, strict=True)) for d in range(len(values[0]))]
    g = max(0, max(abs(x) for x in o).bit_length() - 30)
    h = max(0, sum(p).bit_length() - 31)
    reciprocal = 2**60 // (sum(p) >> h)
    return [scaled(shifted(x, g) * reciprocal, 60 + h + k_v - 1 - s - g, 16) for x in o]
