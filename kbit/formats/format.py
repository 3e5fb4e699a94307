"""Format: what the stored bits of a tensor mean, as one small value with one string.

codebook k [float split] - granularity [- options], for example nf4-b64, int4-b64-asym-s8, fp6e3m2-row, ternary-b64, bf16.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kbit.errors import FormatError
from kbit.formats.codebooks import CODEBOOKS, affine_levels, float_values, table_levels

FLOATS = {"f32": 32, "f16": 16, "bf16": 16}  # kept as they are: bits of a weight
AFFINES = ("asym", "min", "center")
SCALES = ("s8", "i8", "e8m0", "e4m3")  # besides float16, which needs no word
TORCH_DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Format:
    """What the stored bits mean. Format.parse makes one, str prints it; two that print alike are equal.

    codebook: a word of CODEBOOKS, or f32, f16, bf16.  k: bits of a code.  granularity: what shares one scale.  block: weights of
    a row. affine: None, or asym, min, center.  scales: f16, s8, i8, e8m0 or e4m3.  kept_percent: input features that stay in 16
    bits. exponent, mantissa: the split of a float codebook.  table, table_hash: the name of a user's levels, and the hash of
    their bytes.
    """

    codebook: str
    k: int
    granularity: str
    block: int | None = None
    affine: str | None = None
    scales: str = "f16"
    kept_percent: int = 0
    exponent: int = 0
    mantissa: int = 0
    table: str | None = None
    table_hash: str | None = None
    user_levels: tuple[float, ...] | None = field(default=None, compare=False, repr=False)

    @staticmethod
    def parse(text: str, tables: Mapping[str, Tensor] | None = None) -> Format:
        """The format that `text` names. `tables` gives the levels of `table` codebooks by name.

        Raises FormatError, with what is allowed and the nearest right string.
        """
        from kbit.formats.parse import parse_format  # parse.py builds Formats, so it comes after this file

        return parse_format(text, tables)

    def __str__(self) -> str:
        if self.is_float:
            return self.codebook
        head = self.codebook + (str(self.k) if CODEBOOKS[self.codebook].shows_k else "")
        if self.codebook == "fp" and self.k > 1:
            head += f"e{self.exponent}m{self.mantissa}"
        if self.codebook == "table":
            head += f":{self.table}" + (f"@{self.table_hash}" if self.table_hash else "")
        parts = [head, f"b{self.block}" if self.granularity == "block" else self.granularity]
        parts += [self.affine] if self.affine else []
        parts += [self.scales] if self.scales != "f16" else []
        parts += [f"o{self.kept_percent}"] if self.kept_percent else []
        return "-".join(parts)

    @property
    def is_float(self) -> bool:
        """Kept as it is, in f32, f16 or bf16: no codes, no scales."""
        return self.codebook in FLOATS

    @property
    def dtype(self) -> torch.dtype:
        """The torch dtype of a float format."""
        return TORCH_DTYPES[self.codebook]

    @property
    def learned(self) -> bool:
        """The levels are stored with the tensor: kmeans, quantile, and a user's table."""
        return not self.is_float and CODEBOOKS[self.codebook].learned

    @property
    def is_linear(self) -> bool:
        """Levels are whole multiples of a step, which is what the scale stores."""
        return self.codebook == "int"

    @property
    def code_bits(self) -> float:
        """Bits that one code takes when stored: k, but 1.6 for ternary (3^5 = 243 codes of five in a byte)."""
        return 1.6 if self.codebook == "ternary" else float(self.k)

    def levels(self) -> Tensor:
        """Float32 (n_levels,), strictly ascending, n_levels <= 2^k; a code is an index into it, and a value is level times scale.

        int: whole numbers (from -(2^(k-1) - 1), or from 0 for -asym and -min). -e8m0 and -e4m3 floats: the raw element values.
        Raises FormatError for f32, f16, bf16, kmeans and quantile, and for a table whose levels were not handed to parse.
        """
        if self.is_float:
            raise FormatError(
                f"format '{self}' has no levels: it keeps weights as they are. Use a k-bit format, such as nf4-b64."
            )
        if self.codebook == "table":
            if self.user_levels is None:
                raise FormatError(
                    f"format '{self}': the levels of '{self.table}' are not known here. "
                    f"Hand them over: Format.parse(text, tables={{'{self.table}': levels}})."
                )
            return torch.tensor(self.user_levels)
        if self.learned:
            raise FormatError(f"format '{self}' learns its levels from each tensor. Read them from the Encoded tensor.")
        if self.affine in ("asym", "min"):
            return affine_levels(self.k)
        if self.codebook == "fp":
            values = float_values(self.exponent, self.mantissa)
            return values if self.scales in ("e8m0", "e4m3") else values / values[-1]
        return CODEBOOKS[self.codebook].levels(self.k)

    def block_size(self, n_in: int) -> int:
        """Weights of a row that share a scale, for `n_in` coded columns: the block, or the row where that is shorter."""
        return min(self.block, n_in) if self.block else n_in

    def n_blocks(self, n_in: int) -> int:
        """Blocks of a row of `n_in` coded columns; the last may be short."""
        return -(-n_in // self.block_size(n_in))

    def n_kept(self, n_in: int) -> int:
        """Columns that stay in 16 bits: kept_percent of n_in to the nearest, but at least one, and never all."""
        if not self.kept_percent:
            return 0
        return min(n_in - 1, max(1, (n_in * self.kept_percent + 50) // 100))

    def stored_parts(self, shape: tuple[int, int]) -> dict[str, int]:
        """Bytes, padded, of each stored tensor of an (n_out, n_in) weight, by the suffix of its name ("" holds the codes)."""
        from kbit.formats.storage import stored_parts

        return stored_parts(self, shape)

    def stored_bits(self, shape: tuple[int, int]) -> int:
        """Every stored bit of an (n_out, n_in) weight: codes, padding, scales, zero points, tables, kept columns."""
        return 8 * sum(self.stored_parts(shape).values())


def with_table(fmt: Format, levels: Tensor) -> Format:
    """`fmt` with the levels of its table; raises FormatError where they do not fit k, or not the hash that the string gave."""
    values = table_levels(fmt.k, levels)
    digest = hashlib.sha256(values.numpy().astype("<f4").tobytes()).hexdigest()[:8]
    if fmt.table_hash not in (None, digest):
        raise FormatError(
            f"format '{fmt}': the levels handed over as '{fmt.table}' have hash {digest}. "
            "Hand over the levels that the format was made with."
        )
    return Format(**{**fmt.__dict__, "table_hash": digest, "user_levels": tuple(values.tolist())})
