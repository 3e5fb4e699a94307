"""From a blueprint with the ranges of its values to an integer program: every scale becomes dyadic here, once.

A place of 16 bits has a scale 2^-places, from the largest value that calibration saw there and some headroom; the residual stream
has 32 bits and one scale; products of 16-bit values are exact in 32. What is multiplied by matrices has a step a row, or a
calibrated one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kbit.errors import FixedPointError
from kbit.fixedpoint.attention import ScoreScale, check_sizes
from kbit.fixedpoint.dyadic import Dyadic
from kbit.fixedpoint.hadamard import SUM
from kbit.fixedpoint.linear import row_scales
from kbit.fixedpoint.norms import NormWeight
from kbit.fixedpoint.quantize import MANTISSA
from kbit.fixedpoint.rotary import frequencies, rotary_tables
from kbit.fixedpoint.rounding import largest
from kbit.fixedpoint.tables import UNIT
from kbit.formats.scales import SECOND_LEVEL_STEPS
from kbit.models.integer_blueprint import Attention, Blueprint, Layer, Linear, Norm
from kbit.models.integer_check import check
from kbit.models.integer_program import Cache, Program, Step
from kbit.packed import PackedTensor
from kbit.packed.tiles import from_tiles

NORM_ROOM = 2.0  # times the largest value seen: the output of a norm is bounded by its weight, so little is beyond
ROOM = 4.0  # of other values of 16 bits
RESIDUAL_ROOM = 16.0
LOGIT_BITS = 22  # of the largest logit seen: with twice the room they are exact in float32
MOST_PLACES = 15  # of a value that goes through an activation
FINEST = 40  # places of values that are all but 0
TABLE_BITS = 15  # of learned positions, and a sign
MULTIPLIER = 15  # bits
FINER = 4  # places that what is embedded has beside those that a transform's roundings take

Pack = Callable[[Linear], PackedTensor]


@dataclass(frozen=True)
class Ranges:
    """What calibration found. largest: the largest |value| of each place. clips: where steps are static, the |value| at which the
    codes of each multiplied place end; None: a step for each row, found as it runs.
    """

    largest: Mapping[str, float]
    clips: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Bits:
    """Of stored values: what the matrices of layers multiply, what the output head multiplies, and cached keys and values."""

    activations: int = 8
    head: int = 8
    cache: int = 8


@dataclass(frozen=True)
class Origin:
    """What a step of a program was made of.

    parts: of the blueprint, the matrices or the norm that it holds. units: what 1 of each of its results stands for, where that
    was chosen for it.
    """

    parts: tuple[Linear | Norm, ...] = ()
    units: tuple[float, ...] = ()


def lower(blueprint: Blueprint, ranges: Ranges, pack: Pack, bits: Bits | None = None) -> Program:
    """The program of a blueprint. pack: a matrix as it is stored, in an integer format.

    Raises FixedPointError, naming the place, where a range has no width or a scale underflows.
    """
    return lower_with_origins(blueprint, ranges, pack, bits)[0]


def lower_with_origins(
    blueprint: Blueprint, ranges: Ranges, pack: Pack, bits: Bits | None = None
) -> tuple[Program, tuple[Origin, ...]]:
    """The same, and for each step what it was made of: what training changes, and lowers again."""
    lowering = _Lowering(blueprint, ranges, pack, bits or Bits())
    lowering.run()
    check(lowering.program)
    return lowering.program, tuple(lowering.origins)


class _Lowering:
    """The work of `lower`: buffers by name, and the scale of what they hold."""

    def __init__(self, blueprint: Blueprint, ranges: Ranges, pack: Pack, bits: Bits) -> None:
        self.blueprint, self.ranges, self.pack, self.bits = blueprint, ranges, pack, bits
        self.program = Program(
            cache=Cache(len(blueprint.layers), blueprint.kv_heads, blueprint.head_dim, bits.cache), positions=blueprint.positions
        )
        check_sizes(blueprint.head_dim, blueprint.positions, blueprint.heads, blueprint.kv_heads)
        self.buffers: dict[str, int] = {}
        self.origins: list[Origin] = []
        self.residual, self.embedded = self.residual_places()

    def run(self) -> None:
        """All steps, from token ids to logits."""
        blueprint, add = self.blueprint, self.add
        n_embed = blueprint.embedding.weight.shape[1]
        x = self.buffer("x", n_embed, "int32")
        packed, matrix = self.matrix(blueprint.embedding)
        turned = blueprint.turned_back
        unit = 2.0**-self.embedded * max(turned, 1) ** 0.5
        scale = Dyadic.of(unit_of(packed) / unit, what=blueprint.embedding.name)
        self.check_underflow(blueprint.embedding, torch.as_tensor(scale.multiplier))
        multiplier, shift = self.small(scale.multiplier), self.tiny(scale.shift)
        origin = Origin((blueprint.embedding,), (unit,))
        add("embed", to=[x], origin=origin, matrix=[matrix], multiplier=[multiplier], shift=[shift])
        if turned:
            add("hadamard", [x], origin=Origin((), (2.0**-self.residual,)), numbers=[turned, self.embedded - self.residual])
        if blueprint.table is not None:
            self.learned_positions(blueprint.table, x)
        turns = self.rotations()
        for index, layer in enumerate(blueprint.layers):
            self.layer(index, layer, x, turns)
        last = self.buffer("last", n_embed, "int32")
        add("last", [x], [last])
        normed, y_scale = self.norm("norm", blueprint.norm, last)
        peak = self.largest("logits")
        self.program.logits_shift = min(31, max(0, LOGIT_BITS - _exponent(peak)))
        logits = self.program.buffer(len(blueprint.head.weight), "int32")
        self.products("head", normed, y_scale, [(blueprint.head, logits, self.program.logits_shift)], self.bits.head)

    def residual_places(self) -> tuple[int, int]:
        """Binary places of the residual stream, and of what is embedded: more of them where a transform and a shift follow.

        No row of the embedding shifts left, and none is so large that the transform would hold it, with some room to train.
        """
        packed, turned = self.matrix(self.blueprint.embedding)[0], self.blueprint.turned_back
        wanted, coarsest = self.places("residual", 31, RESIDUAL_ROOM), float(unit_of(packed).max())
        if not turned:
            residual = min(wanted, MULTIPLIER - _exponent(coarsest))
            return residual, residual
        coarsest *= ROOM * turned**-0.5
        peak = coarsest * largest(packed.fmt.k) * (SECOND_LEVEL_STEPS if packed.fmt.scales == "i8" else 1)
        places = turned.bit_length() - 1
        most = min(MULTIPLIER - _exponent(coarsest), SUM - places - _exponent(peak))
        residual = min(wanted, most)
        return residual, min(most, residual + places // 2 + FINER)

    def layer(self, index: int, layer: Layer, x: int, turns: list[int]) -> None:
        """One layer onto the residual stream x."""
        width = self.program.buffers[x].width
        attended, inner = self.buffer("attended", width, "int32"), self.buffer("inner", width, "int32")
        self.attention(index, layer, x, attended, turns)
        if not layer.parallel:
            self.add("add", [attended], [x])
        self.mlp(index, layer, x, inner)
        if layer.parallel:
            self.add("add", [attended], [x])
        self.add("add", [inner], [x])

    def attention(self, index: int, layer: Layer, x: int, out: int, turns: list[int]) -> None:
        """norm, q, k and v, rotary positions, cache, attention, o."""
        attention, blueprint = layer.attention, self.blueprint
        normed, scale = self.norm(f"{index}.attention_norm", layer.attention_norm, x)
        names = {"q": attention.q, "k": attention.k, "v": attention.v}
        buffers = {name: self.buffer(name, len(linear.weight), "int16") for name, linear in names.items()}
        before = {name: self.places(f"{index}.{name}", 15, ROOM) for name in names}
        places = {
            "q": before["q"] if attention.q_norm is None else self.places(f"{index}.q_norm", 15, ROOM),
            "k": before["k"] if attention.k_norm is None else self.places(f"{index}.k_norm", 15, ROOM),
        }
        wanted = [(linear, buffers[name], before[name]) for name, linear in names.items()]
        self.products(f"{index}.attention", normed, scale, wanted, self.bits.activations)
        for name, norm in (("q", attention.q_norm), ("k", attention.k_norm)):
            if norm is not None:
                self.norm_step(norm, buffers[name], buffers[name], 2.0 ** -before[name], 2.0 ** -places[name])
        if turns:
            for name in "qk":
                pairs = self.program.tensors[turns[0]].shape[1]
                self.add("rotate", [buffers[name]], tensor=turns, numbers=[blueprint.head_dim, 2 * pairs])
        self.add("store", [buffers["k"], buffers["v"]], numbers=[index, self.bits.cache])
        scores = self.score_scale(index, attention, places)
        mixed = self.buffer("mixed", len(attention.q.weight), "int16")
        self.add("attend", [buffers["q"]], [mixed], numbers=[index, scores.multiplier, scores.shift, self.bits.cache])
        unit = 2.0 ** -before["v"] * (largest(self.bits.cache) + 1) / largest(self.bits.cache)
        self.products(f"{index}.mixed", mixed, unit, [(attention.o, out, self.residual)], self.bits.activations)

    def score_scale(self, index: int, attention: Attention, places: Mapping[str, int]) -> ScoreScale:
        """What turns products of codes into log2 units."""
        q, k = 2.0 ** -places["q"], 2.0 ** -places["k"]
        return ScoreScale.of(attention.scaling, q, k, k_k=self.bits.cache, name=f"{self.blueprint.name}, layer {index}")

    def mlp(self, index: int, layer: Layer, x: int, out: int) -> None:
        """norm, gate and up, activation, down."""
        mlp = layer.mlp
        normed, scale = self.norm(f"{index}.mlp_norm", layer.mlp_norm, x)
        g_places = min(MOST_PLACES, max(0, self.places(f"{index}.gate", 15, ROOM)))
        width = len(mlp.up.weight)
        g, product = self.buffer("g", width, "int16"), self.buffer("product", width, "int32")
        wanted = [(mlp.activated, g, g_places)]
        if mlp.gate is None:
            self.products(f"{index}.mlp", normed, scale, wanted, self.bits.activations)
            self.add("activate", [g], [product], numbers=[g_places], table=mlp.table)
            y_places = g_places + UNIT
        else:
            u_places = self.places(f"{index}.up", 15, ROOM)
            u = self.buffer("u", width, "int16")
            self.products(f"{index}.mlp", normed, scale, [*wanted, (mlp.up, u, u_places)], self.bits.activations)
            self.add("gate", [g, u], [product], numbers=[g_places], table=mlp.table)
            y_places = g_places + u_places
        down = [(mlp.down, out, self.residual)]
        self.products(f"{index}.inner", product, 2.0**-y_places, down, self.bits.activations)

    def norm(self, place: str, norm: Norm, x: int) -> tuple[int, float]:
        """The buffer of a norm of the residual stream, and its scale."""
        y_scale = 2.0 ** -self.places(place, 15, NORM_ROOM)
        to = self.buffer("normed", self.program.buffers[x].width, "int16")
        self.norm_step(norm, x, to, 2.0**-self.residual, y_scale)
        return to, y_scale

    def norm_step(self, norm: Norm, from_: int, to: int, x_scale: float, y_scale: float) -> None:
        """One norm."""
        made = NormWeight.of(norm.weight, norm.bias, norm.epsilon, x_scale, y_scale, centred=norm.centred, name=norm.name)
        numbers = [norm.weight.numel(), made.shift, made.epsilon, made.least]
        tensor, bias = [self.program.tensor(made.gamma)], [self.program.tensor(made.bias)]
        op, origin = "layer_norm" if norm.centred else "rms_norm", Origin((norm,), (y_scale,))
        self.add(op, [from_], [to], origin=origin, tensor=tensor, bias=bias, numbers=numbers)

    def products(self, place: str, x: int, scale: float, wanted: list[tuple[Linear, int, int]], k: int) -> None:
        """quantize, then the products of `wanted`: a matrix, the buffer it goes to and the places of that."""
        rotated = self.blueprint.rotated.get(place, 0)
        codes = self.buffer("codes", self.program.buffers[x].width, "rows")
        if rotated:
            scale *= rotated**-0.5
        a, e = self.static_step(place, scale, rotated if self.program.buffers[x].kind == "int32" else 0)
        self.add("quantize", [x], [codes], numbers=[k, a, e, rotated])
        operands: dict[str, list[int]] = {"matrix": [], "multiplier": [], "shift": [], "bias": []}
        for linear, _, places in wanted:
            packed, matrix = self.matrix(linear)
            multiplier, shift = row_scales(unit_of(packed), scale, k, 2.0**-places, f"{self.blueprint.name}, {linear.name}")
            self.check_underflow(linear, multiplier)
            bias = None if linear.bias is None else (linear.bias.double() * 2.0**places).round().clamp(-(2**31), 2**31 - 1).int()
            operands["matrix"].append(matrix)
            operands["multiplier"].append(self.program.tensor(multiplier))
            operands["shift"].append(self.program.tensor(shift))
            operands["bias"].append(self.program.tensor(bias))
        origin = Origin(tuple(linear for linear, _, _ in wanted), tuple(2.0**-places for _, _, places in wanted))
        self.add("linear", [codes], [to for _, to, _ in wanted], "", origin, **operands)

    def static_step(self, place: str, scale: float, rotated: int) -> tuple[int, int]:
        """(a, e) of a calibrated step; (0, 0) where rows find their own. rotated: of 32 bits, how many together; else 0.

        Raises FixedPointError for a range of no width.
        """
        if self.ranges.clips is None:
            return 0, 0
        clip = self.ranges.clips[place]
        if not clip > 0:
            raise FixedPointError(
                f"{self.blueprint.name}, {place}: calibration saw nothing but 0 there, a range of no width. "
                f"Calibrate with another text, or take ranges per token."
            )
        size = clip / scale
        if rotated:
            size /= 2.0 ** rotated.bit_length()  # the integer transform shifts by log2(rotated) + 1 before it adds
        e = max(0, _exponent(size) - MANTISSA)
        return max(1, min(largest(MANTISSA + 1), round(size / 2.0**e))), e

    def learned_positions(self, table: Tensor, x: int) -> None:
        """A table of positions onto the residual stream, in 16 bits."""
        places = min(self.residual, TABLE_BITS - _exponent(float(table.abs().max())))
        values = (table.double() * 2.0**places).round().clamp(-largest(16), largest(16)).to(torch.int16)
        self.add("positions", [], [x], tensor=[self.program.tensor(values)], numbers=[min(16, self.residual - places)])

    def rotations(self) -> list[int]:
        """The tables of cosine and sine, where positions are rotary."""
        blueprint = self.blueprint
        if blueprint.frequencies is None:
            return []
        amplitude = None if blueprint.amplitude == 1 else Dyadic.of(blueprint.amplitude, what="amplitude of the positions")
        tables = rotary_tables(frequencies(blueprint.frequencies), blueprint.positions, amplitude)
        return [self.program.tensor(table) for table in tables]

    def matrix(self, linear: Linear) -> tuple[PackedTensor, int]:
        """A matrix as it is stored, and its number."""
        program = self.program
        if linear.name not in program.names:
            program.matrix(linear.name, self.pack(linear))
        number = program.names.index(linear.name)
        return program.weights[number], number

    def check_underflow(self, linear: Linear, multiplier: Tensor) -> None:
        """Raise FixedPointError where weights that are not 0 would all become it."""
        if not bool(multiplier.any()) and bool(linear.weight.any()):
            raise FixedPointError(
                f"{self.blueprint.name}, {linear.name}: its weights are at most {float(linear.weight.abs().max()):.3g}, so small "
                f"that their scale underflows. Scale them up, and what they are added to."
            )

    def places(self, place: str, bits: int, room: float) -> int:
        """Binary places of a value of `bits` bits and a sign, so that `room` times the largest seen is held."""
        return min(FINEST, bits - _exponent(self.largest(place) * room))

    def largest(self, place: str) -> float:
        """The largest |value| that calibration saw."""
        value = self.ranges.largest[place]
        if not math.isfinite(value):
            raise FixedPointError(f"{self.blueprint.name}, {place}: calibration saw a value that is not finite. Mend the model.")
        return value

    def buffer(self, name: str, width: int, kind: str) -> int:
        """The buffer of this name, made where there is none."""
        key = f"{name} {width} {kind}"
        if key not in self.buffers:
            self.buffers[key] = self.program.buffer(width, kind)
        return self.buffers[key]

    def small(self, values: int | Tensor) -> int:
        """Multipliers as a tensor of the program."""
        return self.program.tensor(torch.as_tensor(values).to(torch.int16))

    def tiny(self, values: int | Tensor) -> int:
        """Shifts as a tensor of the program."""
        return self.program.tensor(torch.as_tensor(values).to(torch.int8))

    def add(
        self,
        op: str,
        from_: list[int] | None = None,
        to: list[int] | None = None,
        table: str = "",
        origin: Origin | None = None,
        **operands: list[int],
    ) -> None:
        """One more step."""
        self.origins.append(origin or Origin())
        plain: dict[str, Any] = {name: tuple(numbers) for name, numbers in operands.items()}
        self.program.steps.append(Step(op, tuple(from_ or ()), tuple(to or ()), table=table, **plain))


def unit_of(packed: PackedTensor) -> Tensor:
    """float64 (n_out,): what 1 of code * m stands for in each row."""
    parts, (n_out, _) = packed.parts(), packed.shape
    if packed.fmt.scales == "i8":
        return from_tiles(parts["_second_scale"], n_out, 1)[:, 0].double() / SECOND_LEVEL_STEPS
    return from_tiles(parts["_scale"], n_out, 1)[:, 0].double()


def _exponent(value: float) -> int:
    """The least e with value < 2^e; the one of 1 for 0, of which nothing is known."""
    return math.frexp(value)[1] if value > 0 else 0
