"""Matrix: a packed k-bit matrix as the kernels see it, over the tensors that hold its bytes."""

from __future__ import annotations

import torch
from torch import Tensor

from kbit.errors import CheckpointError, KernelError
from kbit.kernels import _native
from kbit.kernels.machine import follow_environment, follow_threads

CODINGS = {"linear": 0, "table": 1, "ternary": 2}
SCALES = {"f16": 0, "s8": 1, "e8m0": 2, "e4m3": 3, "i8": 4}


class Matrix:
    """A packed matrix w (n_out, n_in), of which the kernels multiply, dequantize and check nothing that was not checked here.

    n_kept of the columns stay in float16, the others are coded with k bits; `block` of them share a scale, by default all.
    coding: "linear", level = first + rise * code, or code - zero; "table" and "ternary", level = integer_levels[code] * step.
    levels: float32 (2^k,), the level of each code; integer_levels: int16 (2^k,), of which `integer_bits` (8 or 16) are needed.
    scales: "f16", "s8" or "i8" (with second_scale), "e8m0" or "e4m3" (with tensor_scale). per_tensor: one serves the matrix.
    codes, scale, second_scale, zero, shift (a minimum or mean), kept_columns, kept_weight: the stored parts, 1-D, as
    docs/formats.md describes them, each padded to 64 bytes. They are read where they lie, and kept alive.

    Raises CheckpointError where a part is missing, left over, or not of the dtype and size that the others imply.
    """

    __slots__ = ("_native",)

    def __init__(
        self,
        *,
        n_out: int,
        n_in: int,
        k: int,
        coding: str,
        codes: Tensor,
        scale: Tensor,
        levels: Tensor,
        n_kept: int = 0,
        block: int | None = None,
        first: int = 0,
        rise: int = 1,
        step: float = 1.0,
        scales: str = "f16",
        per_tensor: bool = False,
        tensor_scale: float = 1.0,
        second_scale: Tensor | None = None,
        zero: Tensor | None = None,
        shift: Tensor | None = None,
        integer_levels: Tensor | None = None,
        integer_bits: int = 8,
        kept_columns: Tensor | None = None,
        kept_weight: Tensor | None = None,
    ) -> None:
        follow_environment()
        try:
            self._native = _native.Matrix(
                n_out=n_out,
                n_in=n_in,
                n_kept=n_kept,
                block=max(1, n_in - n_kept) if block is None else block,
                k=k,
                coding=CODINGS[coding],
                first=first,
                rise=rise,
                scales=SCALES[scales],
                per_tensor=per_tensor,
                step=step,
                tensor_scale=tensor_scale,
                integer_bits=integer_bits,
                codes=codes,
                scale=scale,
                second_scale=second_scale,
                zero=zero,
                shift=shift,
                levels=levels,
                integer_levels=integer_levels,
                kept_columns=kept_columns,
                kept_weight=kept_weight,
            )
        except ValueError as error:
            raise CheckpointError(
                f"a packed weight of shape ({n_out}, {n_in}), k = {k}: {error} The file is damaged: download or copy it again."
            ) from None

    @property
    def shape(self) -> tuple[int, int]:
        """(n_out, n_in)."""
        return self._native.n_out, self._native.n_in

    def product(self, x: Tensor, y: Tensor, compute: str = "int8") -> None:
        """Write x @ w.T into y: contiguous float32 on the CPU, x (n, n_in), y (n, n_out).

        compute: "int8" or "exact". Other Python threads run meanwhile. Raises KernelError where x or y is not as said.
        """
        follow_threads()
        try:
            self._native.product(x, y, compute)
        except ValueError as error:
            raise KernelError(f"product with a weight of shape {self.shape}: {error}") from None

    def dequantize(self, out: Tensor, row: int = 0) -> None:
        """Write rows row, row + 1, ... of w into `out`, float32 (rows, n_in): bit for bit what the format says."""
        follow_threads()
        try:
            self._native.dequantize(row, row + len(out), out)
        except ValueError as error:
            raise KernelError(f"dequantize a weight of shape {self.shape}: {error}") from None

    def quantize_activations(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Codes of a row x, float32 (n_in,), as an int8 product takes them: int8 (coded columns,); scale, sum (segments,)."""
        q = torch.empty(self._native.n_coded, dtype=torch.int8)
        scale = torch.empty(self._native.n_segments)
        total = torch.empty(self._native.n_segments, dtype=torch.int32)
        try:
            self._native.quantize_activations(x, q, scale, total)
        except ValueError as error:
            raise KernelError(f"activations of a weight of shape {self.shape}: {error}") from None
        return q, scale, total

    def accumulate(self, q: Tensor, y: Tensor) -> None:
        """Write q @ codes.T into y exactly: int32 (n, n_out) of int8 q (n, n_in), -127 .. 127.

        For codes that are whole numbers -L .. L, under one scale a row, which is left out, or under 8-bit scales of blocks (i8),
        which are multiplied in.
        Raises KernelError for other matrices, where q or y is not as said, or where a sum could leave int32.
        """
        follow_threads()
        try:
            self._native.accumulate(q, y)
        except ValueError as error:
            raise KernelError(f"exact product with a weight of shape {self.shape}: {error}") from None

    def largest_sum(self) -> int:
        """The largest sum over the columns of a row of |code| times the scale of its block: what activations of 1 could reach.

        Raises KernelError where the codes are none that `accumulate` multiplies.
        """
        try:
            return self._native.largest_sum()
        except ValueError as error:
            raise KernelError(f"a weight of shape {self.shape}: {error}") from None
