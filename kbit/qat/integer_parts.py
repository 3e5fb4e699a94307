"""The parts of a model of integers that train: matrices seen through their codes, and the weights and biases of norms.

Each part gives, from the parameters of now, both what floats compute with and the integers that a program stores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kbit.fixedpoint.norms import NormWeight
from kbit.fixedpoint.rounding import largest
from kbit.formats import Encoded, Format
from kbit.formats.scales import SECOND_LEVEL_STEPS, split_scale
from kbit.models.integer_blueprint import Norm
from kbit.packed import PackedTensor
from kbit.packed.packed_tensor import pack
from kbit.qat.weights import WeightQuantizer

MOST_SUM = 2**31  # that sums of products stay below
MOST_MULTIPLIER = 2**15 * (1 - 2**-10)  # less what rounding a scale to float16 may add


class IntegerQuantizer(WeightQuantizer):
    """A WeightQuantizer of a format that integers multiply. Under -i8 no scale of a block falls below 1/255 of the row's largest,
    where its code would be 0: such a block could not learn. And no scale exceeds what the program's multipliers of 15 bits hold.
    """

    def __init__(self, start: Encoded) -> None:
        super().__init__(start)
        self.most = float("inf")

    def hold(self, unit: float) -> None:
        """Keep what 1 of code * m stands for at most 2^15 times `unit`, which a multiplier of 15 bits and no shift stands for."""
        steps = SECOND_LEVEL_STEPS if self.fmt.scales == "i8" else 1
        self.most = min(self.most, unit * steps * MOST_MULTIPLIER)

    def _stored(self, scale: Tensor) -> Tensor:
        scale = scale.clamp(max=self.most)
        if self.fmt.scales == "i8":
            scale = torch.maximum(scale, scale.amax(1, keepdim=True) / SECOND_LEVEL_STEPS)
        return super()._stored(scale)

    @torch.no_grad()
    def unit(self) -> Tensor:
        """What 1 of code * m stands for in each row as it is stored now: float64 (n_out,)."""
        scale = self.grid().scale
        if self.fmt.scales == "i8":
            return split_scale(scale, "i8")["_second_scale"][:, 0].double() / SECOND_LEVEL_STEPS
        return scale[:, 0].double()


@dataclass(frozen=True)
class Whole:
    """A matrix as it is now.

    values: float32 (n_out, n_in), with a gradient. whole: code * m, whole numbers in float64. unit: what 1 of them stands for in
    each row, float64 (n_out,). values = whole * unit, to the rounding of float32.
    """

    values: Tensor
    whole: Tensor
    unit: Tensor


class Matrix(nn.Module):
    """A matrix of floats, seen through the codes and scales that will be stored."""

    weight: Tensor

    def __init__(self, name: str, weight: Tensor, start: Encoded) -> None:
        super().__init__()
        self.name = name
        self.weight = nn.Parameter(weight.clone())
        parametrize.register_parametrization(self, "weight", IntegerQuantizer(start), unsafe=True)

    def now(self) -> Whole:
        """Values and integers of the parameters as they are.

        |code * m| <= 127 * 255, and a value has two roundings of float32 in it, so whole / unit is within 0.01 of a whole number.
        """
        values, unit = self.weight, self.quantizer.unit()
        return Whole(values, (values.detach().double() / unit[:, None]).round_(), unit)

    def packed(self) -> PackedTensor:
        """The matrix as it is stored now."""
        return pack(self.quantizer.encode(self.latent))

    @property
    def quantizer(self) -> IntegerQuantizer:
        """Its scales."""
        parts: Any = self.parametrizations
        quantizer: IntegerQuantizer = parts.weight[0]
        return quantizer

    @property
    def latent(self) -> Tensor:
        """The floats that train."""
        parts: Any = self.parametrizations
        latent: Tensor = parts.weight.original
        return latent

    @property
    def fmt(self) -> Format:
        """The format in which it is stored."""
        return self.quantizer.fmt


class NormPart(nn.Module):
    """Weight and bias of a norm; x_unit and y_unit: what 1 of its integers stands for."""

    bias: nn.Parameter | None

    def __init__(self, norm: Norm, x_unit: float, y_unit: float) -> None:
        super().__init__()
        self.name, self.epsilon, self.centred = norm.name, norm.epsilon, norm.centred
        self.x_unit, self.y_unit = x_unit, y_unit
        self.weight = nn.Parameter(norm.weight.clone())
        self.register_parameter("bias", None if norm.bias is None else nn.Parameter(norm.bias.clone()))

    def floats(self) -> Norm:
        """The norm in floats, its weight and bias with gradients."""
        return Norm(self.name, self.weight, self.bias, self.epsilon, self.centred)

    @torch.no_grad()
    def integers(self) -> NormWeight:
        """The norm in integers, as it is lowered."""
        scales = {"x_scale": self.x_unit, "y_scale": self.y_unit}
        return NormWeight.of(self.weight, self.bias, self.epsilon, **scales, centred=self.centred, name=self.name)


def bias_integers(bias: Tensor | None, y_unit: float) -> Tensor | None:
    """A bias in the scale of what it is added to: int32, as it is lowered."""
    if bias is None:
        return None
    return (bias.detach().double() / y_unit).round().clamp(-(2**31), 2**31 - 1).int()


def safe_format(fmt: Format, n_in: int, k_x: int) -> Format:
    """`fmt`, or with one scale a row where codes that may become anything could make sums over blocks leave 32 bits."""
    steps = SECOND_LEVEL_STEPS if fmt.scales == "i8" else 1
    if largest(fmt.k) * steps * largest(k_x) * n_in < MOST_SUM:
        return fmt
    return Format.parse(f"int{fmt.k}-row")
