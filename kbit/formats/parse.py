"""From a format string to a Format, and from a wrong string to the nearest right one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches

from torch import Tensor

from kbit.errors import FormatError
from kbit.formats.codebooks import CODEBOOKS, FLOAT_SPLITS
from kbit.formats.format import AFFINES, FLOATS, SCALES, Format, with_table

ALIASES = {
    "mxfp4": "fp4e2m1-b32-e8m0",
    "mxfp6": "fp6e3m2-b32-e8m0",
    "mxfp6e3m2": "fp6e3m2-b32-e8m0",
    "mxfp6e2m3": "fp6e2m3-b32-e8m0",
    "mxfp8": "fp8e4m3-b32-e8m0",
    "mxfp8e4m3": "fp8e4m3-b32-e8m0",
    "mxfp8e5m2": "fp8e5m2-b32-e8m0",
    "mxint8": "int8-b32-e8m0",
    "nvfp4": "fp4e2m1-b16-e4m3",
}
GRANULARITIES = ("tensor", "row", "token")
LARGEST_BLOCK = 65536
LARGEST_KEPT_PERCENT = 50
HEAD = re.compile(r"(?P<word>[a-z]+?)(?P<k>[0-9]+)?(?:e(?P<exponent>[0-9]+)m(?P<mantissa>[0-9]+))?")
TABLE = re.compile(r"table(?P<k>[0-9]+):(?P<name>[A-Za-z][A-Za-z0-9_.]*)(?:@(?P<hash>[0-9a-f]{8}))?")


def parse_format(text: str, tables: Mapping[str, Tensor] | None = None) -> Format:
    """The format that `text` names; options in any order. Raises FormatError: what is wrong, what is allowed, the nearest right
    string.
    """
    text = "".join(letter if letter.isprintable() else "?" for letter in text.strip())
    try:
        fmt = read(text)
    except WrongPartError as wrong:
        raise FormatError(f"format '{text}': {wrong} {nearest_right(text)}.") from None
    if fmt.table in (tables or {}):
        return with_table(fmt, (tables or {})[str(fmt.table)])
    return fmt


class WrongPartError(Exception):
    """What is wrong with a format string and what is allowed there, ready to be followed by the nearest right one."""


def read(text: str) -> Format:
    """The format that `text` names, or WrongPartError."""
    if text.lower() in ALIASES:
        text = ALIASES[text.lower()]
    head, *rest = text.split("-")
    if head.lower() in FLOATS:
        if rest:
            raise WrongPartError(f"{head} keeps weights as they are and takes no '-{rest[0]}'. Write")
        return Format(head.lower(), FLOATS[head.lower()], "tensor")
    parts = read_head(head)
    if not rest or not rest[0]:
        raise WrongPartError("the granularity is missing. Add a block size as b64, or row, or tensor, or token:")
    parts.update(read_granularity(rest[0].lower()))
    for option in rest[1:]:
        read_option(option.lower(), parts)
    return Format(**parts)


def read_head(head: str) -> dict:
    """Codebook, k, float split and table name, or WrongPartError."""
    table = TABLE.fullmatch(head)
    if table:
        return {"codebook": "table", "k": check_k("table", table["k"]), "table": table["name"], "table_hash": table["hash"]}
    match = HEAD.fullmatch(head.lower())
    if not match or match["word"] not in CODEBOOKS:
        raise WrongPartError(
            f"'{head}' is not a codebook with its k. Codebooks are {', '.join(CODEBOOKS)}; f32, f16, bf16 keep weights. Perhaps"
        )
    word = match["word"]
    if word == "table":
        raise WrongPartError(f"'{head}' does not name its levels. Write table, k, a colon and a name (letters, digits, _ and .):")
    if not CODEBOOKS[word].shows_k:
        if match["k"] or match["exponent"]:
            raise WrongPartError(f"{word} takes no number. Write")
        return {"codebook": word, "k": CODEBOOKS[word].ks[0]}
    k = check_k(word, match["k"])
    if word != "fp":
        if match["exponent"]:
            raise WrongPartError(f"only fp is split into exponent and mantissa, not {word}. Write")
        return {"codebook": word, "k": k}
    exponent, mantissa = (0, 0) if k == 1 else FLOAT_SPLITS[k]
    if match["exponent"]:
        exponent, mantissa = int(match["exponent"]), int(match["mantissa"])
        if 1 + exponent + mantissa != k or exponent < (k > 1):
            raise WrongPartError(
                f"e{exponent}m{mantissa} does not split {k} bits: 1 + e + m must be k, and e at least 1. Perhaps"
            )
    return {"codebook": "fp", "k": k, "exponent": exponent, "mantissa": mantissa}


SECOND_LEVELS = {"s8": "16 blocks", "i8": "all blocks"}


def check_k(word: str, digits: str | None) -> int:
    """k as a number that the codebook exists for, or WrongPartError."""
    ks = CODEBOOKS[word].ks
    allowed = f"{ks[0]} to {ks[-1]}" if len(ks) > 1 else str(ks[0])
    if digits is None:
        raise WrongPartError(f"{word} needs its k, the bits of a code ({allowed}). Write")
    if len(digits) > 2 or int(digits) not in ks or digits[0] == "0":
        raise WrongPartError(f"k = {digits} is not to be had for {word}: k is {allowed}. Perhaps")
    return int(digits)


def read_granularity(word: str) -> dict:
    """Granularity and block, or WrongPartError."""
    if word in GRANULARITIES:
        return {"granularity": word}
    if re.fullmatch(r"b[1-9][0-9]{0,5}", word) and int(word[1:]) <= LARGEST_BLOCK:
        return {"granularity": "block", "block": int(word[1:])}
    if re.fullmatch(r"b[0-9]+", word):
        raise WrongPartError(f"a block of {word[1:]} is not to be had: blocks are b1 to b{LARGEST_BLOCK}. Perhaps")
    raise WrongPartError(f"'{word}' is not a granularity. Write a block size as b64, or row, or tensor, or token:")


def read_option(option: str, parts: dict) -> None:
    """Adds an option to `parts`, or WrongPartError where it is unknown, clashes, or does not go with the codebook."""
    if option in AFFINES:
        if "affine" in parts:
            raise WrongPartError(f"{option} clashes with {parts['affine']}: at most one of asym, min, center. Perhaps")
        if option != "center" and parts["codebook"] != "int":
            raise WrongPartError(f"{option} goes with int alone. Write")
        parts["affine"] = option
    elif option in SCALES:
        if "scales" in parts:
            raise WrongPartError(f"{option} clashes with {parts['scales']}: at most one of s8, i8, e8m0, e4m3. Perhaps")
        if option in SECOND_LEVELS and parts["granularity"] != "block":
            raise WrongPartError(
                f"{option} shares a second scale among {SECOND_LEVELS[option]} of a row, so it needs blocks. Perhaps"
            )
        parts["scales"] = option
    elif re.fullmatch(r"o[0-9]+", option):
        if "kept_percent" in parts:
            raise WrongPartError(f"{option} clashes with o{parts['kept_percent']}: at most one share of outliers. Perhaps")
        if option[1] == "0" or len(option) > 3 or int(option[1:]) > LARGEST_KEPT_PERCENT:
            raise WrongPartError(f"{option[1:]}% of outliers is not to be had: o1 to o{LARGEST_KEPT_PERCENT}. Perhaps")
        parts["kept_percent"] = int(option[1:])
    else:
        raise WrongPartError(
            f"'{option}' is not an option. Options are asym, min, center; s8, i8, e8m0, e4m3; o1 to o{LARGEST_KEPT_PERCENT}. "
            "Perhaps"
        )


def nearest_right(text: str) -> str:
    """A right format string near to `text`: the closest codebook, k within its bounds, a granularity, and the options that go
    with them.
    """
    head, *rest = text.split("-")
    if head.lower() in FLOATS:
        return head.lower()
    pieces = [piece.lower() for piece in rest if piece]
    parts = nearest_head(head)
    block = next((piece for piece in pieces if re.fullmatch(r"b?[0-9]+", piece)), None)
    word = next((found[0] for piece in pieces if (found := get_close_matches(piece, GRANULARITIES, 1))), None)
    if block and int(block.lstrip("b")[:9]) > 0:
        parts.update(granularity="block", block=min(LARGEST_BLOCK, int(block.lstrip("b")[:9])))
    elif word:
        parts.update(granularity=word)
    else:
        parts.update(granularity="block", block=64)
    for piece in pieces:
        close = get_close_matches(piece, AFFINES + SCALES, 1) or [piece]
        try:
            read_option(close[0], parts)
        except WrongPartError:
            continue  # an option that is unknown, clashes or does not fit is left out
    return str(Format(**parts))


def nearest_head(head: str) -> dict:
    """The parts of the codebook closest to `head`; int4 where nothing is close."""
    if head.lower().startswith("table"):
        digits, name = re.search(r"[0-9]", head), re.search(r":([A-Za-z][A-Za-z0-9_.]*)", head)
        k = min(8, max(1, int(digits.group()))) if digits else 4
        return {"codebook": "table", "k": k, "table": name[1] if name else "NAME"}
    match = re.match(r"(?P<word>[a-z]*)_?(?P<k>[0-9]{1,2})?", head.lower())
    assert match  # every part of the pattern may be empty
    word = (get_close_matches(match["word"], [name for name in CODEBOOKS if name != "table"], 1) or ["int"])[0]
    ks = CODEBOOKS[word].ks
    k = min(ks[-1], max(ks[0], int(match["k"] or 4)))
    parts = {"codebook": word, "k": k}
    if word == "fp" and k > 1:
        parts.update(exponent=FLOAT_SPLITS[k][0], mantissa=FLOAT_SPLITS[k][1])
    return parts
