"""The steps of an integer program in training: each computes its integers exactly, and passes gradients as its float counterpart.

A step takes integers and gives integers, by the operators of kbit.fixedpoint, or by products in floats where all sums are whole
numbers that those hold exactly. Where gradients are wanted it also computes, from what its integers stand for, what the same
operator gives in floats; the result keeps that gradient, and takes the value of the integers. So the graph is that of the floats,
and every value in it is one of the integers (Bengio et al. 2013). Nothing passes through results that the end of their 16 bits
holds, nor through what lies beyond a static range. Results of 32 bits have so much room that they are not looked at.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

from kbit.fixedpoint.attention import ScoreScale
from kbit.fixedpoint.dyadic import Dyadic
from kbit.fixedpoint.embedding import add
from kbit.fixedpoint.gates import activate, gate
from kbit.fixedpoint.hadamard import quantize_rotated, turn
from kbit.fixedpoint.linear import row_scales
from kbit.fixedpoint.norms import layer_norm, rms_norm
from kbit.fixedpoint.quantize import Rows, quantize_rows, quantize_static
from kbit.fixedpoint.rotary import rotate
from kbit.fixedpoint.rounding import largest, narrow, saturate, scaled
from kbit.fixedpoint.tables import UNIT, curve
from kbit.models.integer_blueprint import Blueprint
from kbit.models.integer_float import ACTIVATIONS, normalised, rotated, rotations, turned
from kbit.models.integer_program import Program, Step
from kbit.models.integer_run import BITS, QUERY_BITS
from kbit.qat.fake_quantize import pass_through
from kbit.qat.integer_attention import attention
from kbit.qat.integer_parts import Matrix, NormPart, Whole, bias_integers

FLOAT32_WHOLE = 2**24  # up to which float32 holds every whole number, and so any sum of products that stays below


@dataclass
class Pass:
    """One pass over texts `ids` (batch, n), each from its beginning.

    integers, floats: what lies in each buffer, and what that stands for, with gradients; floats are None where none are wanted.
    matrices: each as it is in this pass. keys, values: of each layer, as integers and as floats.
    """

    ids: Tensor
    matrices: dict[str, Whole]
    integers: dict[int, Any] = field(default_factory=dict)
    floats: dict[int, Tensor] | None = None
    cache: dict[int, tuple[Rows, Rows]] = field(default_factory=dict)
    float_cache: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def put(self, number: int, integers: Tensor, unit: float, surrogate: Callable[[dict[int, Tensor]], Tensor]) -> None:
        """A result: its integers, which stand for `unit` each, and the float whose gradient it has."""
        self.integers[number] = integers
        if self.floats is not None:
            self.floats[number] = with_value_of(surrogate(self.floats), integers, unit)


def with_value_of(surrogate: Tensor, integers: Tensor, unit: float) -> Tensor:
    """integers * unit, float32, with the gradient of `surrogate`, but where 16 bits end."""
    return pass_through(within(surrogate, integers), integers.float() * unit)


def within(surrogate: Tensor, integers: Tensor) -> Tensor:
    """`surrogate`, without a gradient where 16 bits end."""
    if integers.dtype == torch.int16:
        held = (integers == largest(16)) | (integers == -largest(16) - 1)
        if bool(held.any()):
            return torch.where(held, surrogate.detach(), surrogate)
    return surrogate


class Product(Function):
    """A value in the place of x w^T + bias, with its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None, value: Tensor) -> Tensor:
        """x (..., n_in), w (n_out, n_in), value (..., n_out)."""
        ctx.save_for_backward(x, w)
        ctx.biased = bias is not None
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Of x, w and the bias."""
        g = gradients[0]
        x, w = ctx.saved_tensors
        flat = g.flatten(0, -2)
        return g @ w, flat.T @ x.flatten(0, -2), flat.sum(0) if ctx.biased else None, None


class Taught(nn.Module, ABC):
    """One step of the program that a training began with: `step`, and what 1 of the integers of each buffer stands for."""

    def __init__(self, step: Step, tensors: list[Tensor], units: dict[int, float]) -> None:
        super().__init__()
        self.step = step
        self.constants = [tensors[number] for number in step.tensor if number >= 0]
        self.units = dict(units)  # as they are before this step

    @abstractmethod
    def forward(self, state: Pass) -> None:
        """Compute what the step computes."""

    def results(self) -> dict[int, float]:
        """What 1 of its results stands for, by buffer."""
        return {}

    def lowered(self, program: Program) -> Step:
        """The step with the operands of now, which are put into `program`."""
        numbers = tuple(program.tensor(tensor) for tensor in self.constants)
        return self.changed(tensor=numbers)

    def changed(self, **fields: Any) -> Step:
        """The step with some fields changed."""
        return Step(**{**vars(self.step), **fields})


class Embed(Taught):
    """Rows of the embedding."""

    def __init__(self, matrix: Matrix, unit: float, *about: Any) -> None:
        super().__init__(*about)
        self.matrix, self.unit = matrix, unit
        matrix.quantizer.hold(unit)

    def results(self) -> dict[int, float]:
        return {self.step.to[0]: self.unit}

    def scales(self, unit: Tensor) -> tuple[Tensor, Tensor]:
        """Multiplier and shift of each row."""
        scale = Dyadic.of(unit / self.unit, what=self.matrix.name)
        return torch.as_tensor(scale.multiplier), torch.as_tensor(scale.shift)

    def forward(self, state: Pass) -> None:
        now = state.matrices[self.matrix.name]
        multiplier, shift = (each[state.ids, None] for each in self.scales(now.unit))
        rows = scaled(now.whole[state.ids].long() * multiplier, shift).int()
        state.put(self.step.to[0], rows, self.unit, lambda floats: functional.embedding(state.ids, now.values))

    def lowered(self, program: Program) -> Step:
        packed = self.matrix.packed()
        multiplier, shift = self.scales(self.matrix.quantizer.unit())
        return self.changed(
            matrix=(program.matrix(self.matrix.name, packed),),
            multiplier=(program.tensor(multiplier.to(torch.int16)),),
            shift=(program.tensor(shift.to(torch.int8)),),
        )


class Positions(Taught):
    """Learned positions onto the residual stream."""

    def __init__(self, table: Tensor, *about: Any) -> None:
        super().__init__(*about)
        self.table = nn.Parameter(table.clone())

    def results(self) -> dict[int, float]:
        return {self.step.to[0]: self.units[self.step.to[0]]}

    def integers(self) -> Tensor:
        """The table as it is lowered: int16."""
        unit = self.units[self.step.to[0]] * 2.0 ** self.step.numbers[0]
        return (self.table.detach().double() / unit).round().clamp(-largest(16), largest(16)).to(torch.int16)

    def forward(self, state: Pass) -> None:
        to, n = self.step.to[0], state.ids.shape[1]
        moved = add(state.integers[to], self.integers()[:n].int() << self.step.numbers[0])
        state.put(to, moved, self.units[to], lambda floats: floats[to] + self.table[:n])

    def lowered(self, program: Program) -> Step:
        return self.changed(tensor=(program.tensor(self.integers()),))


class Turned(Taught):
    """The residual stream under a Hadamard transform, normalised."""

    def __init__(self, unit: float, *about: Any) -> None:
        super().__init__(*about)
        self.unit = unit

    def results(self) -> dict[int, float]:
        return {self.step.from_[0]: self.unit}

    def forward(self, state: Pass) -> None:
        number, (width, shift) = self.step.from_[0], self.step.numbers
        y = turn(state.integers[number], width, shift)
        state.put(number, y, self.unit, lambda floats: turned(floats[number], width))


class Normed(Taught):
    """RMSNorm or LayerNorm, of whole rows or of heads."""

    def __init__(self, part: NormPart, *about: Any) -> None:
        super().__init__(*about)
        self.part = part

    def results(self) -> dict[int, float]:
        return {self.step.to[0]: self.part.y_unit}

    def forward(self, state: Pass) -> None:
        from_, width = self.step.from_[0], self.step.numbers[0]
        operator = layer_norm if self.part.centred else rms_norm
        y = operator(state.integers[from_].unflatten(-1, (-1, width)), self.part.integers()).flatten(-2)

        def surrogate(floats: dict[int, Tensor]) -> Tensor:
            return normalised(floats[from_].unflatten(-1, (-1, width)), self.part.floats()).flatten(-2)

        state.put(self.step.to[0], y, self.part.y_unit, surrogate)

    def lowered(self, program: Program) -> Step:
        made = self.part.integers()
        numbers = (self.step.numbers[0], made.shift, made.epsilon, made.least)
        return self.changed(tensor=(program.tensor(made.gamma),), bias=(program.tensor(made.bias),), numbers=numbers)


class Quantized(Taught):
    """Codes of k bits, of rows or of their Hadamard transforms."""

    def results(self) -> dict[int, float]:
        width = self.step.numbers[3]
        return {self.step.to[0]: self.units[self.step.from_[0]] * (width**-0.5 if width > 1 else 1.0)}

    def forward(self, state: Pass) -> None:
        k, a, e, width = self.step.numbers
        from_, to = self.step.from_[0], self.step.to[0]
        rows = codes(state.integers[from_], k, a, e, width)
        state.integers[to] = rows
        if state.floats is None:
            return
        x = turned(state.floats[from_], width if width > 1 else 0)
        end = torch.ldexp(rows.a.float() * self.results()[to], rows.e)
        if a:
            x = torch.where(x.detach().abs() <= end, x, x.detach())
        state.floats[to] = pass_through(x, rows.q.float() * (end / largest(k)))


def codes(x: Tensor, k: int, a: int, e: int, width: int) -> Rows:
    """What the operator `quantize` makes of x."""
    if width > 1:
        return quantize_rotated(x, k, width, a, e)
    if a == 0:
        return quantize_rows(x, k)
    step = torch.full_like(x[..., :1], a, dtype=torch.int32)
    return Rows(quantize_static(x, a, e, k), step, torch.full_like(step, e))


class Multiplied(Taught):
    """Up to three matrices times the same codes."""

    def __init__(
        self,
        matrices: list[Matrix],
        biases: list[Tensor | None],
        y_units: tuple[float, ...],
        k_x: int,
        kinds: list[str],
        *about: Any,
    ) -> None:
        super().__init__(*about)
        self.matrices = nn.ModuleList(matrices)
        self.biases = nn.ParameterDict({str(j): bias.clone() for j, bias in enumerate(biases) if bias is not None})
        self.y_units, self.k_x, self.kinds = y_units, k_x, kinds
        for matrix, y_unit in zip(matrices, y_units, strict=True):
            matrix.quantizer.hold(y_unit * largest(k_x) / self.units[self.step.from_[0]])

    def results(self) -> dict[int, float]:
        return dict(zip(self.step.to, self.y_units, strict=True))

    def products(self) -> list[tuple[int, Matrix, Tensor | None, float]]:
        """(buffer, matrix, bias, unit of the result) of each."""
        biases = [self.biases.get(str(j)) for j in range(len(self.matrices))]
        return list(zip(self.step.to, self.matrices, biases, self.y_units, strict=True))  # type: ignore[arg-type]

    def scales(self, unit: Tensor, y_unit: float, name: str) -> tuple[Tensor, Tensor]:
        """Multiplier int16 and shift int8 of each row."""
        return row_scales(unit, self.units[self.step.from_[0]], self.k_x, y_unit, name)

    def forward(self, state: Pass) -> None:
        x = state.integers[self.step.from_[0]]
        for (to, matrix, bias, y_unit), kind in zip(self.products(), self.kinds, strict=True):
            now = state.matrices[matrix.name]
            multiplier, shift = self.scales(now.unit, y_unit, matrix.name)
            y = scaled(sums(x.q, now.whole, self.k_x) * x.a.long() * multiplier.long(), shift.long() - x.e.long())
            added = bias_integers(bias, y_unit)
            y = narrow(saturate(y if added is None else y + added, BITS[kind]), BITS[kind])
            state.integers[to] = y
            if state.floats is not None:
                floats: Tensor = Product.apply(state.floats[self.step.from_[0]], now.values, bias, y.float() * y_unit)
                state.floats[to] = within(floats, y)

    def lowered(self, program: Program) -> Step:
        operands: dict[str, list[int]] = {"matrix": [], "multiplier": [], "shift": [], "bias": []}
        for _, matrix, bias, y_unit in self.products():
            operands["matrix"].append(program.matrix(matrix.name, matrix.packed()))
            scales = self.scales(matrix.quantizer.unit(), y_unit, matrix.name)
            for name, tensor in zip(("multiplier", "shift", "bias"), (*scales, bias_integers(bias, y_unit)), strict=True):
                operands[name].append(program.tensor(tensor))
        return self.changed(**{name: tuple(numbers) for name, numbers in operands.items()})


def sums(q: Tensor, whole: Tensor, k_x: int) -> Tensor:
    """sum_j whole[r, j] q[..., j], exactly: int64 (..., n_out) of int8 q, |q| <= 2^(k_x - 1) - 1, and whole numbers in float64.

    No sum of any of the terms exceeds max_r sum_j |whole| * L, which is below 2^31: float64 holds all of them, and where that is
    below 2^24 float32 does too, unless torch was allowed to multiply in fewer bits.
    """
    most = float(whole.abs().sum(1).max()) * largest(k_x)
    plain = most < FLOAT32_WHOLE and torch.get_float32_matmul_precision() == "highest"
    dtype = torch.float32 if plain else torch.float64
    return (q.to(dtype) @ whole.T.to(dtype)).long()


class Rotated(Taught):
    """Rotary positions, in place."""

    def __init__(self, blueprint: Blueprint, *about: Any) -> None:
        super().__init__(*about)
        tables = rotations(blueprint, blueprint.positions)
        assert tables is not None, "rotary steps come of rotary positions"
        self.cosine, self.sine = (table.float() for table in tables)

    def results(self) -> dict[int, float]:
        return {self.step.from_[0]: self.units[self.step.from_[0]]}

    def forward(self, state: Pass) -> None:
        number, head, n = self.step.from_[0], self.step.numbers[0], state.ids.shape[1]
        cosine, sine = (table[:n, None] for table in self.constants)
        y = rotate(state.integers[number].unflatten(-1, (-1, head)), cosine, sine).flatten(-2)

        def surrogate(floats: dict[int, Tensor]) -> Tensor:
            return rotated(floats[number].unflatten(-1, (-1, head)), self.cosine[:n], self.sine[:n]).flatten(-2)

        state.put(number, y, self.units[number], surrogate)


class Stored(Taught):
    """Keys and values into the cache, codes of k bits a head."""

    def __init__(self, head: int, *about: Any) -> None:
        super().__init__(*about)
        self.head = head

    def forward(self, state: Pass) -> None:
        layer, k = self.step.numbers
        rows = [quantize_rows(state.integers[number].unflatten(-1, (-1, self.head)), k) for number in self.step.from_]
        state.cache[layer] = rows[0], rows[1]
        if state.floats is not None:
            keys, values = (
                dequantized(state.floats[number], each, self.units[number], k)
                for number, each in zip(self.step.from_, rows, strict=True)
            )
            state.float_cache[layer] = keys, values


def dequantized(x: Tensor, rows: Rows, unit: float, k: int) -> Tensor:
    """What codes of the heads of x stand for, float32 (batch, n, heads, head), with the gradient of x."""
    return pass_through(x.unflatten(-1, (-1, rows.q.shape[-1])), rows.q.float() * (rows.a.float() * (unit / largest(k))))


class Attended(Taught):
    """Attention over the cache; its gradient is that of softmax in floats, of the same queries, keys and values."""

    def __init__(self, scaling: float, head: int, v_unit: float, *about: Any) -> None:
        super().__init__(*about)
        self.scaling, self.head, self.v_unit = scaling, head, v_unit

    def results(self) -> dict[int, float]:
        steps = largest(self.step.numbers[3])
        return {self.step.to[0]: self.v_unit * (steps + 1) / steps}

    def forward(self, state: Pass) -> None:
        layer, multiplier, shift, k = self.step.numbers
        from_, to = self.step.from_[0], self.step.to[0]
        queries = quantize_rows(state.integers[from_].unflatten(-1, (-1, self.head)), QUERY_BITS)
        keys, values = state.cache[layer]
        mixed = attention(queries, keys, values, ScoreScale(multiplier, shift), k).flatten(-2)

        def surrogate(floats: dict[int, Tensor]) -> Tensor:
            q = dequantized(floats[from_], queries, self.units[from_], QUERY_BITS).transpose(1, 2)
            group = q.shape[1] // keys.q.shape[2]
            k, v = (each.transpose(1, 2).repeat_interleave(group, 1) for each in state.float_cache[layer])
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scaling)
            return y.transpose(1, 2).flatten(-2)

        state.put(to, mixed, self.results()[to], surrogate)


class Gated(Taught):
    """An activation, alone or as the gate of another value."""

    def results(self) -> dict[int, float]:
        g, *u = (self.units[number] for number in self.step.from_)
        return {self.step.to[0]: g * (u[0] if u else 2.0**-UNIT)}

    def forward(self, state: Pass) -> None:
        (g, *u), places, to = self.step.from_, self.step.numbers[0], self.step.to[0]
        table, integers = curve(self.step.table), state.integers
        y = gate(integers[g], places, integers[u[0]], table) if u else activate(integers[g], places, table)

        def surrogate(floats: dict[int, Tensor]) -> Tensor:
            activated = ACTIVATIONS[self.step.table](floats[g])
            return activated * floats[u[0]] if u else activated

        state.put(to, y, self.results()[to], surrogate)


class Added(Taught):
    """Onto the residual stream."""

    def results(self) -> dict[int, float]:
        return {self.step.to[0]: self.units[self.step.to[0]]}

    def forward(self, state: Pass) -> None:
        from_, to = self.step.from_[0], self.step.to[0]
        y = add(state.integers[to], state.integers[from_])
        state.put(to, y, self.units[to], lambda floats: floats[to] + floats[from_])


class Last(Taught):
    """The logits of all rows are asked for."""

    def results(self) -> dict[int, float]:
        return {self.step.to[0]: self.units[self.step.from_[0]]}

    def forward(self, state: Pass) -> None:
        from_, to = self.step.from_[0], self.step.to[0]
        state.integers[to] = state.integers[from_]
        if state.floats is not None:
            state.floats[to] = state.floats[from_]
