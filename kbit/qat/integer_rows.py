"""Steps in training that take each row by itself: learned positions, transforms, norms, gates, additions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kbit.fixedpoint.embedding import add
from kbit.fixedpoint.gates import activate, gate
from kbit.fixedpoint.hadamard import turn
from kbit.fixedpoint.norms import layer_norm, rms_norm
from kbit.fixedpoint.rounding import largest
from kbit.fixedpoint.tables import UNIT, curve
from kbit.models.integer_float import ACTIVATIONS, normalised, turned
from kbit.models.integer_program import Program, Step
from kbit.qat.integer_parts import NormPart
from kbit.qat.integer_step import Pass, Taught


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
