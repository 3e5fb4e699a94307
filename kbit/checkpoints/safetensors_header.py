"""The header of a safetensors file, checked against the file's size before a byte of the weights is read.

The file: 8 bytes, the header's length n (little-endian) | n bytes of JSON, name -> {dtype, shape, data_offsets} | the data,
every byte of it in exactly one tensor. FAULTS names every way in which a file can break this.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import torch

from kbit.checkpoints.json_file import DAMAGED, parse_json
from kbit.errors import CheckpointError

HEADER_LIMIT = 100_000_000  # bytes, the limit of the safetensors library
MAX_DIMENSIONS = 64  # torch's own
MAX_VALUES = 2**63 - 1

# name in the header -> (bits of a value, torch dtype where torch has one of its own)
DTYPES: dict[str, tuple[int, torch.dtype | None]] = {
    "BOOL": (8, torch.bool),
    "U8": (8, torch.uint8),
    "I8": (8, torch.int8),
    "U16": (16, torch.uint16),
    "I16": (16, torch.int16),
    "U32": (32, torch.uint32),
    "I32": (32, torch.int32),
    "U64": (64, torch.uint64),
    "I64": (64, torch.int64),
    "F16": (16, torch.float16),
    "BF16": (16, torch.bfloat16),
    "F32": (32, torch.float32),
    "F64": (64, torch.float64),
    "C64": (64, torch.complex64),
    "F8_E4M3": (8, torch.float8_e4m3fn),
    "F8_E5M2": (8, torch.float8_e5m2),
    "F8_E4M3FNUZ": (8, torch.float8_e4m3fnuz),
    "F8_E5M2FNUZ": (8, torch.float8_e5m2fnuz),
    "F8_E8M0": (8, torch.float8_e8m0fnu),
    "F6_E2M3": (6, None),
    "F6_E3M2": (6, None),
    "F4": (4, None),
}
DTYPE_NAMES = {dtype: name for name, (_, dtype) in DTYPES.items() if dtype is not None}

FAULTS = {
    "missing": "cannot be opened ({why}). Check the path.",
    "empty": "has {size} bytes; a safetensors file starts with the 8 bytes of its header's length. " + DAMAGED,
    "header too long": "says that its header has {length} bytes, beyond the format's limit of {limit}. " + DAMAGED,
    "header cut": "says that its header has {length} bytes and ends after {size} bytes. " + DAMAGED,
    "not an object": "has a header that does not start with '{{', so it is no safetensors file. " + DAMAGED,
    "metadata": "has a __metadata__ that is not a map of strings to strings. " + DAMAGED,
    "entry": "describes tensor {name} by something that is not dtype, shape and data_offsets. " + DAMAGED,
    "dtype": "gives tensor {name} the dtype {dtype}; known are {known}. A newer program wrote it, or it is damaged.",
    "shape": "gives tensor {name} a shape that is not a list of at most 64 sizes with a product below 2^63. " + DAMAGED,
    "offsets": "gives tensor {name} data_offsets that are not two positions in order. " + DAMAGED,
    "beyond the end": "puts the end of tensor {name} at byte {end} of the data, which has {size}: it was cut short. " + DAMAGED,
    "wrong size": "gives tensor {name} {given} bytes where its dtype and shape need {needed}. " + DAMAGED,
    "overlap": "lets tensor {name} begin inside tensor {before}. " + DAMAGED,
    "hole": "leaves {count} bytes before tensor {name} to no tensor. " + DAMAGED,
    "rest": "holds {count} bytes behind its last tensor that belong to none. " + DAMAGED,
}


@dataclass(frozen=True)
class Entry:
    """Where one tensor lies: `nbytes` bytes at `offset` of the file `path`, row-major."""

    name: str
    dtype: str  # a key of DTYPES
    shape: tuple[int, ...]
    path: Path
    offset: int
    nbytes: int


def read_header(path: Path) -> dict[str, Entry]:
    """The tensors of the safetensors file `path` in the order of their data. Raises CheckpointError with one of FAULTS."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            start = file.read(8)
            if len(start) < 8:
                fail(path, "empty", size=size)
            length = int.from_bytes(start, "little")
            if length > HEADER_LIMIT:
                fail(path, "header too long", length=length, limit=HEADER_LIMIT)
            if length > size - 8 or len(text := file.read(length)) < length:
                fail(path, "header cut", length=length, size=size)
    except OSError as error:
        fail(path, "missing", why=error.strerror)
    if not text.startswith(b"{"):
        fail(path, "not an object")
    header = parse_json(text, f"{path}: the header")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        fail(path, "metadata")
    data_size = size - 8 - length
    entries = [_entry(path, name, found, 8 + length, data_size) for name, found in header.items()]
    return _without_gaps(path, entries, 8 + length, data_size)


def fail(path: Path, fault: str, *, name: str = "", **details: Any) -> NoReturn:
    """Raise the CheckpointError of `fault`, a key of FAULTS; a tensor's `name` comes from the file, so it is quoted and cut."""
    raise CheckpointError(f"{path}: {FAULTS[fault].format(name=quoted(name), **details)}")


def quoted(name: str) -> str:
    """`name` fit for a line of text: escaped, and cut at 80 characters."""
    return repr(name if len(name) <= 80 else name[:77] + "...")


def _entry(path: Path, name: str, found: Any, data_start: int, data_size: int) -> Entry:
    """One line of the header, checked by itself."""
    if not isinstance(found, dict) or not {"dtype", "shape", "data_offsets"} <= found.keys():
        fail(path, "entry", name=name)
    dtype, shape, offsets = found["dtype"], found["shape"], found["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        fail(path, "dtype", name=name, dtype=quoted(str(dtype)), known=", ".join(DTYPES))
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(_is_size(n) for n in shape):
        fail(path, "shape", name=name)
    if prod(max(n, 1) for n in shape) > MAX_VALUES:  # a 0 beside a huge size would overflow the strides
        fail(path, "shape", name=name)
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_size(n) for n in offsets) or offsets[0] > offsets[1]:
        fail(path, "offsets", name=name)
    begin, end = offsets
    if end > data_size:
        fail(path, "beyond the end", name=name, end=end, size=data_size)
    if (end - begin) * 8 != (bits := prod(shape) * DTYPES[dtype][0]):
        fail(path, "wrong size", name=name, given=end - begin, needed=-(-bits // 8))
    return Entry(name, dtype, tuple(shape), path, data_start + begin, end - begin)


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_VALUES


def _without_gaps(path: Path, entries: list[Entry], data_start: int, data_size: int) -> dict[str, Entry]:
    """`entries` in order of position, where they cover the data once and whole."""
    entries = sorted(entries, key=lambda entry: (entry.offset, entry.nbytes))
    position, before = data_start, ""
    for entry in entries:
        if entry.offset < position:
            fail(path, "overlap", name=entry.name, before=quoted(before))
        if entry.offset > position:
            fail(path, "hole", name=entry.name, count=entry.offset - position)
        position, before = entry.offset + entry.nbytes, entry.name
    if position != data_start + data_size:
        fail(path, "rest", count=data_start + data_size - position)
    return {entry.name: entry for entry in entries}
