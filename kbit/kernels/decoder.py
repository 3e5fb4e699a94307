"""Decoder: a transformer as a list of steps that the kernels run, from token ids to logits, with a cache of keys and values.

A step reads and writes buffers (rows of floats, one to a token) by number, and names its weights by number:

embed   rows of matrix[0], or of dense[0], of the tokens, times `value`
norm    root mean square norm of every `width` numbers, weight vector[0], epsilon `value`
linear  up to three products of one input: matrix[j] or dense[j], plus vector[j]
rotate  rotary position embedding of heads of `width`, in place
store   keys and values into the cache of `layer`
attend  attention of queries over the cache of `layer`, scores times `value`
gate    silu(from[0]) * from[1]
add     from[0] onto to[0]
last    the last row alone, where logits of the last token are all that is asked for
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from kbit.errors import KernelError
from kbit.kernels import _native
from kbit.kernels.machine import follow_environment, follow_threads
from kbit.kernels.matrix import Matrix
from kbit.kernels.reader import NativeReader


@dataclass(frozen=True)
class Step:
    """One step: an operator and its operands. -1 stands for none."""

    op: str
    from_: list[int]
    to: list[int]
    matrix: list[int] = field(default_factory=list)
    dense: list[int] = field(default_factory=list)
    vector: list[int] = field(default_factory=list)
    layer: int = 0
    width: int = 0
    value: float = 1.0


class Decoder(NativeReader):
    """Steps over buffers of `widths` floats; the last buffer is the logits.

    vectors: float32, one dimension. cosine, sine: float32 (capacity, head / 2). The cache holds keys and values of `capacity`
    positions at 32 bits. Raises KernelError where a step does not fit its buffers or weights.
    """

    def __init__(
        self,
        *,
        steps: list[Step],
        widths: list[int],
        matrices: list[Matrix],
        vectors: list[Tensor],
        cosine: Tensor,
        sine: Tensor,
        layers: int,
        kv_heads: int,
        head: int,
        capacity: int,
    ) -> None:
        follow_environment()
        self.capacity, self.vocabulary = capacity, widths[-1]
        try:
            self._native: _native.Decoder = _native.Decoder(
                steps=[_native.Step(**vars(step)) for step in steps],
                widths=widths,
                matrices=[matrix._native for matrix in matrices],
                vectors=vectors,
                cosine=cosine,
                sine=sine,
                layers=layers,
                kv_heads=kv_heads,
                head=head,
                capacity=capacity,
            )
        except ValueError as error:
            raise KernelError(str(error)) from None

    def run(self, tokens: Tensor, logits: Tensor, compute: str) -> None:
        """Read `tokens`, int64 (n,), after those so far; logits, float32 (1, vocabulary) of the last or (n, vocabulary) of each.

        compute: "int8" or "exact". Raises KernelError where the cache is full, or a token not of the vocabulary.
        """
        follow_threads()
        try:
            self._native.run(tokens, logits, compute)
        except ValueError as error:
            raise KernelError(str(error)) from None
