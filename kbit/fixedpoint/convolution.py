"""Convolutions and linear layers between tensors of one scale each: a multiplier and shift an output channel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kbit.errors import FixedPointError
from kbit.fixedpoint.dyadic import Dyadic
from kbit.fixedpoint.fixed import Fixed, FixedType, constant
from kbit.fixedpoint.products import product
from kbit.fixedpoint.rounding import largest, scaled
from kbit.fixedpoint.windows import Window
from kbit.formats import Format, encode

SMALLEST_UNIT = 2.0**-40  # of a row, in its bias: weights below add nothing to 16 bits


@dataclass(frozen=True)
class StaticWeight:
    """The integers of a layer from type x to type y, proven at construction not to overflow.

    codes       int8 (n_out, n_in): a row an output channel, n_in = channels of its group * kernel height * kernel width
    multiplier  int64 (n_out,) and shift int64 (n_out,): unit of the row * scale of x / scale of y
    bias        int64 (n_out,) in units of unit * scale of x, with -zero_x * sum of the row in it; at most 2^41
    Raises FixedPointError, naming the layer, where an int32 sum can overflow: max_r sum |code| * (largest |code of x|) >= 2^31.
    """

    codes: Tensor
    multiplier: Tensor
    shift: Tensor
    bias: Tensor
    x: FixedType
    y: FixedType
    name: str = "layer"

    def __post_init__(self) -> None:
        most = int(self.codes.long().abs().sum(-1).max()) * max(-self.x.low, self.x.high)
        if self.x.k > 8 or most > largest(32):
            raise FixedPointError(
                f"{self.name}: sums of {self.codes.shape[1]} products of weights and activations of {self.x.k} bits "
                f"reach {most}, beyond the int32 limit {largest(32)}. Give the weights or the activations fewer bits, "
                "or split the layer."
            )

    @classmethod
    def of(
        cls,
        w: Tensor,
        bias: Tensor | None,
        k: int,
        x: FixedType,
        y: FixedType,
        *,
        range_name: str | None = None,
        name: str = "layer",
    ) -> StaticWeight:
        """From the floats of a layer, w (n_out, ...), in format int{k}-row with a range of kbit.formats; for conversion.

        A row of zeros, or one 2^-40 of its bias, keeps no weights: its unit is then 2^-8 of y's, for the bias alone.
        """
        rows = constant(w).flatten(1)
        peak = rows.abs().amax(-1, keepdim=True)
        relative = (rows / torch.where(peak > 0, peak, 1)).float()  # so that no stored scale underflows
        encoded = encode(relative, Format.parse(f"int{k}-row"), range_name=range_name)
        codes = encoded.levels[encoded.codes.long()].to(torch.int8)
        unit = (encoded.scale.double() * peak)[:, 0] * x.scale.value
        offset = torch.zeros(len(w), dtype=torch.float64) if bias is None else constant(bias)
        empty = offset.abs() * SMALLEST_UNIT >= unit
        codes[empty], unit[empty] = 0, y.scale.value / 2**8
        scale = Dyadic.of(unit / y.scale.value, what=name)
        assert isinstance(scale.multiplier, Tensor)
        assert isinstance(scale.shift, Tensor)
        start = (offset / unit).clamp(-1 / SMALLEST_UNIT, 1 / SMALLEST_UNIT).round().long()
        return cls(codes, scale.multiplier, scale.shift, start - x.zero * codes.long().sum(-1), x, y, name)

    def finish(self, acc: Tensor) -> Fixed:
        """The result of sums (..., n_out): with the bias 42 bits, and 15 of the multiplier."""
        return self.y.hold(scaled((acc + self.bias) * self.multiplier, self.shift))


def dense(x: Fixed, weight: StaticWeight) -> Fixed:
    """x w^T + bias: (..., n_out) of (..., n_in).

    acc < 2^31 by construction, times 15 bits. Error at most 1/2 against the integer weights and bias, and 2^-15 of the value
    for the multiplier (Jacob et al. 2018, equations 4 to 7).
    """
    return weight.finish(product(x.q, weight.codes).long())


def conv2d(x: Fixed, weight: StaticWeight, window: Window, groups: int = 1) -> Fixed:
    """The convolution of x (n, channels, height, width) as one integer product of its windows (im2col); padding is the real 0.

    The rows of weight.codes are (channels / groups, *kernel) flattened, as PyTorch's conv2d has them. Bounds as of `dense`.
    """
    n, channels = x.q.shape[:2]
    if (
        channels % groups
        or len(weight.codes) % groups
        or weight.codes.shape[1] * groups != channels * window.kernel[0] * window.kernel[1]
    ):
        raise FixedPointError(
            f"{weight.name}: weights of {tuple(weight.codes.shape)} do not fit {channels} channels in {groups} groups under "
            f"a window of {window.kernel}."
        )
    patches = window.patches(x.q, x.type.zero)
    height, width = patches.shape[2:4]
    columns = patches.unflatten(1, (groups, -1)).permute(1, 0, 3, 4, 2, 5, 6).reshape(groups, n * height * width, -1)
    acc = product(columns, weight.codes.view(groups, -1, columns.shape[-1])).long()  # (groups, places, n_out / groups)
    y = weight.finish(acc.transpose(0, 1).reshape(n, height, width, -1))
    return Fixed(y.q.permute(0, 3, 1, 2).contiguous(), y.type)


def conv1d(
    x: Fixed, weight: StaticWeight, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1, groups: int = 1
) -> Fixed:
    """The convolution of x (n, channels, length): conv2d over a height of 1."""
    window = Window((1, kernel), (1, stride), (0, padding), (1, dilation))
    return Fixed((y := conv2d(Fixed(x.q[:, :, None], x.type), weight, window, groups)).q[:, :, 0], y.type)
