"""Random integer programs: small transformers of every kind that the steps can say, tame or with numbers anywhere they may be."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kbit.fixedpoint.attention import ScoreScale
from kbit.fixedpoint.norms import NormWeight
from kbit.fixedpoint.rotary import frequencies, rotary_tables
from kbit.fixedpoint.tables import CURVES, curve, exp2_table
from kbit.formats import Format
from kbit.kernels import FixedDecoder
from kbit.methods import choose
from kbit.models.integer_check import check
from kbit.models.integer_program import Cache, Program, Step
from kbit.packed import PackedTensor, pack
from tests.packed.formats import encoded

KS = range(2, 9)
GRANULARITIES = ("row", "b64-i8", "b32-i8", "b40-i8", "b16-i8", "b128-i8")
X_SCALE, Y_SCALE = 2.0**-12, 2.0**-11  # of the residual stream, of what norms and products give


@dataclass
class Maker:
    """Writes one program. wild: numbers anywhere in their ranges, so that much saturates or vanishes."""

    seed: int
    wild: bool = False
    program: Program = field(default_factory=Program)

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)
        self.generator = torch.Generator().manual_seed(self.seed)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Uniform integers, low .. high."""
        return torch.randint(low, high + 1, shape, generator=self.generator)

    def weight(self, n_out: int, n_in: int, text: str = "") -> PackedTensor:
        """A packed random weight; its format drawn too unless `text` says it."""
        text = text or f"int{self.draw.choice(KS)}-{self.draw.choice(GRANULARITIES)}"
        return pack(encoded(text, (n_out, n_in), seed=self.draw.randrange(2**20)))

    def matrix(self, n_out: int, n_in: int, text: str = "") -> int:
        """The number of a new matrix whose sums of products with 8-bit codes fit."""
        weight = self.weight(n_out, n_in, text)
        assert weight.native.largest_sum() * 127 < 2**31
        return self.program.matrix(f"matrix{len(self.program.weights)}", weight)

    def scales(self, matrix: int, size: int, places: int) -> dict[str, tuple[int, ...]]:
        """A multiplier and a shift a row, which bring numbers of `size` to about 2^places."""
        n_out = self.program.weights[matrix].shape[0]
        if self.wild:
            multiplier, shift = self.integers(0, 2**15 - 1, n_out), self.integers(0, 62, n_out)
        else:
            multiplier = self.integers(2**14, 2**15 - 1, n_out)
            shift = (size.bit_length() + 14 - places + self.integers(-1, 1, n_out)).clamp(0, 62)
        tensor = self.program.tensor
        return {"multiplier": (tensor(multiplier.short()),), "shift": (tensor(shift.to(torch.int8)),)}

    def step(self, op: str, from_: Sequence[int], to: Sequence[int], **operands: object) -> None:
        """One more step."""
        self.program.steps.append(Step(op, tuple(from_), tuple(to), **operands))  # type: ignore[arg-type]

    def norm(self, op: str, from_: int, to: int, width: int) -> None:
        """RMSNorm or LayerNorm with random weights."""
        gamma, bias = torch.rand(width, generator=self.generator) + 0.5, None
        if op == "layer_norm" or self.draw.random() < 0.3:
            bias = torch.randn(width, generator=self.generator)
        w = NormWeight.of(gamma, bias, 1e-5, X_SCALE, Y_SCALE, centred=op == "layer_norm")
        numbers = (width, w.shift, w.epsilon, w.least)
        if self.wild and self.draw.random() < 0.6:
            numbers = (
                width,
                self.draw.randint(-40, 80),
                self.draw.randrange(2 ** self.draw.randint(0, 61)),
                self.draw.randint(-21, 9),
            )
        bias_of = () if w.bias is None else (self.program.tensor(w.bias),)
        self.step(op, [from_], [to], tensor=(self.program.tensor(w.gamma),), bias=bias_of, numbers=numbers)

    def quantize(self, from_: int, to: int, turned: bool = False) -> None:
        """Codes of 8 or fewer bits, of the row's own step or of a given one, after a Hadamard transform or without."""
        width = self.program.buffers[from_].width
        k = self.draw.choice((8, 8, 8, 4, self.draw.randint(2, 8)))
        powers = [2**p for p in range(1, 10) if width % 2**p == 0]
        turn = self.draw.choice(powers) if powers and (turned or self.wild) else 0
        a, e = (
            (self.draw.randint(1, 2**15 - 1), self.draw.randint(0, 31)) if self.wild else (self.draw.randint(2**14, 2**15 - 1), 2)
        )
        if self.draw.random() < 0.6:
            a = e = 0
        self.step("quantize", [from_], [to], numbers=(k, a, e, turn))

    def hadamard(self, buffer: int) -> None:
        """The transform of 32 bits in place."""
        powers = [2**p for p in range(10) if self.program.buffers[buffer].width % 2**p == 0]
        turn = self.draw.choice(powers)
        shift = self.draw.randint(0, 31) if self.wild else (turn.bit_length() - 1) // 2
        self.step("hadamard", [buffer], [], numbers=(turn, shift))

    def linear(self, from_: int, *to: int, biased: bool = False) -> None:
        """Up to three products of one input."""
        buffers = self.program.buffers
        operands: dict[str, tuple[int, ...]] = {"matrix": (), "multiplier": (), "shift": (), "bias": ()}
        for buffer in to:
            matrix = self.matrix(buffers[buffer].width, buffers[from_].width)
            size = self.program.weights[matrix].native.largest_sum() * 127 * 2**12
            places = 15 if buffers[buffer].kind == "int16" else 18
            made = {"matrix": (matrix,), **self.scales(matrix, size, places)}
            bias = self.integers(-(2**10), 2**10, buffers[buffer].width) if biased else None
            if biased and self.wild:
                bias = self.integers(-(2**31), 2**31 - 1, buffers[buffer].width) >> self.draw.randint(0, 31)
            made["bias"] = (self.program.tensor(None if bias is None else bias.int()),)
            operands = {name: numbers + made[name] for name, numbers in operands.items()}
        if not biased:
            operands.pop("bias")
        self.step("linear", [from_], to, **operands)

    # ---- programs of one operator: numbers that are given, and a look at what becomes of them
    def given(self, x: Tensor) -> int:
        """A buffer that holds x, int32 (n, width), where n tokens 0 are read: three tables of positions, for the bits of x."""
        width, made = x.shape[1], self.program
        made.positions = len(x)
        made.cache = Cache(1, 1, 1, 8) if made.cache.layers == 0 else made.cache
        nothing = made.tensor(torch.zeros(1, dtype=torch.int16)), made.tensor(torch.zeros(1, dtype=torch.int8))
        buffer = made.buffer(width, "int32")
        self.step(
            "embed", [], [buffer], matrix=(self.matrix(1, width, "int2-row"),), multiplier=nothing[:1], shift=nothing[1:]
        )  # fmt: skip
        for part, left in ((x >> 16, 16), ((x >> 1) & 0x7FFF, 1), (x & 1, 0)):
            self.step("positions", [], [buffer], tensor=(made.tensor(part.short()),), numbers=(left,))
        return buffer

    def given16(self, x: Tensor) -> int:
        """A buffer that holds x, int16 (n, width): products with zeros, and x in the bias, for a single row; else by a norm.

        Of several rows only what RMSNorm makes of x * 2^8 is to be had; it depends on all of a row.
        """
        made, (n, width) = self.program, x.shape
        buffer = made.buffer(width, "int16")
        if n == 1:
            rows = made.buffer(1, "rows")
            self.step("quantize", [self.given(torch.zeros(1, 1, dtype=torch.int32))], [rows], numbers=(8, 0, 0, 0))
            matrix = self.matrix(width, 1, "int2-row")
            zeros = made.tensor(torch.zeros(width, dtype=torch.int16)), made.tensor(torch.zeros(width, dtype=torch.int8))
            bias = made.tensor(x[0].int())
            self.step(
                "linear", [rows], [buffer], matrix=(matrix,), multiplier=zeros[:1], shift=zeros[1:], bias=(bias,)
            )  # fmt: skip
        else:
            gamma = made.tensor(torch.full((width,), 2**14, dtype=torch.int16))
            self.step("rms_norm", [self.given(x.int() << 8)], [buffer], tensor=(gamma,), numbers=(width, 38 - 3, 1, -21))
        return buffer

    def shown(self, buffer: int) -> Program:
        """The finished program, whose logits tell what the buffer holds."""
        made = self.program
        width, kind = made.buffers[buffer].width, made.buffers[buffer].kind
        if kind == "int16":  # x * S(x / 2^15): other x give other numbers
            whole = made.buffer(width, "int32")
            self.step("activate", [buffer], [whole], numbers=(15,), table="silu")
        if kind == "rows":  # q * 127 * a * 2^e / 2^14
            whole = made.buffer(width, "int32")
            one = made.matrix("one", pack(choose("rtn", torch.eye(width), Format.parse("int8-row"))))
            scales = torch.full((width,), 2**14, dtype=torch.int16), torch.full((width,), 28, dtype=torch.int8)
            self.step(
                "linear", [buffer], [whole], matrix=(one,), multiplier=(made.tensor(scales[0]),), shift=(made.tensor(scales[1]),)
            )  # fmt: skip
        self.step("last", [buffer if kind == "int32" else whole], [made.buffer(width, "int32")])
        check(made)
        return made


