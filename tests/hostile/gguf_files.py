"""Damaged and malicious GGUF files: name -> (the fault that is found, what the file tries, its bytes)."""

from __future__ import annotations

import struct

U32, F32, BOOL, STRING, ARRAY = 4, 6, 7, 8, 9  # types of settings
W_F32, W_Q8_0 = 0, 8  # types of tensors


def text(value: str | bytes, *, length: int | None = None) -> bytes:
    """A string behind its length, or behind a length that lies."""
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw) if length is None else length) + raw


def setting(key: str | bytes, kind: int, value: bytes) -> bytes:
    """One setting."""
    return text(key) + struct.pack("<I", kind) + value


def array(kind: int, count: int, values: bytes) -> bytes:
    """The value of a setting that is an array."""
    return struct.pack("<IQ", kind, count) + values


def tensor(name: str | bytes, sides: tuple[int, ...], kind: int = W_F32, offset: int = 0, *, n_sides: int | None = None) -> bytes:
    """What the file says of one tensor; sides with the row first."""
    return text(name) + struct.pack(f"<I{len(sides)}QIQ", len(sides) if n_sides is None else n_sides, *sides, kind, offset)


ARCHITECTURE = setting("general.architecture", STRING, text("llama"))
A, B = tensor("a", (4, 2)), tensor("b", (8,), offset=32)


def gguf(
    settings: tuple[bytes, ...] = (ARCHITECTURE,),
    tensors: tuple[bytes, ...] = (A, B),
    data: int = 64,
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    n_settings: int | None = None,
    n_tensors: int | None = None,
    alignment: int = 32,
) -> bytes:
    """A GGUF file with `data` bytes behind its header, or one that lies about itself."""
    counts = len(tensors) if n_tensors is None else n_tensors, len(settings) if n_settings is None else n_settings
    head = magic + struct.pack("<IQQ", version, *counts) + b"".join(settings + tensors)
    return head + bytes(-len(head) % alignment + data)


def with_setting(key: str | bytes, kind: int, value: bytes) -> bytes:
    """A good file with one more setting."""
    return gguf((ARCHITECTURE, setting(key, kind, value)))


U32_OF = struct.Struct("<I").pack


def with_array(kind: int, count: int, values: bytes) -> bytes:
    """A good file with one more setting, an array."""
    return with_setting("k", ARRAY, array(kind, count, values))


