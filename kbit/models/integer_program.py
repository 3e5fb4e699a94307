"""The integer program: a transformer as one list of steps over numbered buffers, with every weight and constant an integer.

A fixed-point checkpoint holds the program itself, so that nothing is computed from floats when it is loaded. The table of
operators stands in docs/integer-model.md, their arithmetic in kbit.fixedpoint; `integer_check` tells whether steps fit what they
name, and `integer_run` executes them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from torch import Tensor

from kbit.errors import ModelError
from kbit.packed import PackedTensor

VERSION = 1
KINDS = ("int32", "int16", "rows")  # of a buffer; rows: codes of 8 bits, with mantissa and exponent of each row's step
MOST_TENSORS = 2**20


class WrongProgramError(ModelError):
    """A program that does not fit itself."""


@dataclass(frozen=True)
class Buffer:
    """Rows of `width` integers, a row to a token. kind: a word of KINDS."""

    width: int
    kind: str


@dataclass(frozen=True)
class Cache:
    """What attention remembers: for each layer and position kv_heads keys and values of `head` codes of k bits."""

    layers: int
    kv_heads: int
    head: int
    k: int


@dataclass(frozen=True)
class Step:
    """One step: an operator of integer_check and its operands by number; -1 stands for none. numbers: see the operator."""

    op: str
    from_: tuple[int, ...] = ()
    to: tuple[int, ...] = ()
    matrix: tuple[int, ...] = ()
    multiplier: tuple[int, ...] = ()
    shift: tuple[int, ...] = ()
    bias: tuple[int, ...] = ()
    tensor: tuple[int, ...] = ()
    numbers: tuple[int, ...] = ()
    table: str = ""

    def to_json(self) -> dict[str, Any]:
        """Its fields, less those that say nothing."""
        return {name: value for name, value in asdict(self).items() if value not in ((), "")}

    @classmethod
    def from_json(cls, entry: Any) -> Step:
        """Inverse of to_json. Raises WrongProgramError where a field is unknown or of another kind."""
        if not isinstance(entry, dict) or not isinstance(entry.get("op"), str) or not isinstance(entry.get("table", ""), str):
            raise WrongProgramError("a step is no object with an op")
        lists = {name: value for name, value in entry.items() if name not in ("op", "table")}
        known = {each.name for each in fields(cls)}
        for name, value in lists.items():
            if name not in known or not isinstance(value, list) or not all(type(number) is int for number in value):
                raise WrongProgramError(f"a step has a field {name!r} that is no list of whole numbers")
        return cls(entry["op"], table=entry.get("table", ""), **{name: tuple(value) for name, value in lists.items()})


@dataclass
class Program:
    """Steps, and what they name by number. The last buffer holds the logits, which stand for integers * 2^-logits_shift.

    names, weights: the matrices; tensors: all other integers. positions: the most that can be read.
    """

    buffers: list[Buffer] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    weights: list[PackedTensor] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    cache: Cache = field(default_factory=lambda: Cache(0, 0, 0, 8))
    positions: int = 0
    logits_shift: int = 0

    @property
    def vocabulary(self) -> int:
        """Logits of a token."""
        return self.buffers[-1].width

    def buffer(self, width: int, kind: str) -> int:
        """The number of a new buffer."""
        self.buffers.append(Buffer(width, kind))
        return len(self.buffers) - 1

    def tensor(self, values: Tensor | None) -> int:
        """The number of these integers; -1 for none. A tensor that is there already (a table that steps share) keeps its own."""
        if values is None:
            return -1
        for number, known in enumerate(self.tensors):
            if known is values:
                return number
        self.tensors.append(values.contiguous())
        return len(self.tensors) - 1

    def matrix(self, name: str, weight: PackedTensor) -> int:
        """The number of a matrix; one that is there already (a tied head) keeps its own."""
        if name not in self.names:
            self.names.append(name)
            self.weights.append(weight)
        return self.names.index(name)

    def to_json(self) -> str:
        """All but the matrices and tensors themselves, a step a line."""
        head = {
            "version": VERSION,
            "positions": self.positions,
            "logits_shift": self.logits_shift,
            "cache": asdict(self.cache),
            "buffers": [[buffer.width, buffer.kind] for buffer in self.buffers],
            "matrices": self.names,
            "tensors": len(self.tensors),
        }
        lines = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
        steps = ",\n".join(f"    {json.dumps(step.to_json())}" for step in self.steps)
        return "{\n" + ",\n".join([*lines, f'  "steps": [\n{steps}\n  ]']) + "\n}\n"

    @classmethod
    def from_json(cls, text: str, read_matrix: Callable[[str], PackedTensor], read_tensor: Callable[[int], Tensor]) -> Program:
        """Inverse of to_json. Steps come as the file has them: let integer_check.check see them before anything runs them.

        Raises WrongProgramError, which says what is wrong; and what the two functions raise.
        """
        try:
            head = json.loads(text)
            if not isinstance(head, dict) or head.get("version") != VERSION:
                raise WrongProgramError(f"it is not of version {VERSION}, which this kbit reads")
            sizes = {name: _whole(head[name]) for name in ("positions", "logits_shift", "tensors")}
            cache = Cache(**{name: _whole(head["cache"][name]) for name in ("layers", "kv_heads", "head", "k")})
            buffers = [Buffer(_whole(width), str(kind)) for width, kind in head["buffers"]]
            names = [str(name) for name in head["matrices"]]
            steps = [Step.from_json(entry) for entry in head["steps"]]
        except (json.JSONDecodeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise WrongProgramError(f"it is no list of steps ({type(error).__name__})") from None
        if not 0 <= sizes["tensors"] <= MOST_TENSORS:
            raise WrongProgramError("it names more tensors than there can be")
        return cls(
            buffers,
            names,
            [read_matrix(name) for name in names],
            [read_tensor(number) for number in range(sizes["tensors"])],
            steps,
            cache,
            sizes["positions"],
            sizes["logits_shift"],
        )


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError
    return value
