"""The compiled module (csrc/bindings.cpp). ValueError says which tensor or number does not fit."""

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

def isa() -> str: ...
def isas() -> list[tuple[str, bool]]: ...
def isa_shares() -> list[tuple[str, int]]: ...
def set_isa(name: str) -> bool: ...
def threads() -> int: ...
def set_threads(threads: int) -> None: ...
def read_bandwidth(data: Tensor, threads: int, rounds: int) -> float: ...