HOSTILE: dict[str, tuple[str, str, bytes]] = {
    "no bytes": ("magic", "an empty file", b""),
    "three bytes": ("magic", "cut inside the magic", b"GGU"),
    "other magic": ("magic", "an old ggml file", gguf(magic=b"ggjt")),
    "version 1": ("version", "a version with other lengths", gguf(version=1)),
    "version 99": ("version", "a version of the future", gguf(version=99)),
    "big-endian": ("big-endian", "numbers the other way round", gguf(version=0x03000000)),
    "cut after the magic": ("cut", "no version", b"GGUF"),
    "cut inside the counts": ("cut", "half a count", gguf()[:14]),
    "2^64 - 1 tensors": ("counts", "a count that reserves all memory", gguf(n_tensors=2**64 - 1)),
    "2^60 settings": ("counts", "a loop that never ends", gguf(n_settings=2**60)),
    "one setting too many": ("name", "a count that takes tensors for settings", gguf(n_settings=2, data=1024)),
    "one tensor too many": ("name", "a count that takes padding for a tensor", gguf(n_tensors=3, data=1024)),
    "empty key": ("name", "a setting without a name", with_setting("", U32, U32_OF(1))),
    "long key": ("name", "a key of 70,000 bytes", with_setting("k" * 70_000, U32, U32_OF(1))),
    "key of 2^63 bytes": ("name", "a length that overflows when added", gguf((ARCHITECTURE, text("k", length=2**63)))),
    "empty tensor name": ("name", "a tensor without a name", gguf(tensors=(tensor("", (4, 2)), B))),
    "text beyond the file": ("cut", "a text that ends after the file", with_setting("k", STRING, text("x", length=60_000))),
    "text of 2^40 bytes": ("string", "a text that reserves a terabyte", with_setting("k", STRING, text("x", length=2**40))),
    "text of 2^64 - 1 bytes": ("string", "a text of -1 bytes", with_setting("k", STRING, text("x", length=2**64 - 1))),
    "text that is no text": ("text", "bytes that are not UTF-8", with_setting("k", STRING, text(b"\xff\xfe"))),
    "key that is no text": ("text", "a key that is not UTF-8", with_setting(b"\xff", U32, U32_OF(1))),
    "texts that are no text": ("text", "a token that is not UTF-8", with_setting("t", ARRAY, array(STRING, 1, text(b"\xc3")))),
    "unknown type": ("type", "a value whose size nobody knows", with_setting("k", 13, U32_OF(1))),
    "array of unknown type": ("type", "values whose size nobody knows", with_setting("k", ARRAY, array(99, 1, U32_OF(1)))),
    "truth value 2": ("bool", "neither true nor false", with_setting("k", BOOL, b"\2")),
    "array of arrays": ("array", "nesting until the stack is exhausted", with_setting("k", ARRAY, array(ARRAY, 1, b"") * 1000)),
    "array of 2^40": ("array", "a loop of hours", with_setting("k", ARRAY, array(F32, 2**40, b""))),
    "array beyond the file": ("cut", "numbers that end after the file", with_array(F32, 2**20, b"")),
    "short array beyond the file": (
        "cut",
        "a few that end after it",
        gguf((setting("k", ARRAY, array(F32, 99, b"")),), (), 0),
    ),
    "texts beyond the file": (
        "cut",
        "tokens that end after the file",
        with_array(STRING, 99, text("x") * 3),
    ),
    "long text among texts": (
        "cut",
        "one token of a terabyte",
        with_array(STRING, 1, text("x", length=2**40)),
    ),
    "same key twice": ("twice", "a second value that replaces the first", gguf((ARCHITECTURE, ARCHITECTURE))),
    "same tensor twice": ("twice", "a second tensor that replaces the first", gguf(tensors=(A, tensor("a", (8,), offset=32)))),
    "alignment 0": ("alignment", "a division by zero", with_setting("general.alignment", U32, U32_OF(0))),
    "alignment 3": ("alignment", "no power of two", with_setting("general.alignment", U32, U32_OF(3))),
    "alignment 2^31": ("alignment", "padding beyond every file", with_setting("general.alignment", U32, U32_OF(2**31))),
    "alignment is text": ("alignment", "an alignment that is no number", with_setting("general.alignment", STRING, text("32"))),
    "alignment is true": ("alignment", "an alignment of true", with_setting("general.alignment", F32, struct.pack("<f", 32))),
    "no architecture": ("architecture", "a model of no kind", gguf((setting("k", U32, U32_OF(1)),))),
    "architecture is a number": (
        "architecture",
        "a kind that is no text",
        gguf((setting("general.architecture", U32, U32_OF(1)),)),
    ),
    "one part of three": ("split", "a part taken for the whole", with_setting("split.count", U32, U32_OF(3))),
    "no tensors": ("no tensors", "a vocabulary", gguf(tensors=(), data=0)),
    "no sides": ("sides", "a tensor without sides", gguf(tensors=(tensor("a", ()), B))),
    "five sides": ("sides", "a fifth side", gguf(tensors=(tensor("a", (1,) * 5), B))),
    "2^32 - 1 sides": ("sides", "a loop of minutes", gguf(tensors=(tensor("a", (4, 2), n_sides=2**32 - 1), B))),
    "a side of 0": ("sides", "a tensor without values", gguf(tensors=(tensor("a", (4, 0)), B))),
    "unknown tensor type": ("tensor type", "weights that nobody can read", gguf(tensors=(tensor("a", (4, 2), 4), B))),
    "tensor type 2^32 - 1": ("tensor type", "a type beyond the table", gguf(tensors=(tensor("a", (4, 2), 2**32 - 1), B))),
    "integer weights": ("tensor type", "whole numbers for weights", gguf(tensors=(tensor("a", (4, 2), 26), B))),
    "row that no block divides": ("row", "a block that ends in the next row", gguf(tensors=(tensor("a", (33, 2), W_Q8_0), B))),
    "overlap": ("offset", "two tensors in the same bytes", gguf(tensors=(A, tensor("b", (8,), offset=0)))),
    "misaligned": ("offset", "a tensor at an odd place", gguf(tensors=(A, tensor("b", (8,), offset=33)))),
    "hole": ("offset", "bytes between tensors that hide something", gguf(tensors=(A, tensor("b", (8,), offset=64)), data=96)),
    "offset 2^64 - 32": (
        "offset",
        "an offset that overflows into the header",
        gguf(tensors=(A, tensor("b", (8,), offset=2**64 - 32))),
    ),
    "cut data": ("beyond the end", "data cut short", gguf(data=63)),
    "overflowing size": ("beyond the end", "sides whose product is 0 modulo 2^64", gguf(tensors=(tensor("a", (2**32, 2**32)),))),
    "rest": ("rest", "bytes behind the last tensor", gguf(data=97)),
}
