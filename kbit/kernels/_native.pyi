"""The compiled module (csrc/bindings.cpp). ValueError says which tensor or number does not fit."""

from collections.abc import Sequence

from torch import Tensor

class Matrix:
    def __init__(
        self,
        *,
        n_out: int,
        n_in: int,
        n_kept: int,
        block: int,
        k: int,
        coding: int,
        first: int,
        rise: int,
        scales: int,
        per_tensor: bool,
        step: float,
        tensor_scale: float,
        integer_bits: int,
        codes: Tensor,
        scale: Tensor,
        second_scale: Tensor | None,
        zero: Tensor | None,
        shift: Tensor | None,
        levels: Tensor,
        integer_levels: Tensor | None,
        kept_columns: Tensor | None,
        kept_weight: Tensor | None,
    ) -> None: ...
    @property
    def n_out(self) -> int: ...
    @property
    def n_in(self) -> int: ...
    @property
    def n_coded(self) -> int: ...
    @property
    def n_segments(self) -> int: ...
    def product(self, x: Tensor, y: Tensor, compute: str) -> None: ...
    def dequantize(self, row: int, row_end: int, out: Tensor) -> None: ...
    def quantize_activations(self, x: Tensor, q: Tensor, scale: Tensor, sum: Tensor) -> None: ...
    def accumulate(self, q: Tensor, y: Tensor) -> None: ...
    def largest_sum(self) -> int: ...

class Step:
    def __init__(
        self,
        *,
        op: str,
        from_: list[int],
        to: list[int],
        matrix: list[int] = ...,
        dense: list[int] = ...,
        vector: list[int] = ...,
        layer: int = ...,
        width: int = ...,
        value: float = ...,
    ) -> None: ...

class Decoder:
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
    ) -> None: ...
    @property
    def position(self) -> int: ...
    @property
    def cache_bytes(self) -> int: ...
    def run(self, tokens: Tensor, logits: Tensor, compute: str) -> None: ...
    def rewind(self, position: int) -> None: ...

class FixedStep:
    def __init__(
        self,
        *,
        op: str,
        from_: Sequence[int] = ...,
        to: Sequence[int] = ...,
        matrix: Sequence[int] = ...,
        multiplier: Sequence[int] = ...,
        shift: Sequence[int] = ...,
        bias: Sequence[int] = ...,
        tensor: Sequence[int] = ...,
        numbers: Sequence[int] = ...,
        table: int = ...,
    ) -> None: ...

class FixedDecoder:
    def __init__(
        self,
        *,
        steps: list[FixedStep],
        buffers: list[tuple[int, str]],
        matrices: list[Matrix],
        tensors: list[Tensor],
        curves: list[Tensor],
        exp2: Tensor,
        cache: list[int],
        positions: int,
        capacity: int,
    ) -> None: ...
    @property
    def position(self) -> int: ...
    @property
    def cache_bytes(self) -> int: ...
    def run(self, tokens: Tensor, logits: Tensor) -> None: ...
    def rewind(self, position: int) -> None: ...

def isa() -> str: ...
def isas() -> list[tuple[str, bool]]: ...
def isa_shares() -> list[tuple[str, int]]: ...
def set_isa(name: str) -> bool: ...
def threads() -> int: ...
def set_threads(threads: int) -> None: ...
def read_bandwidth(data: Tensor, threads: int, rounds: int) -> float: ...
