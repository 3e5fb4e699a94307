"""The two products of a packed weight, in the plainest words: what every kernel is tested against, bit for bit.

docs/kernels.md says what is computed and in which order. Loops run over segments and columns; rows and tokens are handled at
once, since no number of one enters another's. All float32 operations round to nearest even, each by itself, and subnormal
numbers count (torch.set_flush_denormal stays off). Where a result is NaN, which NaN it is is not fixed.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kbit.formats.encoded import Encoded, coded_columns
from kbit.formats.format import Format
from kbit.formats.integer_levels import integer_levels

SEGMENT = 128  # most columns that share a scale of the activations: 128 * 127 * 32639 fits an int32
LARGEST_Q = 127
SMALLEST = 2.0**-100  # a segment that stays below it counts as zero: 127 / a and what follows would leave float32
INFINITY_BITS = 0x7F800000


def segments(fmt: Format, n_coded: int) -> list[slice]:
    """The columns of a row of `n_coded` in pieces of at most 128, ascending: each block is cut from its start."""
    block = fmt.block_size(n_coded)
    return [
        slice(start, min(start + SEGMENT, begin + block, n_coded))
        for begin in range(0, n_coded, block)
        for start in range(begin, min(begin + block, n_coded), SEGMENT)
    ]


def quantize_activations(x: Tensor, pieces: list[slice]) -> tuple[Tensor, Tensor, Tensor]:
    """x (n, n_coded) float32 as q * scale: q int8 (n, n_coded) in -127 .. 127, scale float32 and total = sum of q, int32 (n,
    n_segments).

    a = max |x| of the segment, q = round(x * (127 / a)), scale = a / 127: each operation rounded to float32, ties of q to the
    even number. A segment with a NaN or an infinity has scale NaN, one below 2^-100 scale 0; both have q = 0.
    """
    most = torch.tensor(float(LARGEST_Q))  # a tensor, since torch turns 127 / a into 127 * (1 / a), which rounds twice
    q = torch.zeros(x.shape, dtype=torch.int8)
    scale = torch.empty(len(x), len(pieces))
    total = torch.empty(len(x), len(pieces), dtype=torch.int32)
    for i, columns in enumerate(pieces):
        part = x[:, columns].contiguous()
        bits = (part.view(torch.int32) & 0x7FFFFFFF).amax(1)  # as whole numbers NaN > infinity > finite: no NaN is lost
        largest = bits.view(torch.float32)
        finite, small = bits < INFINITY_BITS, largest < SMALLEST
        held = finite & ~small
        a = torch.where(held, largest, 1.0)
        codes = (part * (most / a)[:, None]).round()
        q[:, columns] = torch.where(held[:, None], codes, 0.0).to(torch.int8)
        scale[:, i] = torch.where(held, a / most, torch.where(finite, 0.0, torch.nan))
        total[:, i] = q[:, columns].sum(1, dtype=torch.int32)
    return q, scale, total


def integer_product(encoded: Encoded, x: Tensor) -> Tensor:
    """x (n, n_in) times w^T by integers within a segment: float32 (n, n_out), the same bits on every machine.

    For each segment: isum = sum of integer level * q; acc = fma(isum, (scale * step) * x_scale, acc); with a minimum or mean m
    then acc = fma(m, x_scale * total, acc). Kept columns last: acc = fma(weight, x, acc).
    """
    levels = integer_levels(encoded.fmt, encoded.levels)
    n_coded = encoded.codes.shape[1]
    pieces = segments(encoded.fmt, n_coded)
    q, x_scale, total = quantize_activations(coded(encoded, x), pieces)
    y = torch.zeros(len(x), encoded.shape[0])
    for i, columns in enumerate(pieces):
        scale, zero, shift = block_numbers(encoded, columns)
        whole = levels.values.long()[encoded.codes[:, columns].long()]  # (n_out, columns)
        if zero is not None:
            whole = whole - zero.long()[:, None]
        isum = q[:, columns].long() @ whole.T
        weight = (scale * levels.step)[None, :] * x_scale[:, i, None]
        y = fma32(isum.float(), weight, y)
        if shift is not None:
            y = fma32(shift[None, :], (x_scale[:, i] * total[:, i].float())[:, None], y)
    return add_kept(encoded, x, y)


def exact_product(encoded: Encoded, x: Tensor) -> Tensor:
    """x (n, n_in) times w^T in float32: (n, n_out).

    For each segment: s = fma(level, x, s) over its columns, from 0; acc = fma(scale, s, acc); with a minimum or mean m then
    acc = fma(m, sum of x, acc), the plain float32 sum over ascending columns. Kept columns last: acc = fma(weight, x, acc).
    """
    n_coded = encoded.codes.shape[1]
    x_coded = coded(encoded, x)
    y = torch.zeros(len(x), encoded.shape[0])
    for columns in segments(encoded.fmt, n_coded):
        scale, zero, shift = block_numbers(encoded, columns)
        level = encoded.levels[encoded.codes[:, columns].long()]  # (n_out, columns)
        if zero is not None:
            level = level - zero[:, None]
        s, x_sum = torch.zeros(y.shape), torch.zeros(len(x))
        for level_j, x_j in zip(level.unbind(1), x_coded[:, columns].unbind(1), strict=True):
            s = fma32(level_j[None, :], x_j[:, None], s)
            x_sum = x_sum + x_j
        y = fma32(scale[None, :], s, y)
        if shift is not None:
            y = fma32(shift[None, :], x_sum[:, None], y)
    return add_kept(encoded, x, y)


def coded(encoded: Encoded, x: Tensor) -> Tensor:
    """The activations of the coded columns, in their order."""
    assert x.dtype == torch.float32
    assert x.dim() == 2
    assert x.shape[1] == encoded.shape[1]
    return x if encoded.kept_columns is None else x[:, coded_columns(encoded.shape[1], encoded.kept_columns)]


def block_numbers(encoded: Encoded, columns: slice) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """(scale, zero, minimum or mean), each (n_out,), of the block that a segment lies in."""
    n_out, n_coded = encoded.codes.shape
    block = columns.start // encoded.fmt.block_size(n_coded)
    shift = encoded.minimum if encoded.minimum is not None else encoded.mean

    def of_rows(values: Tensor) -> Tensor:
        return values[:, block].expand(n_out)

    zero = None if encoded.zero is None else of_rows(encoded.zero)
    return of_rows(encoded.scale), zero, None if shift is None else of_rows(shift)


def add_kept(encoded: Encoded, x: Tensor, y: Tensor) -> Tensor:
    """y with the products of the kept columns added, ascending."""
    for weight_j, x_j in kept(encoded, x):
        y = fma32(weight_j[None, :], x_j[:, None], y)
    return y


def kept(encoded: Encoded, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(weight (n_out,), x (n,)) of each kept column, ascending."""
    if encoded.kept_columns is not None and encoded.kept_weight is not None:
        for weight_j, column in zip(encoded.kept_weight.unbind(1), encoded.kept_columns.tolist(), strict=True):
            yield weight_j, x[:, column]


def fma32(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a * b + c, rounded once to float32, to nearest even: C's fmaf, for float32 tensors that broadcast.

    The product is exact in float64 (24 + 24 bits of 53). The sum there is rounded to odd (where inexact, of its two neighbours
    the one whose last bit is 1), and then to float32: with two bits to spare, 53 >= 24 + 2, that is one rounding of the exact
    value, also where the result is subnormal or overflows (Boldo and Melquiond 2008, "Emulation of a FMA and correctly rounded
    sums"). NaN, infinities and signs of zeros come out as IEEE 754 has it; inf * 0 and inf - inf are NaN.
    """
    product, addend = a.double() * b.double(), c.double()
    total = product + addend
    part = total - product  # TwoSum (Knuth): off is exactly what rounding took from the sum
    off = (product - (total - part)) + (addend - part)
    bits = total.view(torch.int64)
    to_odd = (off != 0) & (bits & 1 == 0) & total.isfinite()
    toward = torch.where((off > 0) == (total > 0), 1, -1)  # one more is the neighbour that is farther from 0
    return torch.where(to_odd, bits + toward, bits).view(torch.float64).float()
