"""The worst errors of the integer operators against float64, beside their stated bounds: a table in docs/fixedpoint.md.

Random inputs and extremes (ends of the types, rows of zeros, of equal numbers, with one far ahead), the same on every run. Errors
are in units of the result's integers. With --check nothing is written, and the exit code is 1 where the page is out of date.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from kbit.fixedpoint import activations, embedding, gates, rescale
from kbit.fixedpoint.attention import ScoreScale, attention, causal
from kbit.fixedpoint.batch_norm import BatchNormWeight, batch_norm
from kbit.fixedpoint.convolution import StaticWeight, conv1d, conv2d, dense
from kbit.fixedpoint.dyadic import Dyadic
from kbit.fixedpoint.exponent import exp2_neg
from kbit.fixedpoint.fixed import Fixed, FixedType
from kbit.fixedpoint.linear import LinearWeight, linear, row_scales
from kbit.fixedpoint.matmul import matmul
from kbit.fixedpoint.norms import NormWeight, layer_norm, rms_norm
from kbit.fixedpoint.pooling import average_pool2d, max_pool2d
from kbit.fixedpoint.quantize import quantize_rows, quantize_static
from kbit.fixedpoint.rotary import frequencies, rotary_tables, rotate
from kbit.fixedpoint.softmax import softmax
from kbit.fixedpoint.tables import CURVES, curve
from kbit.fixedpoint.windows import Window

PAGE = Path(__file__).resolve().parents[1] / "docs" / "fixedpoint.md"
KS = (2, 3, 4, 5, 6, 7, 8)
UNIT = 2.0**-15
Found = Iterator[tuple[Tensor, Tensor, Tensor | float]]  # result, float64 result in its units, bound

GENERATOR = torch.Generator()


def integers(low: int, high: int, *shape: int) -> Tensor:
    """Evenly from low .. high, both ends among them."""
    x = torch.randint(low, high + 1, shape, generator=GENERATOR)
    x.view(-1)[:2] = torch.tensor([low, high])[: x.numel()]
    return x


def normals(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


def rows_of(width: int, n: int) -> Tensor:
    """(8, n) integers of `width` bits and a sign: random, zeros, all equal, one far ahead, a large mean."""
    x = integers(-(2**width), 2**width - 1, 8, n)
    x[1], x[2] = 0, x[2, 0]
    x[3, 1:] //= 2 ** (width // 2)
    x[4] = x[4] // 4 + 2**width // 2
    return x


def some(kind: FixedType, *shape: int) -> Fixed:
    return Fixed(integers(kind.low, kind.high, *shape).to(torch.int8 if kind.k <= 8 else torch.int16), kind)


def in_units(real: Tensor, to: FixedType) -> Tensor:
    return (real / to.scale.value).clamp(to.low - to.zero, to.high - to.zero)


def types() -> Iterator[FixedType]:
    """Of every k, symmetric and affine, coarse and fine."""
    for k in (*KS, 16):
        for scale, zero in ((0.03, 0), (1.7, 1), (2.0**-6, -2)):
            yield FixedType(Dyadic.of(scale * 2.0 ** (8 - min(k, 12))), k, zero)


def quantized() -> Found:
    for k in KS:
        for width in (1, 8, 14, 15, 20, 30, 31):
            x = rows_of(width, 65).clamp(max=2**31 - 1)
            q, a, e = quantize_rows(x.to(torch.int16 if width < 15 else torch.int32), k)
            yield q, x / (a.double() * 2.0**e / (2 ** (k - 1) - 1)).clamp(min=1e-9), 0.512


def quantized_statically() -> Found:
    for k in KS:
        for a, e in ((2**15 - 1, 0), (2**14, 3), (20000, 16)):
            x = integers(-a * 2**e, a * 2**e, 2000).clamp(max=2**31 - 1)
            yield quantize_static(x.int(), a, e, k), x / (a * 2.0**e / (2 ** (k - 1) - 1)), 0.512


def linear_layers() -> Found:
    for n_in, blocks in ((7, False), (96, True), (700, False)):
        codes = integers(-127, 127, 16, n_in)
        m = integers(1, 60, 16, -(-n_in // 32)) if blocks else torch.ones(16, 1, dtype=torch.int64)
        unit = normals(16).abs() / 1000
        w = codes * m.repeat_interleave(32 if blocks else n_in, 1)[:, :n_in]
        rows = quantize_rows(integers(-(2**14), 2**14, 300, n_in).to(torch.int16), 8)
        real = (rows.q.double() * rows.a * 2.0**-11 / 127) @ (w * unit[:, None]).T
        y_scale = float(real.abs().max()) / 32000
        scales = row_scales(unit, 2.0**-11, 8, y_scale)
        weight = LinearWeight(codes.to(torch.int8), m.to(torch.uint8) if blocks else None, 32 if blocks else n_in, *scales)
        yield linear(rows, weight), real / y_scale, 0.5 + real.abs() / y_scale * UNIT


def embedded() -> Found:
    for n_in in (7, 96, 700):
        codes, m = integers(-127, 127, 16, n_in), integers(1, 60, 16, -(-n_in // 32))
        scale = Dyadic.of(normals(16).abs() * 100)
        parts = scale.multiplier.to(torch.int16), scale.shift.to(torch.int8)  # type: ignore[union-attr]
        real = codes * m.repeat_interleave(32, 1)[:, :n_in] * scale.value[:, None]  # type: ignore[index]
        yield embedding.embed(torch.arange(16), LinearWeight(codes.to(torch.int8), m.to(torch.uint8), 32, *parts)), real, 0.5


def residual_sums() -> Found:
    x, y = integers(-(2**31), 2**31 - 1, 500), integers(-(2**31), 2**31 - 1, 500)
    yield embedding.add(x, y), (x + y).clamp(-(2**31), 2**31 - 1), 0.0


def norms(centred: bool) -> Found:
    for n in (1, 63, 576, 4096):
        for width in (0, 3, 8, 16, 24, 31):
            x = rows_of(width, n).clamp(max=2**31 - 1)
            gamma, bias = torch.rand(n, generator=GENERATOR, dtype=torch.float64) * 2 + 0.1, normals(n) if centred else None
            x_scale, y_scale, eps = 2.0**-16, 2.0**-9, 1e-5
            weight = NormWeight.of(gamma, bias, eps, x_scale, y_scale, centred=centred)
            real = x.double() * x_scale
            real = real - real.mean(-1, keepdim=True) if centred else real
            u = real / (real.square().sum(-1, keepdim=True) + n * eps).sqrt()
            g = gamma * n**0.5 / y_scale
            bound = 0.5 + g * 2.0**-21 + u.abs() * (2.0 ** (38 - weight.shift) / 2 + (n**0.5 + 3) * 2.0**-22 * g) + centred * 0.5
            y = (layer_norm if centred else rms_norm)(x.int(), weight)
            yield y, (u * g + (0 if bias is None else bias / y_scale)).clamp(-32768, 32767), bound


def rotated() -> Found:
    inverse = 10000.0 ** -(torch.arange(32, dtype=torch.float64) / 32)
    x = integers(-(2**15), 2**15 - 1, 32768, 64)
    cos, sin = rotary_tables(frequencies(inverse), len(x))
    angle = torch.arange(len(x), dtype=torch.float64)[:, None] * inverse
    a, b = x[:, :32], x[:, 32:]
    real = torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1).clamp(-32768, 32767)
    bound = 0.5 + (a.abs() + b.abs()) * (0.5 + 2.0**-13) * 2.0**-14
    yield rotate(x.to(torch.int16), cos, sin), real, torch.cat([bound, bound], -1)


def attended() -> Found:
    for n, scaling in ((40, 1e-4), (40, 0.02), (40, 0.125), (40, 2.0), (32768, 0.0), (32768, 0.25)):
        asked = 40 if n == 40 else 1
        q, k, v = (
            quantize_rows(integers(-(2**15), 2**15 - 1, *shape).to(torch.int16), 8)
            for shape in ((1, asked, 4, 32), (1, n, 2, 32), (1, n, 2, 32))
        )
        scale = ScoreScale.of(scaling, 2.0**-11, 2.0**-11)
        visible = causal(asked, n)
        keys, values = ((part.q.double() * part.a).repeat_interleave(2, 2) for part in (k, v))
        s = torch.einsum("bqhd,bthd->bhqt", q.q.double() * q.a, keys) * scale.multiplier * 2.0 ** -(scale.shift + 22)
        p = (s * torch.log(torch.tensor(2.0, dtype=torch.float64))).masked_fill(~visible, -torch.inf).softmax(-1)
        real = torch.einsum("bhqt,bthd->bqhd", p, values) / 128
        c = (q.a * scale.multiplier / 64).clamp(min=1)
        lost = float((s.abs() * 2**16 / c.permute(0, 2, 1, 3)).max()) * 2.0**-16
        yield attention(q, k, v, scale, visible), real, 0.5 + int(v.a.max()) * (2.0**-15 + 2.0**-19 + n * 2.0**-29 + lost)


def powers() -> Found:
    d = torch.cat([torch.arange(3 * 2**16), integers(0, 40 * 2**16, 5000), torch.tensor([2**32])])
    real = torch.exp2(30 - d.double() / 2**16)
    yield exp2_neg(d), real, 1 + real * 2.0**-20


REAL_CURVES: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": torch.sigmoid,
    "gelu": torch.special.ndtr,
    "gelu_tanh": lambda x: (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2,
    "gelu_quick": lambda x: torch.sigmoid(1.702 * x),
}


def gated(with_other: bool) -> Found:
    g = torch.arange(-(2**15), 2**15)
    u = integers(-(2**15), 2**15 - 1, len(g))
    for name in CURVES:
        for places in (0, 4, 8, 11, 15):
            s = REAL_CURVES[name](g.double() / 2**places) * 2**15
            if with_other:
                y = gates.gate(g.short(), places, u.short(), curve(name))
                yield y, g * s / 2**15 * u, u.abs() * (0.5 + 1.3 * g.abs() * UNIT)
            else:
                yield gates.activate(g.short(), places, curve(name)), g * s, 1.3 * g.abs()


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


# Operator -> width of the result, the bound as its docstring states it, and what measures it.
OPERATORS: dict[str, tuple[str, str, Callable[[], Found]]] = {
    "quantize_rows": ("2..8", "0.512", quantized),
    "quantize_static": ("2..8", "0.512, a >= 2^14", quantized_statically),
    "linear": ("16, 32", "1/2 + 2^-15 \\|y\\|", linear_layers),
    "embed": ("32", "1/2", embedded),
    "add (residual)": ("32", "exact", residual_sums),
    "rms_norm": ("16", "1/2 + 2^-21 γ + \\|u\\| (1/2 + (√n + 3) 2^-22 γ)", lambda: norms(False)),
    "layer_norm": ("16", "the same + 1/2", lambda: norms(True)),
    "rotate": ("16", "1/2 + (\\|x1\\| + \\|x2\\|) 2^-15", rotated),
    "attention": ("16", "1/2 + V (2^-15 + 2^-19 + n 2^-29 + ...)", attended),
    "exp2_neg": ("30", "1 + 2^-20 y", powers),
    "activate": ("32", "1.3 \\|g\\|", lambda: gated(False)),
    "gate": ("32", "\\|u\\| (1/2 + 1.3 \\|g\\| 2^-15)", lambda: gated(True)),
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


@dataclass(frozen=True)
class Error:
    """What one operator did: how many results, its worst error, the bound there, and the largest share of a bound."""

    results: int
    worst: float
    bound: float
    share: float


def measure(find: Callable[[], Found]) -> Error:
    """The errors of everything that `find` tries."""
    GENERATOR.manual_seed(0)
    results, worst, at, share = 0, 0.0, 0.0, 0.0
    for y, real, bound in find():
        error = (y.double() - real.double()).abs().flatten()
        bounds = torch.as_tensor(bound, dtype=torch.float64).expand_as(y).flatten()
        results += len(error)
        i = int(error.argmax())
        if at == 0 or float(error[i]) > worst:
            worst, at = float(error[i]), float(bounds[i])
        share = max(share, float((error / bounds.clamp(min=1e-300)).max()))
    return Error(results, worst, at, share)


def table() -> str:
    """The table of docs/fixedpoint.md."""
    lines = [
        "| operator | bits of the result | bound | results | worst error | bound there | nearest to a bound |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for name, (width, bound, find) in OPERATORS.items():
        e = measure(find)
        share = "-" if e.worst == 0 else f"{e.share:.0%}"
        lines.append(f"| `{name}` | {width} | {bound} | {e.results} | {e.worst:.3g} | {e.bound:.3g} | {share} |")
    return "\n".join(lines)


def page() -> str:
    """docs/fixedpoint.md with the table of today."""
    text = PAGE.read_text(encoding="utf-8")
    return re.sub(
        r"(<!-- errors: begin -->\n).*?(<!-- errors: end -->)", lambda m: f"{m[1]}{table()}\n\n{m[2]}", text, flags=re.DOTALL
    )


def main() -> None:
    """Write the table, or check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say whether the page is out of date")
    check = parser.parse_args().check
    wanted = page()
    stale = wanted != PAGE.read_text(encoding="utf-8")
    if stale and not check:
        PAGE.write_text(wanted, encoding="utf-8")
    if stale:
        print("docs/fixedpoint.md", "is out of date" if check else "written")
    sys.exit(1 if check and stale else 0)


if __name__ == "__main__":
    main()
