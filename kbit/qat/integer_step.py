"""A step of an integer program in training: it computes its integers exactly, and passes gradients as its float counterpart.

A step takes integers and gives integers, by the operators of kbit.fixedpoint, or by products in floats where all sums are whole
numbers that those hold exactly. Where gradients are wanted it also computes, from what its integers stand for, what the same
operator gives in floats; the result keeps that gradient, and takes the value of the integers. So the graph is that of the floats,
and every value in it is one of the integers (Bengio et al. 2013). Nothing passes through results that the end of their 16 bits
holds, nor through what lies beyond a static range. Results of 32 bits have so much room that they are not looked at.

The steps themselves: integer_products has those of matrices and the codes that they multiply, integer_attention those of heads,
integer_rows all others, each of which takes a row by itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kbit.fixedpoint.quantize import Rows
from kbit.fixedpoint.rounding import largest
from kbit.models.integer_program import Program, Step
from kbit.qat.fake_quantize import pass_through
from kbit.qat.integer_parts import Whole


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
