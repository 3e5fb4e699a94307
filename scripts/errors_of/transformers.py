"""The operators of a transformer against float64."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from errors_of.inputs import GENERATOR, KS, UNIT, Found, Operator, integers, normals, rows_of
from kbit.fixedpoint import embedding, gates
from kbit.fixedpoint.attention import ScoreScale, attention, causal
from kbit.fixedpoint.dyadic import Dyadic
from kbit.fixedpoint.exponent import exp2_neg
from kbit.fixedpoint.hadamard import turn
from kbit.fixedpoint.linear import LinearWeight, linear, row_scales
from kbit.fixedpoint.norms import NormWeight, layer_norm, rms_norm
from kbit.fixedpoint.quantize import quantize_rows, quantize_static
from kbit.fixedpoint.rotary import frequencies, rotary_tables, rotate
from kbit.fixedpoint.tables import CURVES, curve


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


def turned() -> Found:
    for width in (2, 64, 1024):
        for shift in (0, 1, 9, 20):
            x = integers(-(2**31), 2**31 - 1, 40, 1024)
            x[:8] //= 2**9
            powers = torch.arange(width)
            signs = powers[:, None] & powers  # an odd number of common ones: -1
            for bit in (8, 4, 2, 1):
                signs = signs ^ (signs >> bit)
            matrix = 1.0 - 2.0 * (signs & 1).double()
            most = 2**30 // width
            real = x.clamp(-most, most).double().view(40, -1, width) @ matrix / 2.0**shift
            yield turn(x.int(), width, shift), real.flatten(1), 0.5


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


OPERATORS: dict[str, Operator] = {
    "quantize_rows": ("2..8", "0.512", quantized),
    "quantize_static": ("2..8", "0.512, a >= 2^14", quantized_statically),
    "turn": ("32", "1/2", turned),
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
}