def program(seed: int, wild: bool = False) -> Program:
    """A random transformer: of any size, with whatever layers of the known kinds have or have not."""
    make = Maker(seed, wild)
    draw, made = make.draw, make.program
    head, kv_heads, share = draw.choice((2, 4, 6, 10, 16, 32, 34, 64)), draw.randint(1, 2), draw.randint(1, 3)
    width = draw.choice((7, 16, 24, 32, 48, 64, 96, 130))
    inner, vocabulary = draw.choice((9, 16, 40, 64, 128, 172)), draw.choice((5, 33, 100))
    layers, kv_bits = draw.randint(1, 2), draw.choice((8, 8, 4, 2))
    made.positions = 40
    made.cache = Cache(layers, kv_heads, head, kv_bits)
    norm, gated, rotary, biased = (
        draw.choice(("rms_norm", "layer_norm")), draw.random() < 0.6, draw.random() < 0.7, draw.random() < 0.5,
    )  # fmt: skip
    q_width, kv_width = head * kv_heads * share, head * kv_heads
    hidden, out = (made.buffer(width, "int32") for _ in range(2))
    normed, q, mixed = made.buffer(width, "int16"), made.buffer(q_width, "int16"), made.buffer(q_width, "int16")
    k, v = (made.buffer(kv_width, "int16") for _ in range(2))
    gate, up, active = made.buffer(inner, "int16"), made.buffer(inner, "int16"), made.buffer(inner, "int32")
    rows = {size: made.buffer(size, "rows") for size in {width, q_width, inner}}
    turned = head if draw.random() < 0.6 else 2 * draw.randint(1, head // 2)
    cos, sin = rotary_tables(frequencies(10000.0 ** -(torch.arange(turned // 2) * 2 / turned)), made.positions)
    tables = made.tensor(cos), made.tensor(sin)

    embedding = make.matrix(vocabulary, width)
    size = make.program.weights[embedding].native.largest_sum() // width
    make.step("embed", [], [hidden], matrix=(embedding,), **make.scales(embedding, size, 12))
    if draw.random() < 0.5:
        make.hadamard(hidden)
    if not rotary:
        learned = make.integers(-(2**15), 2**15 - 1, made.positions, width)
        left = draw.randint(0, 16) if wild else 0
        make.step("positions", [], [hidden], tensor=(made.tensor(learned.short()),), numbers=(left,))
    for layer in range(layers):
        make.norm(norm, hidden, normed, width)
        make.quantize(normed, rows[width])
        make.linear(rows[width], q, k, v, biased=biased)
        if rotary:
            if draw.random() < 0.3:
                make.norm("rms_norm", q, q, head)
                make.norm("rms_norm", k, k, head)
            for x in (q, k):
                make.step("rotate", [x], [], tensor=tables, numbers=(head, turned))
        make.step("store", [k, v], [], numbers=(layer, kv_bits))
        scale = ScoreScale.of(head**-0.5, Y_SCALE, Y_SCALE)
        numbers = (draw.randrange(2**15), draw.randint(0, 62)) if wild else (scale.multiplier, scale.shift)
        make.step("attend", [q], [mixed], numbers=(layer, *numbers, kv_bits))
        make.quantize(mixed, rows[q_width])
        make.linear(rows[q_width], out, biased=biased)
        make.step("add", [out], [hidden])
        make.norm(norm, hidden, normed, width)
        make.quantize(normed, rows[width])
        name, places = draw.choice([*CURVES]), draw.randint(0, 15) if wild else draw.choice((3, 6, 11))
        if gated:
            make.linear(rows[width], gate, up)
            make.step("gate", [gate, up], [active], numbers=(places,), table=name)
        else:
            make.linear(rows[width], gate, biased=biased)
            make.step("activate", [gate], [active], numbers=(places,), table=name)
        make.quantize(active, rows[inner], turned=draw.random() < 0.7)
        make.linear(rows[inner], out, biased=biased)
        make.step("add", [out], [hidden])
    make.step("last", [hidden], [out])
    make.norm(norm, out, normed, width)
    make.quantize(normed, rows[width])
    make.linear(rows[width], made.buffer(vocabulary, "int32"))
    check(made)
    return made


def native(made: Program, capacity: int | None = None) -> FixedDecoder:
    """The kernels' decoder of a program."""
    return FixedDecoder(
        steps=made.steps,
        buffers=[(buffer.width, buffer.kind) for buffer in made.buffers],
        matrices=[weight.native for weight in made.weights],
        tensors=made.tensors,
        curves={name: curve(name) for name in CURVES},
        exp2=exp2_table(),
        cache=(made.cache.layers, made.cache.kv_heads, made.cache.head, made.cache.k),
        positions=made.positions,
        capacity=capacity,
    )


def ids_of(made: Program, n: int, seed: int = 0) -> Tensor:
    """Random tokens, int64 (n,)."""
    return torch.randint(made.vocabulary, (n,), generator=torch.Generator().manual_seed(seed))
