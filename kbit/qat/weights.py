"""WeightQuantizer: a weight as its format will store it, with learned scales; what stands between a parameter and its layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from kbit.formats import Encoded, Format, Grid, encode
from kbit.formats.encoded import coded_columns
from kbit.formats.scales import stored_scale, to_float16
from kbit.qat.fake_quantize import FakeQuantize, Rounding, pass_through

LEAST_SCALE = 2.0**-24  # the smallest float16 above 0: a scale that training drives to 0 could never come back


class WeightQuantizer(nn.Module):
    """Gives for a parameter the values of its nearest codes, on a grid whose scales (shifts, zero points) are parameters.

    The grid is rounded as it is stored within each forward pass, so the values are those of `encode(parameter).dequantize()`.
    scale: (n_out, n_blocks), or (1, 1) for granularity tensor, what a level is multiplied by: LSQ's step for int formats. shift:
    the minimum of -min, the mean of -center. zero: of -asym. Levels that a codebook learned from the weights stay as they were.
    transposed: the parameter is (n_in, n_out). A parameter of more dimensions (a convolution's) is a row for each of its first.
    """

    scale: nn.Parameter
    shift: nn.Parameter | None
    zero: nn.Parameter | None
    levels: Tensor
    tensor_scale: Tensor | None
    kept: Tensor | None

    def __init__(self, start: Encoded, *, transposed: bool = False) -> None:
        super().__init__()
        self.fmt, self.shape, self.transposed = start.fmt, start.shape, transposed
        self.scale = nn.Parameter(start.scale.clamp(min=LEAST_SCALE))
        shift = start.minimum if start.minimum is not None else start.mean
        self.register_parameter("shift", None if shift is None else nn.Parameter(shift.clone()))
        self.register_parameter("zero", None if start.zero is None else nn.Parameter(start.zero.clone()))
        self.register_buffer("levels", start.levels.clone())
        self.register_buffer("tensor_scale", None if start.tensor_scale is None else start.tensor_scale.clone())
        self.register_buffer("kept", None if start.kept_columns is None else start.kept_columns.long())
        self._rounding: Rounding | None = None

    @property
    def reach(self) -> float:
        """The largest level: a block's values reach to so many times its scale."""
        return float(self.levels.abs().max())

    def grid(self) -> Grid:
        """The grid as it is stored now; gradients pass through its rounding to the parameters."""
        scale = pass_through(self.scale, self._stored(self.scale.detach().clamp(min=LEAST_SCALE)))
        shift = None if self.shift is None else pass_through(self.shift, to_float16(self.shift.detach()))
        zero = None
        if self.zero is not None:
            zero = pass_through(self.zero, self.zero.detach().round().clamp(0, len(self.levels) - 1))
        minimum, mean = (shift, None) if self.fmt.affine == "min" else (None, shift)
        return Grid(self.fmt, scale, self.levels, zero, minimum, mean, self.tensor_scale)

    def forward(self, parameter: Tensor) -> Tensor:
        """Values in the place of `parameter`: its shape and dtype."""
        w = self.matrix(parameter).float()
        if self.kept is None:
            values = self._coded(w)
        else:
            columns = self._coded_columns()
            whole = torch.empty_like(w).index_copy(1, columns, self._coded(w[:, columns]))
            values = whole.index_copy(1, self.kept, pass_through(w[:, self.kept], to_float16(w[:, self.kept].detach())))
        return self.parameter(values, parameter.shape).to(parameter.dtype)

    def matrix(self, parameter: Tensor) -> Tensor:
        """The parameter as w (n_out, n_in)."""
        return parameter.T if self.transposed else parameter.flatten(1)

    def parameter(self, w: Tensor, shape: torch.Size) -> Tensor:
        """Inverse of `matrix`."""
        return w.T if self.transposed else w.view(shape)

    @torch.no_grad()
    def encode(self, parameter: Tensor) -> Encoded:
        """Codes and grid of the parameter's values, as they are packed; on the CPU."""
        grid = self.grid()
        cpu = {name: value.cpu() for name, value in vars(grid).items() if isinstance(value, Tensor)}
        kept = None if self.kept is None else self.kept.cpu()
        w = self.matrix(parameter).float().cpu()
        return encode(w, self.fmt, grid=Grid(self.fmt, **cpu), kept_columns=kept)

    def _coded(self, w: Tensor) -> Tensor:
        """Values of the coded columns."""
        grid = self.grid()
        if self._rounding is None:
            self._rounding = Rounding.of(grid, step_gradient(self.fmt, w.shape, self.levels))
        size = w.numel() if self.fmt.granularity == "tensor" else self.fmt.block_size(w.shape[1])
        missing = 0 if self.fmt.granularity == "tensor" else -w.shape[1] % size
        blocks = (pad(w, (0, missing)) if missing else w).reshape(*grid.scale.shape, size)
        shift = grid.minimum if grid.minimum is not None else grid.mean
        numbers = [None if each is None else each.unsqueeze(-1) for each in (grid.scale, shift, grid.zero)]
        values: Tensor = FakeQuantize.apply(blocks, *numbers, self._rounding.to(w.device))
        return values.view(len(w), -1)[:, : w.shape[1]]

    def _coded_columns(self) -> Tensor:
        assert self.kept is not None
        return coded_columns(self.shape[1], self.kept.cpu()).to(self.kept.device)

    def _stored(self, scale: Tensor) -> Tensor:
        """The scale as it comes back from storage."""
        if self.fmt.scales == "f16":
            return to_float16(scale)
        tensor_scale = None if self.tensor_scale is None else self.tensor_scale.cpu()
        how: dict[str, Any] = {"largest": self.reach, "ocp": self.fmt.codebook == "fp"}
        return stored_scale(scale.cpu(), self.fmt.scales, tensor_scale, **how).to(scale.device)

    def extra_repr(self) -> str:
        """Format and size."""
        return f"{self.fmt}, {self.shape[0]} x {self.shape[1]}"


class ExpertsQuantizer(nn.Module):
    """A WeightQuantizer for each matrix of a parameter of three dimensions."""

    def __init__(self, experts: list[WeightQuantizer]) -> None:
        super().__init__()
        self.experts = nn.ModuleList(experts)

    def forward(self, parameter: Tensor) -> Tensor:
        """Values in the place of `parameter` (n_experts, ...)."""
        return torch.stack([quantizer(matrix) for quantizer, matrix in zip(self.experts, parameter, strict=True)])


class Rounded(nn.Module):
    """A parameter that stays in 16 bits, as its format stores it, with the gradient of the parameter."""

    def __init__(self, fmt: Format) -> None:
        super().__init__()
        self.fmt = fmt

    def forward(self, parameter: Tensor) -> Tensor:
        """The parameter, rounded."""
        rounded = parameter.detach()
        if self.fmt.dtype == torch.float16:
            rounded = to_float16(rounded)
        return pass_through(parameter, rounded.to(self.fmt.dtype).to(parameter.dtype))

    def extra_repr(self) -> str:
        """Format."""
        return str(self.fmt)


def step_gradient(fmt: Format, shape: torch.Size | tuple[int, int], levels: Tensor) -> float:
    """LSQ's factor on the gradient of a step, 1 / sqrt(weights that share it * largest level) (Esser et al. 2020, 2.2)."""
    n_out, n_in = shape
    weights = n_out * n_in if fmt.granularity == "tensor" else fmt.block_size(n_in)
    return float((weights * levels.abs().max()) ** -0.5)
