"""Damaged and malicious safetensors files: name -> (the fault that is found, what the file tries, its bytes)."""

from __future__ import annotations

import json
import struct
from typing import Any

GOOD = {
    "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
    "b": {"dtype": "F16", "shape": [4], "data_offsets": [16, 24]},
}
DATA = bytes(24)


def file_of(header: Any, data: bytes = DATA, *, length: int | None = None) -> bytes:
    """A safetensors file: `header` as JSON (or as it is, where it is bytes) behind its length (or a `length` that lies)."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def changed(**entries: Any) -> dict[str, Any]:
    """GOOD with other entries; of an entry given as a dict, only the keys that it names."""
    return GOOD | {name: GOOD.get(name, {}) | new if isinstance(new, dict) else new for name, new in entries.items()}


HOSTILE: dict[str, tuple[str, str, bytes]] = {
    "no bytes": ("empty", "an empty file", b""),
    "seven bytes": ("empty", "cut inside the length of the header", b"\0" * 7),
    "huge length": ("header too long", "a length that makes a reader reserve 16 EiB", file_of(GOOD, length=2**64 - 1)),
    "length above the limit": ("header too long", "a length just above the format's limit", file_of(GOOD, length=100_000_001)),
    "length beyond the file": ("header cut", "a header that ends after the file", file_of(GOOD, length=1000)),
    "pickle": ("header cut", "a pickle under another name", b"\x80\x04\x95" + bytes(60)),
    "not an object": ("not an object", "a header that is a list", file_of([])),
    "leading space": ("not an object", "a header that does not start with {", file_of(b" {}")),
    "cut JSON": ("JSON", "a length that ends inside the header", file_of(GOOD, length=20)),
    "no UTF-8": ("JSON", "bytes that are no text", file_of(b'{"\xff": 1}')),
    "same name twice": ("JSON", "a second entry that replaces the first", file_of(b'{"a": {}, "a": {}}', b"")),
    "same key twice": ("JSON", "two shapes for one tensor", file_of(b'{"a": {"shape": [1], "shape": [9]}}', b"")),
    "NaN": ("JSON", "a number that is none", file_of(b'{"a": NaN}', b"")),
    "deep": ("JSON", "lists nested until the stack is exhausted", file_of(b'{"a":' + b"[" * 200_000, b"")),
    "long number": ("JSON", "a number of 10,000 digits", file_of(b'{"a":' + b"9" * 10_000 + b"}", b"")),
    "metadata is a list": ("metadata", "a __metadata__ that is no map", file_of(changed(__metadata__=[]))),
    "metadata holds a number": ("metadata", "a __metadata__ with a number", file_of(GOOD | {"__metadata__": {"x": 1}})),
    "entry is a list": ("entry", "an entry that is no map", file_of(changed(a=[]))),
    "no offsets": ("entry", "an entry without its place", file_of({"a": {"dtype": "F32", "shape": [1]}})),
    "unknown dtype": ("dtype", "a dtype whose size nobody knows", file_of(changed(a={"dtype": "Q4_0"}))),
    "dtype is a list": ("dtype", "a dtype that cannot be looked up", file_of(changed(a={"dtype": [1]}))),
    "negative side": ("shape", "two negative sides with a positive product", file_of(changed(a={"shape": [-2, -2]}))),
    "side is true": ("shape", "true as a side, which Python counts as 1", file_of(changed(a={"shape": [True, 4]}))),
    "side is a float": ("shape", "a side of 2.0", file_of(changed(a={"shape": [2.0, 2]}))),
    "shape is text": ("shape", "a shape that is text", file_of(changed(a={"shape": "22"}))),
    "many sides": ("shape", "65 sides", file_of(changed(a={"shape": [1] * 65}))),
    "overflow": ("shape", "sides whose product is 0 modulo 2^64", file_of(changed(a={"shape": [2**32, 2**32]}))),
    "overflow with a zero": ("shape", "a size of 0 whose strides overflow", file_of(changed(a={"shape": [0, 2**62, 2**62]}))),
    "three offsets": ("offsets", "a third position", file_of(changed(a={"data_offsets": [0, 16, 16]}))),
    "offsets backwards": ("offsets", "an end before the start", file_of(changed(a={"data_offsets": [16, 0]}))),
    "negative offset": ("offsets", "a start inside the header", file_of(changed(a={"data_offsets": [-16, 0]}))),
    "null offset": ("offsets", "no position at all", file_of(changed(a={"data_offsets": [None, 16]}))),
    "beyond the end": ("beyond the end", "data cut short", file_of(GOOD, DATA[:-1])),
    "far beyond the end": ("beyond the end", "an end at 2^62", file_of(changed(b={"data_offsets": [16, 2**62]}))),
    "shape too small": ("wrong size", "fewer values than bytes", file_of(changed(a={"shape": [2, 1]}))),
    "shape too large": (
        "wrong size",
        "more values than bytes",
        file_of(changed(a={"shape": [2, 2000]})),
    ),
    "half a byte": (
        "wrong size",
        "three values of four bits",
        file_of({"a": {"dtype": "F4", "shape": [3], "data_offsets": [0, 1]}}, b"\0"),
    ),
    "overlap": ("overlap", "two tensors in the same bytes", file_of(changed(b={"data_offsets": [8, 16]}), DATA[:16])),
    "same place": ("overlap", "a bomb: many tensors from few bytes", file_of(GOOD | {f"c{i}": GOOD["a"] for i in range(99)})),
    "hole": ("hole", "bytes between tensors that hide something", file_of(changed(b={"data_offsets": [20, 28]}), bytes(28))),
    "hole at the start": ("hole", "bytes before the first tensor", file_of({"b": GOOD["b"]})),
    "rest": ("rest", "bytes behind the last tensor", file_of(GOOD, bytes(25))),
    "only a rest": ("rest", "no tensors, but data", file_of({})),
}
