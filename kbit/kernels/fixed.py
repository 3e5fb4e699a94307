"""FixedDecoder: an integer-only transformer as a list of steps that the kernels run, from token ids to integer logits.

A step reads and writes numbered buffers, and names matrices and integers by number; csrc/fixed_program.h has the operands of each
operator, docs/fixedpoint.md the arithmetic. No floating-point number is made on the way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from kbit.errors import KernelError
from kbit.kernels import _native
from kbit.kernels.machine import follow_environment, follow_threads
from kbit.kernels.matrix import Matrix
from kbit.kernels.reader import NativeReader

KINDS = ("int16", "int32", "rows")  # of a buffer; rows: codes of 8 bits and the step of each row


@dataclass(frozen=True)
class FixedStep:
    """One step: an operator and its operands by number; -1 stands for none. table: the name of a curve."""

    op: str
    from_: Sequence[int] = ()
    to: Sequence[int] = ()
    matrix: Sequence[int] = ()
    multiplier: Sequence[int] = ()
    shift: Sequence[int] = ()
    bias: Sequence[int] = ()
    tensor: Sequence[int] = ()
    numbers: Sequence[int] = ()
    table: str = ""


class FixedDecoder(NativeReader):
    """Steps over buffers (width, kind), the last of which is the logits; a word of KINDS says what a buffer holds.

    matrices: of whole numbers -L .. L under one scale a row, or 8-bit scales of blocks (i8). tensors: int8, int16 or int32.
    curves: int32 (2049,) by the names that steps have in `table`; exp2: int32 (257,), the knots of 2^-x.
    cache: (layers, heads of keys and values, numbers of a head, bits). positions: the most that the tables of `tensors` know;
    capacity: how many of these the cache has room for, by default all.
    Raises KernelError, which says where, unless every number, width, shape and type fits and no sum of products can overflow.
    """

    def __init__(
        self,
        *,
        steps: Sequence[FixedStep],
        buffers: Sequence[tuple[int, str]],
        matrices: Sequence[Matrix],
        tensors: Sequence[Tensor],
        curves: Mapping[str, Tensor],
        exp2: Tensor,
        cache: tuple[int, int, int, int],
        positions: int,
        capacity: int | None = None,
    ) -> None:
        follow_environment()
        follow_threads()
        numbers = {name: number for number, name in enumerate(curves)}
        self.capacity, self.vocabulary = positions if capacity is None else capacity, buffers[-1][0] if buffers else 0
        try:
            self._native: _native.FixedDecoder = _native.FixedDecoder(
                steps=[_native.FixedStep(**{**vars(step), "table": numbers.get(step.table, -1)}) for step in steps],
                buffers=list(buffers),
                matrices=[matrix._native for matrix in matrices],
                tensors=list(tensors),
                curves=list(curves.values()),
                exp2=exp2,
                cache=list(cache),
                positions=positions,
                capacity=self.capacity,
            )
        except ValueError as error:
            raise KernelError(f"an integer program: {error}") from None

    def run(self, tokens: Tensor, logits: Tensor) -> None:
        """Read `tokens`, int64 (n,), after those so far; logits, int32 (1, vocabulary) of the last or (n, vocabulary) of each.

        The same integers on every instruction set, for any number of threads, and however tokens are cut into calls.
        Raises KernelError where the cache is full, or a token not of the vocabulary.
        """
        follow_threads()
        try:
            self._native.run(tokens, logits)
        except ValueError as error:
            raise KernelError(str(error)) from None
