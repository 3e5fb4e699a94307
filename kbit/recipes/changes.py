"""What could be changed about a format or its method so that a layer suffers less: the candidates of `kbit inspect`'s advice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from kbit.errors import FormatError
from kbit.formats import CODEBOOKS, Format
from kbit.formats.codebooks import FLOAT_SPLITS

ROW_TO_BLOCK = 128  # of weights in a row, the first block smaller than the row that is tried


@dataclass(frozen=True)
class Change:
    """One thing to do instead, in words, and the format and method that it leads to."""

    words: str
    fmt: Format
    method: str


def changes_of(fmt: Format, method: str) -> Iterator[Change]:
    """All changes of TABLE that there are for `fmt` and `method`; each leads to a format that exists and differs."""
    for words, change in TABLE.items():
        made = change(fmt, method)
        if made is None:
            continue
        wanted, new_method = made
        try:
            new = Format.parse(str(wanted)) if wanted.user_levels is None else wanted
        except FormatError:
            continue  # this codebook does not go with that k or those options
        if (new, new_method) != (fmt, method):
            yield Change(words, new, new_method)


Made = tuple[Format, str] | None


def more_bits(fmt: Format, method: str) -> Made:
    """The same codebook with k + 1; from binary to ternary, from there to int3."""
    if fmt.codebook == "binary":
        return replace(fmt, codebook="ternary", k=2), method
    if fmt.codebook == "ternary":
        return replace(fmt, codebook="int", k=3), method
    if fmt.k == 8 or fmt.codebook == "table":
        return None
    return replace(fmt, k=fmt.k + 1, **_split(fmt.codebook, fmt.k + 1)), method


def smaller_range(fmt: Format, method: str) -> Made:
    """The range of least squared error, where the method does not take it already."""
    takes_it = method == "rtn-mse" or (method == "rtn" and fmt.k <= 2)
    return None if takes_it else (fmt, "rtn-mse")


def smaller_blocks(fmt: Format, method: str) -> Made:
    """Half the block; a row's worth of blocks instead of a row; rows instead of the tensor."""
    if fmt.granularity == "tensor":
        return replace(fmt, granularity="row"), method
    if fmt.block is None:
        return replace(fmt, granularity="block", block=ROW_TO_BLOCK), method
    return (replace(fmt, block=fmt.block // 2), method) if fmt.block > 1 else None


def smaller_blocks_and_scales(fmt: Format, method: str) -> Made:
    """Half the block with scales of 8 bits on two levels, which together cost about the same bits."""
    if fmt.block is None or fmt.block == 1 or fmt.scales != "f16":
        return None
    return replace(fmt, block=fmt.block // 2, scales="s8"), method


def zero_point(fmt: Format, method: str) -> Made:
    """Integers with a zero point, so that a lopsided block uses all its codes."""
    return (replace(fmt, affine="asym"), method) if fmt.codebook == "int" and fmt.affine is None else None


def codebook(word: str) -> Callable[[Format, str], Made]:
    """The codebook `word` with the same k; a zero point or minimum, which belongs to int alone, goes."""

    def change(fmt: Format, method: str) -> Made:
        if fmt.codebook == word or fmt.k not in CODEBOOKS[word].ks or (fmt.k == 1 and word != "kmeans"):
            return None  # at k = 1 every symmetric codebook is {-1, +1}
        affine = fmt.affine if fmt.affine == "center" else None
        new = replace(fmt, codebook=word, affine=affine, table=None, table_hash=None, user_levels=None, **_split(word, fmt.k))
        return new, method

    return change


def outliers_kept(fmt: Format, method: str) -> Made:
    """One percent more of the input features in 16 bits."""
    return replace(fmt, kept_percent=fmt.kept_percent + 1), method


def sixteen_bits(fmt: Format, method: str) -> Made:
    """No codes at all."""
    return Format.parse("bf16"), method


def _split(word: str, k: int) -> dict[str, Any]:
    exponent, mantissa = FLOAT_SPLITS[k] if word == "fp" and k > 1 else (0, 0)
    return {"exponent": exponent, "mantissa": mantissa}


# What to say -> what to do. The order is that of the issue a user has: bits, range, blocks, codebook, exceptions.
TABLE: dict[str, Callable[[Format, str], Made]] = {
    "one more bit": more_bits,
    "a smaller range (MSE-optimal)": smaller_range,
    "smaller blocks": smaller_blocks,
    "smaller blocks, 8-bit scales": smaller_blocks_and_scales,
    "a zero point": zero_point,
    "a normal-float codebook": codebook("nf"),
    "a float codebook": codebook("fp"),
    "a k-means codebook": codebook("kmeans"),
    "1% more input features in 16 bits": outliers_kept,
    "16 bits": sixteen_bits,
}
