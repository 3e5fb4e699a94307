"""Linear quantization over a range, as published: codes, values, exact products of codes, and the variance of the error."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kbit.errors import FormatError

EXACT_IN_FLOAT64 = 2**53  # every whole number up to here is a float64
COLUMNS_AT_ONCE = 4096  # bounds the float64 copies of a product's factors


def linear_quantize(x: Tensor, k: int, x_min: Tensor | float, x_max: Tensor | float) -> Tensor:
    """Code of the nearest of 2^k evenly spaced levels on [x_min, x_max].

    q = clamp(round((x - x_min) / (x_max - x_min) * (2^k - 1)), 0, 2^k - 1)

    x: tensor of any shape. x_min, x_max broadcast against it (a block's range has shape (..., 1)).
    Computes in float32 (float64 for float64). Returns uint8, the shape of x. Ties go to the even code; values outside take the
    end. Raises FormatError where k is not 1..8, where a range is empty or not finite, or where a value is NaN.
    The error of an unclipped value has mean 0 and variance s^2 / 12, s = (x_max - x_min) / (2^k - 1) (Bennett 1948).
    """
    steps = 2 ** check_k(k) - 1
    x = x if x.dtype == torch.float64 else x.float()
    low, width = check_range(x_min, x_max, x.dtype)
    codes = ((x - low) / width * steps).round().clamp(0, steps)
    if bool(codes.isnan().any()):
        raise FormatError(f"linear_quantize: {int(codes.isnan().sum())} of {codes.numel()} values are NaN. Remove them first.")
    return codes.to(torch.uint8)


def linear_dequantize(q: Tensor, k: int, x_min: Tensor | float, x_max: Tensor | float) -> Tensor:
    """Value of each code: x' = q * (x_max - x_min) / (2^k - 1) + x_min; float32, or float64 where the range is a float64 tensor.

    Raises FormatError where k is not 1..8, where a range is empty or not finite, or where a code is not 0 .. 2^k - 1.
    """
    steps = 2 ** check_k(k) - 1
    check_codes("linear_dequantize", q, 0, steps, k)
    double = any(isinstance(end, Tensor) and end.dtype == torch.float64 for end in (x_min, x_max))
    low, width = check_range(x_min, x_max, torch.float64 if double else torch.float32)
    return q.to(low.dtype) * width / steps + low


def quantized_matmul(x_q: Tensor, y_q: Tensor, k: int) -> Tensor:
    """The product x_q @ y_q of two k-bit matrices, exactly: int64, (..., m, p) from (..., m, n) and (..., n, p).

    Codes are unsigned (0 .. 2^k - 1) or signed (-2^(k-1) .. 2^(k-1) - 1) whole numbers of any integer dtype.
    Why it is exact: each product is at most (2^8 - 1)^2 < 2^16 in size, and 4096 columns are summed at a time in float64, so
    every partial sum, in whatever order, is a whole number below 2^28 and hence a float64; the sums of 4096 are added in int64,
    which holds 2^47 columns, more than any memory.
    Raises FormatError where k is not 1..8, a dtype is not integer, a code lies outside, or the inner sides differ.
    """
    check_k(k)
    for name, factor in (("x_q", x_q), ("y_q", y_q)):
        if factor.is_floating_point() or factor.is_complex():
            raise FormatError(f"quantized_matmul: {name} is {factor.dtype}. Give integer codes, as linear_quantize makes them.")
        check_codes(f"quantized_matmul: {name}", factor, -(2 ** (k - 1)), 2**k - 1, k)
    if x_q.dim() < 2 or y_q.dim() < 2 or x_q.shape[-1] != y_q.shape[-2]:
        raise FormatError(
            f"quantized_matmul: shapes {tuple(x_q.shape)} and {tuple(y_q.shape)} do not multiply. "
            "Give (..., m, n) and (..., n, p)."
        )
    assert COLUMNS_AT_ONCE * (2**k - 1) ** 2 < EXACT_IN_FLOAT64
    batch = torch.broadcast_shapes(x_q.shape[:-2], y_q.shape[:-2])
    total = torch.zeros(*batch, x_q.shape[-2], y_q.shape[-1], dtype=torch.int64, device=x_q.device)
    for start in range(0, x_q.shape[-1], COLUMNS_AT_ONCE):
        columns = slice(start, start + COLUMNS_AT_ONCE)
        total += (x_q[..., columns].double() @ y_q[..., columns, :].double()).long()
    return total


def quantization_error_variance(k: int, x_min: Tensor | float, x_max: Tensor | float) -> Tensor | float:
    """s^2 / 12 for the step s = (x_max - x_min) / (2^k - 1): variance of the error of values spread evenly between levels.

    A float for two numbers, else a tensor. Raises FormatError where k is not 1..8, or a range is empty or not finite.
    """
    steps = 2 ** check_k(k) - 1
    if isinstance(x_min, Tensor) or isinstance(x_max, Tensor):
        dtype = torch.promote_types(torch.as_tensor(x_min).dtype, torch.as_tensor(x_max).dtype)
        _, width = check_range(x_min, x_max, torch.float64 if dtype == torch.float64 else torch.float32)
        return (width / steps) ** 2 / 12
    _, width = check_range(x_min, x_max, torch.float64)
    return (float(width) / steps) ** 2 / 12


def check_k(k: int) -> int:
    """k, or FormatError where it is not a whole number from 1 to 8."""
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= 8:
        raise FormatError(f"k = {k!r} is not to be had. Give the bits of a code, a whole number from 1 to 8.")
    return k


def check_range(x_min: Tensor | float, x_max: Tensor | float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(x_min, width) as tensors of `dtype`; FormatError where a range is empty, reversed or not finite."""
    low, high = torch.as_tensor(x_min, dtype=dtype), torch.as_tensor(x_max, dtype=dtype)
    width = high - low
    bad = ~((width > 0) & width.isfinite())
    if bool(bad.any()):
        first = int(bad.flatten().nonzero()[0])
        left, right = (float(end.flatten()[first]) for end in torch.broadcast_tensors(low, high))
        problem = "is empty" if math.isfinite(float(width.flatten()[first])) else "is not finite"
        raise FormatError(f"the range [{left:g}, {right:g}] {problem}. Give finite ends with x_min below x_max.")
    return low, width


def check_codes(where: str, codes: Tensor, low: int, high: int, k: int) -> None:
    """FormatError where a code lies outside low .. high."""
    if codes.numel() and not low <= int(codes.min()) <= int(codes.max()) <= high:
        least, most = int(codes.min()), int(codes.max())
        raise FormatError(
            f"{where}: codes run from {least} to {most}, which is not {k} bits. Codes of {k} bits are {low} .. {high}."
        )
