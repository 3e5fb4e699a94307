"""Fake quantization of a layer's input: learned clipping (PACT), a learned step (LSQ), or the range of each token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kbit.errors import FormatError
from kbit.formats import Format, choose_grid
from kbit.qat.fake_quantize import FakeQuantize, Rounding, pass_through
from kbit.qat.weights import step_gradient

LEARNING = ("pact", "lsq")
NAME = "kbit_activation"  # of the quantizer among the children of the layer whose input it quantizes


class ActivationQuantizer(nn.Module):
    """x (..., n) on the levels of an int format, symmetric about 0, or from 0 on with -asym (after a ReLU).

    Of granularity tensor, the largest value is learned; it starts at the largest of the first batch. pact: x is clipped at
    +-alpha, and alpha learns from what lies beyond (Choi et al. 2018: the gradient of alpha is 1 there, and 0 within). lsq: the
    step learns from all values (Esser et al. 2020). Of granularity token, each token's largest magnitude is its range, and
    nothing is learned. Gradients of x pass straight through, but for what is clipped.
    """

    reach: nn.Parameter | None
    started: Tensor | None

    def __init__(self, fmt: Format, learning: str = "pact") -> None:
        super().__init__()
        if fmt.codebook != "int" or fmt.granularity not in ("tensor", "token") or fmt.affine not in (None, "asym"):
            raise FormatError(
                f"activations '{fmt}' are not to be had. Write int8-tensor, int8-tensor-asym, int8-token, with any k."
            )
        if fmt.scales != "f16" or fmt.kept_percent or (fmt.affine == "asym" and fmt.granularity == "token"):
            raise FormatError(f"activations '{fmt}': options other than -asym of a tensor are not to be had. Leave them out.")
        if learning not in LEARNING:
            raise FormatError(f"'{learning}' does not teach a range. Write {' or '.join(LEARNING)}.")
        self.fmt, self.learning = fmt, learning
        self.register_buffer("levels", fmt.levels())
        learns = fmt.granularity == "tensor"
        self.register_parameter("reach", nn.Parameter(torch.ones(())) if learns else None)
        self.register_buffer("started", torch.zeros((), dtype=torch.bool) if learns else None)
        self._rounding: Rounding | None = None

    levels: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """x on the grid, in its own dtype."""
        seen = x.float()
        if self.reach is None or self.started is None:
            values = self._round(seen.detach(), self._step(seen.detach().abs().amax(-1, keepdim=True)))
            return pass_through(x, values.to(x.dtype))
        if not bool(self.started):
            self.reach.data.copy_(seen.detach().abs().max().clamp(min=torch.finfo(torch.float32).tiny))
            self.started.fill_(True)
        if self.learning == "pact":
            low = -self.reach if self.fmt.affine is None else torch.zeros_like(self.reach)
            clipped = seen.clamp(low, self.reach)
            return pass_through(clipped, self._round(clipped.detach(), self._step(self.reach.detach()))).to(x.dtype)
        return self._round(seen, self._step(self.reach)).to(x.dtype)

    def _step(self, reach: Tensor) -> Tensor:
        """The step with which the largest level is `reach`; never 0."""
        return reach.clamp(min=torch.finfo(torch.float32).tiny) / self.levels[-1]

    def _round(self, x: Tensor, step: Tensor) -> Tensor:
        """x at its nearest levels; step (..., 1), or one for all."""
        if self._rounding is None:
            fake = choose_grid(torch.ones(1, 1), self.fmt)
            self._rounding = Rounding.of(fake, step_gradient(self.fmt, (1, x.numel()), self.levels))
        rows = x.reshape(1, 1, -1) if step.ndim == 0 else x.unsqueeze(-2)
        steps = step.reshape(1, 1, 1) if step.ndim == 0 else step.unsqueeze(-2)
        values: Tensor = FakeQuantize.apply(rows, steps, None, None, self._rounding.to(x.device))
        return values.view(x.shape)

    def extra_repr(self) -> str:
        """Format, and how its range is learned."""
        return str(self.fmt) if self.reach is None else f"{self.fmt}, {self.learning}"


def quantize_inputs(model: nn.Module, names: list[str], fmt: Format, learning: str) -> None:
    """Let the layers `names` of `model` see their inputs through a quantizer each."""
    for name in names:
        layer = model.get_submodule(name)
        layer.add_module(NAME, ActivationQuantizer(fmt, learning))
        layer.register_forward_pre_hook(_quantize_input)


def carry_over(old: nn.Module, new: nn.Module) -> None:
    """Let `new`, which takes the place of `old`, see its inputs as that did."""
    quantizer = getattr(old, NAME, None)
    if quantizer is not None and new is not old:
        new.add_module(NAME, quantizer)
        new.register_forward_pre_hook(_quantize_input)


def _quantize_input(layer: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The hook itself: a function, so that copies of a model have it too."""
    first, *others = inputs
    return getattr(layer, NAME)(first), *others
