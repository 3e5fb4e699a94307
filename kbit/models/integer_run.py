"""The reference interpreter of an integer program: torch integers from token ids to logits, and no float between.

Native kernels must give the very bytes that this gives. Rows stand alone but for attention, so results do not depend on how many
texts are read at once, nor on how a text is cut into calls.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kbit.errors import ModelError
from kbit.fixedpoint.attention import ScoreScale, attention, causal
from kbit.fixedpoint.embedding import add, embed
from kbit.fixedpoint.gates import activate, gate
from kbit.fixedpoint.hadamard import quantize_rotated, turn
from kbit.fixedpoint.linear import LinearWeight, linear
from kbit.fixedpoint.norms import NormWeight, layer_norm, rms_norm
from kbit.fixedpoint.quantize import Rows, quantize_rows, quantize_static
from kbit.fixedpoint.rotary import rotate
from kbit.fixedpoint.rounding import largest
from kbit.fixedpoint.tables import curve
from kbit.formats.storage import row_bytes
from kbit.models.integer_program import Program, Step
from kbit.packed import PackedTensor
from kbit.packed.planes import unpack_planes
from kbit.packed.tiles import from_tiles

BITS = {"int16": 16, "int32": 32}  # of a buffer's kind
QUERY_BITS = 8
ANY_BITS = 2  # of activations, for the proof of a matrix that is only looked up in

Buffers = dict[int, Tensor | Rows]


class Interpreter:
    """A program and what it has read: `interpreter(ids)` reads more, and gives integer logits."""

    def __init__(self, program: Program) -> None:
        """Take the integers out of the packed weights. Raises FixedPointError where a sum of products could overflow."""
        self.program = program
        self.position = 0
        operands = Operands(program)
        self._steps = [MAKERS[step.op](operands, step, index) for index, step in enumerate(program.steps)]
        self._cache: list[tuple[Rows, Rows] | None] = [None] * program.cache.layers
        self._every = True

    def __call__(self, ids: Tensor, *, every: bool = True) -> Tensor:
        """Integer logits after `ids`, int64 (batch, n), which follow those so far: int32 (batch, n, vocabulary), or, without
        `every`, of the last alone, (batch, 1, vocabulary). The batch is the same in all calls since rewind(0).

        Raises ModelError beyond the program's positions, FixedPointError where an id is not of the vocabulary.
        """
        if self.position + ids.shape[1] > self.program.positions:
            raise ModelError(
                f"{self.position} + {ids.shape[1]} tokens do not fit the model's {self.program.positions} positions. Read fewer."
            )
        buffers: Buffers = {}
        self._every = every
        for run in self._steps:
            run(self, ids, buffers)
        self.position += ids.shape[1]
        logits = buffers[len(self.program.buffers) - 1]
        assert isinstance(logits, Tensor)
        return logits

    def rewind(self, position: int) -> None:
        """Forget what was read from `position` on."""
        self.position = min(self.position, position)
        for layer, held in enumerate(self._cache):
            if held is not None:
                cut = [Rows(*(part[:, : self.position] for part in rows)) for rows in held]
                self._cache[layer] = (cut[0], cut[1]) if self.position else None

    def remember(self, layer: int, keys: Rows, values: Rows) -> None:
        """Append to the cache of a layer."""
        held = self._cache[layer]
        new = keys, values
        if held is not None:
            joined = [Rows(*map(_joined, old, more)) for old, more in zip(held, new, strict=True)]
            new = joined[0], joined[1]
        self._cache[layer] = new

    def remembered(self, layer: int) -> tuple[Rows, Rows]:
        """Keys and values of a layer so far."""
        held = self._cache[layer]
        assert held is not None, "integer_check: each layer is stored before it is attended to"
        return held

    @property
    def every(self) -> bool:
        """Whether logits of all rows are asked for."""
        return self._every


Run = Callable[[Interpreter, Tensor, Buffers], None]


def _joined(old: Tensor, more: Tensor) -> Tensor:
    return torch.cat([old, more], 1)


def integers_of(weight: PackedTensor) -> tuple[Tensor, Tensor | None, int]:
    """(codes int8 (n_out, n_in), m uint8 (n_out, n_blocks) or None, block) of a packed weight, from its bytes alone."""
    fmt, (n_out, n_in) = weight.fmt, weight.shape
    parts = weight.parts()
    tiles = parts[""].numpy().reshape(-1, 16 * row_bytes(fmt, n_in))
    codes = torch.from_numpy(unpack_planes(tiles, fmt.k)[:n_out, :n_in].copy())
    codes = codes.clamp(max=2 * largest(fmt.k)).to(torch.int16) - largest(fmt.k)
    m = from_tiles(parts["_scale"], n_out, fmt.n_blocks(n_in)) if fmt.scales == "i8" else None
    return codes.to(torch.int8), m, fmt.block_size(n_in)


class Operands:
    """What the steps of a program name by number; each matrix is unpacked once."""

    def __init__(self, program: Program) -> None:
        self.program, self.tensors = program, program.tensors
        self._unpacked: dict[int, tuple[Tensor, Tensor | None, int]] = {}

    def weight(self, step: Step, j: int, k_x: int) -> LinearWeight:
        """Product j of a step, proven for activations of k_x bits."""
        number = step.matrix[j]
        if number not in self._unpacked:
            self._unpacked[number] = integers_of(self.program.weights[number])
        codes, m, block = self._unpacked[number]
        scales = self.tensors[step.multiplier[j]], self.tensors[step.shift[j]]
        return LinearWeight(codes, m, block, *scales, self.optional(step.bias, j), k_x, self.program.names[number])

    def optional(self, numbers: tuple[int, ...], j: int) -> Tensor | None:
        """The tensor of this number, where there is one."""
        return self.tensors[numbers[j]] if j < len(numbers) and numbers[j] >= 0 else None

    def bits_read_by(self, index: int) -> int:
        """The bits of the codes that the step `index` multiplies."""
        source = self.program.steps[index].from_[0]
        earlier = self.program.steps[:index]
        return next(step.numbers[0] for step in reversed(earlier) if step.op == "quantize" and step.to[0] == source)


def _ints(buffers: Buffers, number: int) -> Tensor:
    values = buffers[number]
    assert isinstance(values, Tensor)
    return values


def _embed(operands: Operands, step: Step, index: int) -> Run:
    weight = operands.weight(step, 0, ANY_BITS)

    def run(state: Interpreter, ids: Tensor, buffers: Buffers) -> None:
        buffers[step.to[0]] = embed(ids, weight)

    return run


def _positions(operands: Operands, step: Step, index: int) -> Run:
    table, left = operands.tensors[step.tensor[0]], step.numbers[0]

    def run(state: Interpreter, ids: Tensor, buffers: Buffers) -> None:
        rows = table[state.position : state.position + ids.shape[1]].int() << left
        buffers[step.to[0]] = add(_ints(buffers, step.to[0]), rows)

    return run


def _hadamard(operands: Operands, step: Step, index: int) -> Run:
    width, shift = step.numbers

    def run(state: Interpreter, ids: Tensor, buffers: Buffers) -> None:
        buffers[step.from_[0]] = turn(_ints(buffers, step.from_[0]), width, shift)

    return run


def _norm(operands: Operands, step: Step, index: int) -> Run:
    width, shift, epsilon, least = step.numbers
    weight = NormWeight(operands.tensors[step.tensor[0]], shift, epsilon, least, operands.optional(step.bias, 0))
    operator = rms_norm if step.op == "rms_norm" else layer_norm

    def run(state: Interpreter, ids: Tensor, buffers: Buffers) -> None:
        x = _ints(buffers, step.from_[0])
        buffers[step.to[0]] = operator(x.unflatten(-1, (-1, width)), weight).flatten(-2)

    return run


def _quantize(operands: Operands, step: Step, index: int) -> Run:
    k, a, e, width = step.numbers

    def run(state: Interpreter, ids: Tensor, buffers: Buffers) -> None:
        buffers[step.to[0]] = codes(_ints(buffers, step.from_[0]), k, a, e, width)

    return run


def codes(x: Tensor, k: int, a: int, e: int, width: int) -> Rows:
    """What the operator `quantize` makes of x."""
    if width > 1:
        return quantize_rotated(x, k, width, a, e)
    if a == 0:
        return quantize_rows(x, k)
    step = torch.full_like(x[..., :1], a, dtype=torch.int32)
    return Rows(quantize_static(x, a, e, k), step, torch.full_like(step, e))


def _linear(operands: Operands, step: Step, index: int) -> Run:
    k_x, kinds = operands.bits_read_by(index), operands.program.buffers
    weights = [operands.weight(step, j, k_x) for j in range(len(step.to))]

    def run(state: Interpreter, ids: Tensor, buffers: Buffers) -> None:
        x = buffers[step.from_[0]]
        assert isinstance(x, Rows)
        for to, weight in zip(step.to, weights, strict=True):
            buffers[to] = linear(x, weight, BITS[kinds[to].kind])

    return run


def _rotate(operands: Operands, step: Step, index: int) -> Run:
    cosine, sine = (operands.tensors[number] for number in step.tensor)
    head = step.numbers[0]

    def run(state: Interpreter, ids: Tensor, buffers: Buffers) -> None:
        at = slice(state.position, state.position + ids.shape[1])
        x = _ints(buffers, step.from_[0]).unflatten(-1, (-1, head))
        buffers[step.from_[0]] = rotate(x, cosine[at, None], sine[at, None]).flatten(-2)

    return run


def _store(operands: Operands, step: Step, index: int) -> Run:
    layer, k = step.numbers
    head = operands.program.cache.head

    def run(state: Interpreter, ids: Tensor, buffers: Buffers) -> None:
        keys, values = (quantize_rows(_ints(buffers, number).unflatten(-1, (-1, head)), k) for number in step.from_)
        state.remember(layer, keys, values)

    return run


def _attend(operands: Operands, step: Step, index: int) -> Run:
    layer, multiplier, shift, k = step.numbers
    scale, head = ScoreScale(multiplier, shift), operands.program.cache.head

    def run(state: Interpreter, ids: Tensor, buffers: Buffers) -> None:
        queries = quantize_rows(_ints(buffers, step.from_[0]).unflatten(-1, (-1, head)), QUERY_BITS)
        keys, values = state.remembered(layer)
        n = ids.shape[1]
        mixed = attention(queries, keys, values, scale, causal(n, state.position + n), k)
        buffers[step.to[0]] = mixed.flatten(-2)

    return run


def _gate(operands: Operands, step: Step, index: int) -> Run:
    table, places = curve(step.table), step.numbers[0]

    def run(state: Interpreter, ids: Tensor, buffers: Buffers) -> None:
        g = _ints(buffers, step.from_[0])
        buffers[step.to[0]] = (
            activate(g, places, table) if step.op == "activate" else gate(g, places, _ints(buffers, step.from_[1]), table)
        )

    return run


def _add(operands: Operands, step: Step, index: int) -> Run:
    def run(state: Interpreter, ids: Tensor, buffers: Buffers) -> None:
        buffers[step.to[0]] = add(_ints(buffers, step.to[0]), _ints(buffers, step.from_[0]))

    return run


def _last(operands: Operands, step: Step, index: int) -> Run:
    def run(state: Interpreter, ids: Tensor, buffers: Buffers) -> None:
        x = _ints(buffers, step.from_[0])
        buffers[step.to[0]] = x if state.every else x[:, -1:]

    return run


# operator -> how a step becomes a call
MAKERS: dict[str, Callable[[Operands, Step, int], Run]] = {
    "embed": _embed,
    "positions": _positions,
    "hadamard": _hadamard,
    "rms_norm": _norm,
    "layer_norm": _norm,
    "quantize": _quantize,
    "linear": _linear,
    "rotate": _rotate,
    "store": _store,
    "attend": _attend,
    "gate": _gate,
    "activate": _gate,
    "add": _add,
    "last": _last,
}
