"""IntegerStudent: a model of integers that trains. Its forward pass is the integer program; what it gives is what is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutput

from kbit.formats import Encoded
from kbit.methods import choose
from kbit.models.integer_blueprint import Blueprint, Linear
from kbit.models.integer_check import check
from kbit.models.integer_lower import Bits, Origin
from kbit.models.integer_program import Program, Step
from kbit.qat.integer_attention import Attended, Rotated, Stored
from kbit.qat.integer_parts import Matrix, NormPart, safe_format
from kbit.qat.integer_products import Embed, Multiplied, Quantized
from kbit.qat.integer_rows import Added, Gated, Last, Normed, Positions, Turned
from kbit.qat.integer_step import Pass, Taught
from kbit.qat.prepare import Prepared
from kbit.recipes import Converted, Recipe
from kbit.recipes.conversion import count_bits

Starts = Callable[[Linear], Encoded]  # codes and scales that a matrix begins with


class IntegerStudent(nn.Module):
    """The steps of a program, each with its parameters: latent matrices and their scales, norms, biases, learned positions.

    Called as a causal language model is, in training and in evaluation alike: `model(input_ids=ids).logits`, float32 (batch, n,
    vocabulary), are integers times one power of two, and those of `program()` are the same. It computes on the CPU.
    Ranges of values, as calibration found them, stay as they are: weights learn to fit them.
    """

    def __init__(self, made: Converted, start: Starts) -> None:
        """start: the codes that each matrix of made.blueprint begins with."""
        super().__init__()
        self.template = made.program
        making = _Making(made.blueprint, made.program, start)
        pairs = zip(made.program.steps, made.origins, strict=True)
        self.steps = nn.ModuleList([making.step(step, origin) for step, origin in pairs])

    def forward(self, input_ids: Tensor, **ignored: Any) -> CausalLMOutput:
        """Logits of ids (batch, n), each text from its beginning."""
        with torch.autocast("cpu", enabled=False):  # floats that hold whole numbers must hold all of them
            state = Pass(input_ids, {name: matrix.now() for name, matrix in self.matrices().items()})
            state.floats = {} if torch.is_grad_enabled() else None
            for step in self.steps:
                step(state)
            last = len(self.template.buffers) - 1
            if state.floats is not None:
                return CausalLMOutput(logits=state.floats[last])
            return CausalLMOutput(logits=state.integers[last].float() * 2.0**-self.template.logits_shift)

    def matrices(self) -> dict[str, Matrix]:
        """Each matrix once, by the name under which it is stored."""
        return {module.name: module for module in self.modules() if isinstance(module, Matrix)}

    @torch.no_grad()
    def program(self) -> Program:
        """The program of the parameters as they are: the same steps and ranges, other weights, multipliers and shifts."""
        old = self.template
        made = Program(buffers=list(old.buffers), cache=old.cache, positions=old.positions, logits_shift=old.logits_shift)
        for step in self.steps:
            assert isinstance(step, Taught)
            made.steps.append(step.lowered(made))
        check(made)
        return made


def integer_student(made: Converted, recipe: Recipe, *, seed: int = 0) -> tuple[IntegerStudent, tuple[str, ...]]:
    """A converted model that trains, and what it stores otherwise than the recipe asks, in words.

    Scales begin as the method of the recipe chooses them. A matrix whose codes could grow until a sum leaves 32 bits (8 bits in
    blocks, of 523 columns or more) has one scale a row from the beginning.
    """
    assert recipe.integers is not None, "a recipe without fixed_point"
    k_x = recipe.integers.activations
    stored = {row.layer: row for row in made.rows}
    packed = dict(zip(made.program.names, made.program.weights, strict=True))
    inside = {linear.name for linear in made.blueprint.linears()}
    fallbacks = list(made.fallbacks)

    def start(linear: Linear) -> Encoded:
        wanted, n_in = packed[linear.name].fmt, linear.weight.shape[1]
        fmt = safe_format(wanted, n_in, k_x if linear.name in inside else Bits().head)
        if fmt != wanted:
            fallbacks.append(f"{linear.name} in {fmt}, since sums over blocks of any codes could leave 32 bits")
        return choose(stored[linear.name].method or recipe.method, linear.weight, fmt, seed=seed)

    student = IntegerStudent(made, start)
    bits = made.bits if len(fallbacks) == len(made.fallbacks) else count_bits(student.program(), made.bits.parameters, inside)
    vars(student).update(kbit_qat=Prepared(recipe, ()), kbit_bits=bits)
    return student, tuple(fallbacks)


class _Making:
    """The steps of a student, one after another; which matrices there are, and what 1 of the integers of a buffer stands for."""

    def __init__(self, blueprint: Blueprint, program: Program, start: Starts) -> None:
        self.blueprint, self.program, self.start = blueprint, program, start
        self.matrices: dict[str, Matrix] = {}
        self.units: dict[int, float] = {}
        self.bits: dict[int, int] = {}  # of codes, by buffer
        self.v_units: dict[int, float] = {}  # of values, by layer

    def step(self, step: Step, origin: Origin) -> Taught:
        """The step that trains."""
        made = self.of(step, origin, (step, self.program.tensors, self.units))
        self.units |= made.results()
        if step.op == "quantize":
            self.bits[step.to[0]] = step.numbers[0]
        if step.op == "store":
            self.v_units[step.numbers[0]] = self.units[step.from_[1]]
        return made

    def of(self, step: Step, origin: Origin, about: tuple[Any, ...]) -> Taught:
        """By its operator."""
        parts: tuple[Any, ...] = origin.parts
        match step.op:
            case "embed":
                return Embed(self.matrix(parts[0]), origin.units[0], *about)
            case "positions":
                assert self.blueprint.table is not None
                return Positions(self.blueprint.table, *about)
            case "hadamard":
                return Turned(origin.units[0], *about)
            case "rms_norm" | "layer_norm":
                return Normed(NormPart(parts[0], self.units[step.from_[0]], origin.units[0]), *about)
            case "quantize":
                return Quantized(*about)
            case "linear":
                kinds = [self.program.buffers[number].kind for number in step.to]
                matrices, biases = [self.matrix(linear) for linear in parts], [linear.bias for linear in parts]
                return Multiplied(matrices, biases, origin.units, self.bits[step.from_[0]], kinds, *about)
            case "rotate":
                return Rotated(self.blueprint, *about)
            case "store":
                return Stored(self.program.cache.head, *about)
            case "attend":
                scaling = self.blueprint.layers[step.numbers[0]].attention.scaling
                return Attended(scaling, self.program.cache.head, self.v_units[step.numbers[0]], *about)
            case "gate" | "activate":
                return Gated(*about)
            case "add":
                return Added(*about)
            case "last":
                return Last(*about)
        raise AssertionError(f"{step.op} is not among the operators of a program")

    def matrix(self, linear: Linear) -> Matrix:
        """The one of this name; a tied output head is the embedding."""
        if linear.name not in self.matrices:
            self.matrices[linear.name] = Matrix(linear.name, linear.weight, self.start(linear))
        return self.matrices[linear.name]
