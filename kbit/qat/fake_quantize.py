"""Fake quantization: the value that a code stands for, with gradients that pass straight through the rounding.

With u = (x - shift) / scale and Q(u) the level nearest to u, the value is v = Q(u) * scale + shift. Q' counts as 1 between the
outermost levels and as 0 beyond them (Bengio et al. 2013), so that, by the product rule,

    dv/dx = Q'(u)        dv/dscale = Q(u) - u Q'(u)        dv/dshift = 1 - Q'(u)

which for evenly spaced levels are the gradients of learned step sizes, LSQ (Esser et al. 2020, eq. 3 and 5) and LSQ+ (Bhalgat et
al. 2020). With an integer zero point, v = (c - zero) * scale with c = clamp(round(x / scale) + zero): dv/dzero = -scale (1 - Q').
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from kbit.formats import Grid
from kbit.formats.nearest import Cells

Gradients = tuple[Tensor | None, ...]


class PassThrough(Function):
    """`value` in the forward pass; the gradient goes to x as if x had been passed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        """value, which has the shape of x."""
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Gradients:
        """All of it to x."""
        return gradients[0], None


def pass_through(x: Tensor, value: Tensor) -> Tensor:
    """`value`, with the gradient of x."""
    passed: Tensor = PassThrough.apply(x, value.detach())
    return passed


@dataclass(frozen=True)
class Rounding:
    """How a block's numbers become values: all that a Grid says beside its scale, shift and zero point, and the cells to search.

    whole: levels are consecutive whole numbers, found by rounding. step_gradient: a factor on the gradient of the scale.
    """

    levels: Tensor
    cells: Cells | None
    low: float
    high: float
    whole: bool
    step_gradient: float = 1.0

    @staticmethod
    def of(grid: Grid, step_gradient: float = 1.0) -> Rounding:
        """That of a grid of kbit.formats."""
        levels = grid.levels
        cells = None if grid.whole else Cells.of(levels.cpu())
        return Rounding(levels, cells, float(levels[0]), float(levels[-1]), grid.whole, step_gradient)

    def to(self, device: torch.device) -> Rounding:
        """The same, its levels on `device`."""
        return self if self.levels.device == device else replace(self, levels=self.levels.to(device))

    def nearest(self, u: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
        """Q(u): the level nearest to each of u, ties as the codebook has them; u is overwritten."""
        if self.cells is None:
            return u.round_().clamp_(low, high)  # type: ignore[arg-type]
        codes = codes_of(u, self.cells)
        return self.levels.index_select(0, codes.flatten().int()).view(u.shape).to(u.dtype)


def codes_of(u: Tensor, cells: Cells) -> Tensor:
    """Code of the nearest level for each of u, on any device."""
    if u.device.type == "cpu" and u.dtype == torch.float32:
        return cells.codes(u.contiguous())
    return torch.bucketize(u.contiguous(), cells.bounds.to(u.device, u.dtype), out_int32=True)


class FakeQuantize(Function):
    """x (rows, blocks, size) as it comes back from storage; scale, shift, zero (rows, blocks, 1), or one for all.

    Only x and the values, which the layer that multiplies with them keeps anyway, are kept for the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor | None, zero: Tensor | None, rounding: Rounding) -> Tensor:
        """Values, rounded exactly as Grid.values rounds them. scale is above 0; zero holds whole numbers."""
        u = (x if shift is None else x - shift) / scale
        if zero is None:
            values = rounding.nearest(u, rounding.low, rounding.high).mul_(scale)
        else:
            values = rounding.nearest(u, rounding.low - zero, rounding.high - zero).mul_(scale)
        if shift is not None:
            values.add_(shift)
        ctx.save_for_backward(x, values, scale, shift, zero)
        ctx.rounding = rounding
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Gradients:
        """Gradients of x, scale, shift and zero."""
        (g,) = gradients
        x, values, scale, shift, zero = ctx.saved_tensors
        rounding: Rounding = ctx.rounding
        low, high = (end if zero is None else end - zero for end in (rounding.low, rounding.high))
        least, most = scale * low, scale * high
        if shift is not None:
            x, values, least, most = x - shift, values - shift, least, most
        inside = (x > least).logical_and_(x < most)
        g_x = g * inside
        g_scale = g_shift = g_zero = None
        if ctx.needs_input_grad[1]:
            sums = torch.linalg.vecdot(g, values) - torch.linalg.vecdot(g_x, x)
            g_scale = _like(sums.unsqueeze(-1), scale) / scale * rounding.step_gradient
        if (shift is not None and ctx.needs_input_grad[2]) or (zero is not None and ctx.needs_input_grad[3]):
            beyond = (g - g_x).sum(-1, keepdim=True)
            g_shift = _like(beyond, shift) if shift is not None else None
            g_zero = _like(beyond, zero) * -scale if zero is not None else None
        return g_x, g_scale, g_shift, g_zero, None


def _like(sums: Tensor, parameter: Tensor) -> Tensor:
    """Sums of every block, added where blocks share a parameter."""
    return sums if sums.shape == parameter.shape else sums.sum_to_size(parameter.shape)
