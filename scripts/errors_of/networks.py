"""The operators of ordinary networks against float64."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from errors_of.inputs import KS, UNIT, Found, Operator, in_units, normals, some, types
from kbit.fixedpoint import activations, rescale
from kbit.fixedpoint.batch_norm import BatchNormWeight, batch_norm
from kbit.fixedpoint.convolution import StaticWeight, conv1d, conv2d, dense
from kbit.fixedpoint.dyadic import Dyadic
from kbit.fixedpoint.fixed import Fixed, FixedType
from kbit.fixedpoint.matmul import matmul
from kbit.fixedpoint.pooling import average_pool2d, max_pool2d
from kbit.fixedpoint.softmax import softmax
from kbit.fixedpoint.windows import Window


def rescaled() -> Found:
    for kind in types():
        for to in types():
            x = some(kind, 300)
            real = in_units(x.value, to)
            yield rescale.rescale(x, to).centred, real, 0.5 + real.abs() * 2.0**-30


def added() -> Found:
    for first in types():
        for second in types():
            x, y = some(first, 100), some(second, 100)
            to = FixedType(Dyadic.of((first.scale.value * first.high + second.scale.value * second.high) / 32767), 16)
            bound = 0.5 + 2.0**-8 + (x.value.abs() + y.value.abs()) / to.scale.value * 2.0**-30
            yield rescale.add(x, y, to).centred, in_units(x.value + y.value, to), bound


def concatenated() -> Found:
    for kind in types():
        x, y, to = some(kind, 3, 40), some(FixedType(Dyadic.of(0.11), 8), 3, 20), FixedType(Dyadic.of(0.11), 8)
        yield rescale.concatenate([x, y], to).centred, in_units(torch.cat([x.value, y.value], 1), to), 0.5 + 2.0**-20


def multiplied() -> Found:
    for kind in types():
        for n in (1, 65, 4000):
            x, y = some(kind, 2, 3, n), some(FixedType(Dyadic.of(0.4), 8, 3), n, 4)
            real = x.value @ y.value
            to = FixedType(Dyadic.of(max(1e-3, float(real.abs().max())) / 32000), 16)
            expected = in_units(real, to)
            yield matmul(x, y, to).centred, expected, 0.5 + expected.abs() * (2.0**-30 if kind.k <= 8 else UNIT)


def convolved(line: bool) -> Found:
    """Against torch's convolution of the values that the integer weights and biases stand for."""
    for k in KS:
        for zero, groups, stride, dilation in ((0, 1, 1, 1), (-128, 2, 2, 1), (7, 1, 1, 2), (3, 4, 1, 1)):
            kind = FixedType(Dyadic.of(0.02), 8, zero)
            x = some(kind, 2, 4, 1 if line else 11, 13)
            kernel = (1, 3) if line else (3, 2)
            weight, w, b, to = static(kind, k, 8, (4 // groups, *kernel), x.type.reach)
            padding = (0, 1) if line else (1, 1)
            if line:
                y = conv1d(Fixed(x.q[:, :, 0], kind), weight, 3, stride, 1, dilation, groups).centred[:, :, None]
                real = functional.conv2d(x.value, w, b, (1, stride), padding, (1, dilation), groups)
            else:
                window = Window(kernel, (stride, stride), padding, (dilation, dilation))
                y, real = conv2d(x, weight, window, groups).centred, functional.conv2d(x.value, w, b, stride, 1, dilation, groups)
            expected = in_units(real, to)
            yield y, expected, 0.5 + real.abs() / to.scale.value * UNIT + 1e-6


def connected() -> Found:
    for k in KS:
        for zero in (0, -128, 7):
            kind = FixedType(Dyadic.of(0.02), 8, zero)
            x = some(kind, 20, 130)
            weight, w, b, to = static(kind, k, 9, (130,), 300)
            real = functional.linear(x.value, w, b)
            yield dense(x, weight).centred, in_units(real, to), 0.5 + real.abs() / to.scale.value * UNIT + 1e-6


def static(x: FixedType, k: int, n_out: int, n_in: tuple[int, ...], reach: int) -> tuple[StaticWeight, Tensor, Tensor, FixedType]:
    """A layer's integers, and the floats that they stand for before the multiplier is rounded."""
    w, b = normals(n_out, *n_in), normals(n_out)
    peak = w.flatten(1).abs().amax(1)
    codes = (w.flatten(1) / peak[:, None] * (2 ** (k - 1) - 1)).round()
    unit = peak / (2 ** (k - 1) - 1)
    to = FixedType(Dyadic.of(float(unit.max()) * x.scale.value * reach * 2 ** (k - 2) / 6000), 16)
    scale = Dyadic.of(unit * x.scale.value / to.scale.value)
    bias = (b / unit / x.scale.value).round()
    weight = StaticWeight(
        codes.to(torch.int8), scale.multiplier, scale.shift, bias.long() - x.zero * codes.long().sum(-1), x, to,  # type: ignore[arg-type]
    )  # fmt: skip
    return weight, (codes * unit[:, None]).view(w.shape), bias * unit * x.scale.value, to


def normed_batches() -> Found:
    norm = torch.nn.BatchNorm2d(5).double().eval()
    norm.running_mean, norm.running_var = normals(5), normals(5).abs() * 2
    norm.weight.data, norm.bias.data = normals(5), normals(5)
    factor = ((norm.running_var + norm.eps).rsqrt() * norm.weight.detach()).view(-1, 1, 1)  # type: ignore[operator]
    for kind in types():
        x, to = some(kind, 2, 5, 6, 6), FixedType(Dyadic.of(kind.scale.value * 2.0 ** (kind.k - 12)), 16)
        real = norm(x.value).detach()
        bound = 0.5 + 2.0**-39 + (x.value * factor).abs() / to.scale.value * UNIT
        yield batch_norm(x, BatchNormWeight.of(norm, kind, to)).centred, in_units(real, to), bound


def pooled(largest: bool) -> Found:
    for kind in types():
        x = some(kind, 2, 3, 9, 8)
        for kernel, stride, padding in (((2, 2), (2, 2), (0, 0)), ((3, 2), (1, 2), (1, 1)), ((9, 8), (1, 1), (0, 0))):
            window = Window(kernel, stride, padding)
            if largest:
                yield max_pool2d(x, window).centred, functional.max_pool2d(x.centred.double(), kernel, stride, padding), 0.0
            else:
                real = functional.avg_pool2d(x.centred.double(), kernel, stride, padding)
                yield average_pool2d(x, window).centred, real, 0.5 + 1e-9


def every_code(kind: FixedType) -> Fixed:
    return Fixed(torch.arange(kind.low, kind.high + 1).to(torch.int8 if kind.k <= 8 else torch.int16), kind)


def activated(
    operator: Callable[[Fixed, FixedType], Fixed], real: Callable[[Tensor], Tensor], units: float, *, by_size: bool = False
) -> Found:
    """bound: 1/2 + units * 2^-15 of the value 1, or of x."""
    for kind in types():
        x = every_code(kind)
        for to in (FixedType(Dyadic.of(2.0**-7), 8), FixedType(Dyadic.of(1 / 255), 8, -128), FixedType(Dyadic.of(2.0**-13), 16)):
            bound = 0.5 + units * UNIT * (x.value.abs() if by_size else 1) / to.scale.value + 1e-4
            yield operator(x, to).centred, in_units(real(x.value), to), bound


def rectified() -> Found:
    for kind in types():
        x = every_code(kind)
        yield activations.relu(x).centred, x.centred.clamp(min=0), 0.0


def exponentials() -> Found:
    for kind in types():
        x = every_code(kind)
        for most in (2.0**-7, 1.0, 300.0, 2.0**20):
            for k in (8, 16):
                to = FixedType(Dyadic.of(most / 2**k), k)
                real = x.value.exp()
                bound = 0.5 + (real * (2.0**-17 + 2.0**-20) + most * 2.0**-28) / to.scale.value
                yield activations.exp(x, to).centred, in_units(real, to), bound


def probabilities() -> Found:
    for kind in types():
        for n in (1, 17, 32768) if kind.k == 8 else (17,):
            x = some(kind, 4, n)
            x.q[1] = kind.low
            x.q[2] = kind.low
            x.q[2, 0] = kind.high
            real = x.value.softmax(-1) * 2**16
            bound = 0.5 + real * (2.0**-16 + n * 2.0**-30) + 2.0**-13
            yield softmax(x).centred, real.clamp(max=2**16 - 1), bound


OPERATORS: dict[str, Operator] = {
    "rescale": ("2..16", "1/2 + 2^-30 \\|y\\|", rescaled),
    "add": ("16", "1/2 + 2^-8 + 2^-30 (\\|x\\| + \\|y\\|)", added),
    "concatenate": ("8", "1/2", concatenated),
    "matmul": ("16", "1/2 + 2^-30 \\|y\\| (2^-15 for 16 bits)", multiplied),
    "dense": ("16", "1/2 + 2^-15 \\|y\\|", connected),
    "conv2d": ("16", "1/2 + 2^-15 \\|y\\|", lambda: convolved(False)),
    "conv1d": ("16", "1/2 + 2^-15 \\|y\\|", lambda: convolved(True)),
    "batch_norm": ("16", "1/2 + 2^-15 \\|x factor\\|", normed_batches),
    "max_pool2d": ("2..16", "exact", lambda: pooled(True)),
    "average_pool2d": ("2..16", "1/2", lambda: pooled(False)),
    "relu": ("2..16", "exact", rectified),
    "sigmoid": ("8, 16", "1/2 + 1.5 2^-15 / scale", lambda: activated(activations.sigmoid, torch.sigmoid, 1.5)),
    "tanh": ("8, 16", "1/2 + 3 2^-15 / scale", lambda: activated(activations.tanh, torch.tanh, 3)),
    "silu": ("8, 16", "1/2 + 1.5 2^-15 \\|x\\| / scale", lambda: activated(activations.silu, functional.silu, 1.5, by_size=True)),
    "gelu": ("8, 16", "1/2 + 1.6 2^-15 \\|x\\| / scale", lambda: activated(activations.gelu, functional.gelu, 1.6, by_size=True)),
    "exp": ("8, 16", "1/2 + (2^-17 + 2^-20) y + 2^-28 of the largest", exponentials),
    "softmax": ("16", "1/2 + y (2^-16 + n 2^-30) + 2^-13", probabilities),
}
