"""BatchNorm at inference, an affine map a channel: folded into the layer before it, or by itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kbit.fixedpoint.dyadic import Dyadic
from kbit.fixedpoint.fixed import Fixed, FixedType, constant
from kbit.fixedpoint.rounding import scaled

MOST_SHIFT = 40  # places of a bias that has 20 bits before them
MOST_BIAS = 2.0**20  # units of y: beyond the 2^17 that any input of 16 bits can take back


def fold_batch_norm(w: Tensor, bias: Tensor | None, norm: torch.nn.Module) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution or linear layer that does its BatchNorm too; for conversion.

    w' = w * s, b' = (b - mean) * s + beta, s = gamma / sqrt(var + eps) of each channel of the output, in float64
    (Jacob et al. 2018, equation 14).
    """
    factor, offset = factor_and_offset(norm)
    scaled_weight = constant(w) * factor.view(-1, *[1] * (w.dim() - 1))
    return scaled_weight, offset if bias is None else constant(bias) * factor + offset


@dataclass(frozen=True)
class BatchNormWeight:
    """y = (x * multiplier + bias) * 2^-shift, a channel each: int64 (channels,); multiplier of 15 bits with its sign."""

    multiplier: Tensor
    shift: Tensor
    bias: Tensor
    y: FixedType

    @classmethod
    def of(cls, norm: torch.nn.Module, x: FixedType, y: FixedType, name: str = "BatchNorm") -> BatchNormWeight:
        """From torch's BatchNorm; for conversion."""
        factor, offset = factor_and_offset(norm)
        wanted = factor * x.scale.value / y.scale.value
        shift = torch.as_tensor(Dyadic.of(wanted, what=name).shift).clamp(max=MOST_SHIFT)
        shift = torch.where(wanted == 0, MOST_SHIFT, shift)
        offset = (offset / y.scale.value).clamp(-MOST_BIAS, MOST_BIAS)
        return cls(torch.ldexp(wanted, shift).round().long(), shift, torch.ldexp(offset, shift).round().long(), y)


def batch_norm(x: Fixed, weight: BatchNormWeight) -> Fixed:
    """(x - mean) / sqrt(var + eps) * gamma + beta of x (n, channels, ...), k <= 16 bits.

    Widths: 17 + 15 bits, and 20 + 40 for the bias. Error at most 1/2 + 2^-40, and 2^-15 of x * factor for the multiplier.
    """
    shape = (-1, *[1] * (x.q.dim() - 2))
    multiplier, shift, bias = (part.view(shape) for part in (weight.multiplier, weight.shift, weight.bias))
    return weight.y.hold(scaled(x.centred * multiplier + bias, shift))


def factor_and_offset(norm: torch.nn.Module) -> tuple[Tensor, Tensor]:
    """s = gamma / sqrt(var + eps) and beta - mean * s in float64; gamma 1 and beta 0 where the module has none."""
    mean, variance = constant(norm.running_mean), constant(norm.running_var)  # type: ignore[arg-type]
    factor = (variance + norm.eps).rsqrt()  # type: ignore[operator]
    if norm.weight is not None:
        factor = factor * constant(norm.weight)  # type: ignore[arg-type]
    offset = -mean * factor
    return factor, offset if norm.bias is None else offset + constant(norm.bias)  # type: ignore[arg-type]
