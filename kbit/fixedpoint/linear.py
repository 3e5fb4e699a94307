"""The linear layer in integers: codes times codes, exact in int32, then one multiplier and shift a row."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kbit.errors import FixedPointError
from kbit.fixedpoint.dyadic import MOST_SHIFT, Dyadic
from kbit.fixedpoint.products import product
from kbit.fixedpoint.quantize import Rows
from kbit.fixedpoint.rounding import largest, narrow, saturate, scaled


@dataclass(frozen=True)
class LinearWeight:
    """The integers of a linear layer, proven at construction not to overflow for activations of k_x bits.

    codes       int8 (n_out, n_in)
    m           uint8 (n_out, n_blocks), the scale of each block of `block` columns; None: 1 everywhere, one scale a row
    multiplier  int16 (n_out,), 0 .. 2^15 - 1, and shift, any integer type (n_out,), 0 .. 62: what y = acc * a is multiplied by,
                row unit * input scale / L / output scale
    bias        int32 (n_out,) in y's scale, or None
    name        of the layer, for messages

    The largest sum that activations of k_x bits can make is L_x * max over rows of sum_b m sum |code|, L_x = 2^(k_x - 1) - 1.
    Raises FixedPointError where that reaches 2^31, or where a shape, type or range is not the one above.
    """

    codes: Tensor
    m: Tensor | None
    block: int
    multiplier: Tensor
    shift: Tensor
    bias: Tensor | None = None
    k_x: int = 8
    name: str = "linear"

    def __post_init__(self) -> None:
        n_out, n_in = self.codes.shape
        blocks = -(-n_in // self.block)
        if self.codes.dtype != torch.int8 or (self.m is not None and self.m.dtype != torch.uint8):
            raise FixedPointError(f"{self.name}: codes are {self.codes.dtype}. Give int8 codes and uint8 scales of blocks.")
        if self.m is not None and self.m.shape != (n_out, blocks):
            raise FixedPointError(
                f"{self.name}: scales of shape {tuple(self.m.shape)} for {n_out} rows of {blocks} blocks. Give one a block."
            )
        for what, value, high in (("multiplier", self.multiplier, 2**15 - 1), ("shift", self.shift, MOST_SHIFT)):
            if value.is_floating_point() or value.shape != (n_out,) or not in_range(value, 0, high):
                raise FixedPointError(f"{self.name}: {what} must be {n_out} integers from 0 to {high}.")
        if self.bias is not None and (self.bias.dtype != torch.int32 or self.bias.shape != (n_out,)):
            raise FixedPointError(f"{self.name}: bias must be {n_out} int32 numbers in the scale of the result.")
        if self.largest_sum > largest(32):
            raise FixedPointError(
                f"{self.name}: sums of {n_in} columns, weights of {n_out} rows times activations of {self.k_x} bits, reach "
                f"{self.largest_sum}, beyond the int32 limit {largest(32)}. Give the weights or the activations fewer bits, or "
                "one scale a row (granularity row) in place of blocks."
            )

    @property
    def largest_sum(self) -> int:
        """The largest |acc| that activations of k_x bits can make."""
        size = self.codes.short().abs()
        if self.m is not None:
            size = size.int() * self.spread_scales()
        return int(size.sum(-1, dtype=torch.int64).max()) * largest(self.k_x) if size.numel() else 0

    def spread_scales(self) -> Tensor:
        """m of each column: int32 (n_out, n_in)."""
        assert self.m is not None
        return self.m.int().repeat_interleave(self.block, -1)[:, : self.codes.shape[-1]]

    @cached_property
    def digits(self) -> tuple[Tensor, Tensor]:
        """int8 (high, low) with code * m = 256 high + low: |code * m| <= 127 * 255 gives |high| <= 127."""
        whole = self.codes.int() * self.spread_scales()
        low = ((whole + 128) & 255) - 128
        return ((whole - low) >> 8).to(torch.int8), low.to(torch.int8)


def accumulate(q: Tensor, weight: LinearWeight) -> Tensor:
    """acc[..., r] = sum_b m[r, b] sum_{j in b} codes[r, j] q[..., j], exact int32: (..., n_out) of int8 q (..., n_in).

    |q| <= L of weight.k_x is the caller's to keep: quantize_rows and quantize_static do.
    """
    if weight.m is None:
        return product(q, weight.codes)
    high, low = weight.digits
    return ((product(q, high).long() << 8) + product(q, low)).int()


def linear(x: Rows, weight: LinearWeight, k: int = 16) -> Tensor:
    """y = saturate_k(saturate_32(acc * a * M * 2^(e - S), rounded half to even) + bias): int16 (..., n_out), or int32 for k = 32.

    acc has 31 bits, a 15 and M 15: 61. S - e below 0 shifts left, saturating. Within the range of y,
    |y - y*| <= 1/2 against the given integers, and a multiplier of 15 bits brings |y| * 2^-15 more against the real scale.
    (Jacob et al. 2018, equations 4 to 7; a step a token as in LLM.int8(), Dettmers et al. 2022.)
    """
    acc = accumulate(x.q, weight).long()
    y = scaled(acc * x.a.long() * weight.multiplier.long(), weight.shift.long() - x.e.long())
    return narrow(saturate(y if weight.bias is None else y + weight.bias, k), k)


def row_scales(unit: Tensor, x_scale: float, k_x: int, y_scale: float, name: str = "linear") -> tuple[Tensor, Tensor]:
    """(multiplier int16, shift int8) of a layer whose weights are codes * m * unit, unit float64 (n_out,); for conversion.

    The value of x is q * a * 2^e / L * x_scale, and that of y its integer times y_scale.
    """
    scale = Dyadic.of(unit.double() * x_scale / largest(k_x) / y_scale, what=name)
    assert isinstance(scale.multiplier, Tensor)
    assert isinstance(scale.shift, Tensor)
    return scale.multiplier.to(torch.int16), scale.shift.to(torch.int8)


def in_range(x: Tensor, low: int, high: int) -> bool:
    """Whether every number of x is in low .. high."""
    return not x.numel() or low <= int(x.min()) <= int(x.max()) <= high
