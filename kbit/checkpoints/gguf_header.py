"""The header of a GGUF file, checked against the file's size before any library reads it.

The file, little-endian: "GGUF", version, the number of tensors and of settings | settings, each a key, a type and a value | of
each tensor its name, sides, type and offset | padding | the data, each tensor padded to the alignment. Strings carry their length
before them, so that every length and count can lie. FAULTS names every way in which a file can break this.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from kbit.checkpoints.json_file import DAMAGED
from kbit.checkpoints.safetensors_header import Entry, quoted
from kbit.errors import CheckpointError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_ALIGNMENT = 2**16
MAX_NAME = 2**16 - 1  # bytes of a key or a tensor's name, from GGUF's specification
MAX_STRING = 2**26  # bytes; chat templates and tokenizers in JSON are the longest
MAX_ARRAY = 2**22  # values; vocabularies and merges are the longest, below 10^6
MAX_SIDES = 4
SHORT = 2**16  # bytes; longer settings belong to the tokenizer, and are checked but not kept

STRING, ARRAY, BOOL = 8, 9, 7
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}  # type -> struct's letter
SIZES = {kind: struct.calcsize(letter) for kind, letter in SCALARS.items()}

# GGML's types that gguf-py can dequantize, by their number in the file
WEIGHT_TYPES = {
    int(kind): kind
    for kind in GGML_QUANT_SIZES
    if kind.name in ("F32", "F16") or isinstance(getattr(quants, kind.name, None), type)
}

FAULTS = {
    "missing": "cannot be opened ({why}). Check the path.",
    "magic": "does not start with GGUF. Check that it is a GGUF file; an older ggml file must be converted by llama.cpp.",
    "version": "is GGUF version {found}; versions {known} are read. Convert it again with a newer llama.cpp.",
    "big-endian": "is a big-endian GGUF file. Convert it to little-endian first (in gguf-py: gguf-convert-endian).",
    "cut": "ends inside {what}: it was cut short. " + DAMAGED,
    "counts": "says that it has {tensors} tensors and {settings} settings, more than fit its {size} bytes. " + DAMAGED,
    "name": "has a name of {length} bytes where 1 to {limit} are allowed. " + DAMAGED,
    "string": "has a text of {length} bytes in {what}, beyond {limit}. " + DAMAGED,
    "text": "has a text in {what} that is not UTF-8. " + DAMAGED,
    "type": "gives the setting {name} the unknown type {found}. " + DAMAGED,
    "bool": "gives the setting {name} a truth value of {found}. " + DAMAGED,
    "array": "gives the setting {name} an array of {found} values, where at most {limit} numbers or texts are allowed. "
    + DAMAGED,
    "twice": "has {name} twice. " + DAMAGED,
    "alignment": "has a general.alignment that is not a power of two up to {limit}. " + DAMAGED,
    "architecture": "does not name its architecture. " + DAMAGED,
    "split": "is one of {found} parts of a model. Join them first (in llama.cpp: llama-gguf-split --merge).",
    "no tensors": "holds no tensors, so it is a vocabulary and no model. Give the file with the weights.",
    "sides": "gives tensor {name} {found} sides, or a side of 0. " + DAMAGED,
    "tensor type": "gives tensor {name} the type {found}, which gguf-py cannot read as weights. Get the model in another type.",
    "row": "gives tensor {name} rows of {found} values, which its type's blocks of {block} do not divide. " + DAMAGED,
    "offset": "puts tensor {name} at byte {found} of the data instead of {needed}. " + DAMAGED,
    "beyond the end": "puts the end of tensor {name} at byte {end} of {size}: it was cut short. " + DAMAGED,
    "rest": "holds {count} bytes behind its last tensor that belong to none. " + DAMAGED,
}


@dataclass(frozen=True)
class GgufHeader:
    """Settings and tensors of a GGUF file.

    settings: key -> value; those longer than SHORT are left out. raw: key -> their bytes in the file, from the key's length on.
    lengths: key -> the number of values of each array. tensors: name -> Entry, whose dtype is the name of GGML's type, and whose
    shape has the row last, as torch has it.
    """

    path: Path
    settings: dict[str, Any] = field(default_factory=dict)
    raw: dict[str, bytes] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    tensors: dict[str, Entry] = field(default_factory=dict)

    @property
    def architecture(self) -> str:
        """llama, qwen2, ..."""
        return self.settings["general.architecture"]


def read_gguf_header(path: Path) -> GgufHeader:
    """The checked header of `path`. Raises CheckpointError with one of FAULTS."""
    try:
        with path.open("rb") as file:
            return _Reader(path, file).read()
    except OSError as error:
        fail(path, "missing", why=error.strerror)


def fail(path: Path, fault: str, *, name: str = "", **details: Any) -> NoReturn:
    """Raise the CheckpointError of `fault`, a key of FAULTS."""
    raise CheckpointError(f"{path}: {FAULTS[fault].format(name=quoted(name), **details)}")


class _Reader:
    """Reads forward through the file; nothing is taken before it is known to be there."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.size = os.fstat(file.fileno()).st_size
        self.header = GgufHeader(path)
        self.what = "its first bytes"  # what is being read, for the text of an error

    def read(self) -> GgufHeader:
        """All of the header."""
        if self.size < len(MAGIC) or self.bytes(4) != MAGIC:
            fail(self.path, "magic")
        version = self.number("I")
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
            fail(self.path, "big-endian") if swapped else fail(self.path, "version", found=version, known=VERSIONS)
        tensors, settings = self.number("Q"), self.number("Q")
        if tensors * 32 + settings * 13 > self.size:  # the fewest bytes that one can have
            fail(self.path, "counts", tensors=tensors, settings=settings, size=self.size)
        for _ in range(settings):
            self.setting()
        alignment = self.check_settings()
        if not tensors:
            fail(self.path, "no tensors")
        self.place([self.tensor() for _ in range(tensors)], alignment)
        return self.header

    def bytes(self, count: int) -> bytes:
        """The next `count` bytes."""
        if count > self.size - self.file.tell() or len(found := self.file.read(count)) < count:
            fail(self.path, "cut", what=self.what)
        return found

    def number(self, letter: str) -> Any:
        """The next number, of the struct type `letter`."""
        return struct.unpack("<" + letter, self.bytes(struct.calcsize("<" + letter)))[0]

    def text(self, length: int) -> str:
        """The next `length` bytes as UTF-8."""
        if length > MAX_STRING:
            fail(self.path, "string", length=length, what=self.what, limit=MAX_STRING)
        try:
            return self.bytes(length).decode()
        except UnicodeDecodeError:
            fail(self.path, "text", what=self.what)

    def name(self) -> str:
        """The next string, a key or a tensor's name."""
        length = self.number("Q")
        if not 0 < length <= MAX_NAME:
            fail(self.path, "name", length=length, limit=MAX_NAME)
        return self.text(length)

    def setting(self) -> None:
        """The next key with its value."""
        start = self.file.tell()
        self.what = f"setting {len(self.header.lengths)}"
        key = self.name()
        self.what = f"the setting {quoted(key)}"
        if key in self.header.lengths:
            fail(self.path, "twice", name=key)
        kind = self.number("I")
        if kind == ARRAY:
            value, count = self.array(key)
        else:
            value, count = self.value(key, kind), 1
        self.header.lengths[key] = count
        if (length := self.file.tell() - start) <= SHORT:
            self.file.seek(start)
            self.header.raw[key] = self.bytes(length)
            self.header.settings[key] = value

    def value(self, key: str, kind: int) -> Any:
        """The next value, which is no array."""
        if kind == STRING:
            return self.text(self.number("Q"))
        if kind not in SCALARS:
            fail(self.path, "type", name=key, found=kind)
        value = self.number(SCALARS[kind])
        if kind == BOOL and value > 1:
            fail(self.path, "bool", name=key, found=value)
        return value

    def array(self, key: str) -> tuple[list[Any], int]:
        """The next array: its values where they are texts or few, and how many there are."""
        kind, count = self.number("I"), self.number("Q")
        if kind == ARRAY or count > MAX_ARRAY:
            fail(self.path, "array", name=key, found="array" if kind == ARRAY else count, limit=MAX_ARRAY)
        if kind in SCALARS and kind != BOOL and count * SIZES[kind] > SHORT:
            if count * SIZES[kind] > self.size - self.file.tell():
                fail(self.path, "cut", what=self.what)
            self.file.seek(count * SIZES[kind], os.SEEK_CUR)
            return [], count
        return (self.texts(count) if kind == STRING else [self.value(key, kind) for _ in range(count)]), count

    def texts(self, count: int) -> list[str]:
        """The next `count` strings: `text` in a tight loop, since a vocabulary has some 100,000."""
        read, left, found = self.file.read, self.size - self.file.tell(), []
        for _ in range(count):
            length = int.from_bytes(read(8), "little")
            left -= 8 + length
            if left < 0:
                fail(self.path, "cut", what=self.what)
            if length > MAX_STRING:
                fail(self.path, "string", length=length, what=self.what, limit=MAX_STRING)
            found.append(read(length))
        try:
            return [text.decode() for text in found]
        except UnicodeDecodeError:
            fail(self.path, "text", what=self.what)

    def check_settings(self) -> int:
        """The settings that decide how the file is read; returns the alignment."""
        settings = self.header.settings
        if not isinstance(settings.get("general.architecture"), str) or not settings["general.architecture"]:
            fail(self.path, "architecture")
        alignment = settings.get("general.alignment", DEFAULT_ALIGNMENT)
        if type(alignment) is not int or not 0 < alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
            fail(self.path, "alignment", limit=MAX_ALIGNMENT)
        if settings.get("split.count", 1) not in (0, 1):
            fail(self.path, "split", found=settings["split.count"])
        return alignment

    def tensor(self) -> Entry:
        """What the file says of the next tensor; its offset counts from the start of the data."""
        self.what = "its list of tensors"
        name = self.name()
        sides = [self.number("Q") for _ in range(n)] if 0 < (n := self.number("I")) <= MAX_SIDES else []
        if not sides or 0 in sides:
            fail(self.path, "sides", name=name, found=n)
        kind, offset = WEIGHT_TYPES.get(number := self.number("I")), self.number("Q")
        if kind is None:
            known = number in GGMLQuantizationType.__members__.values()
            fail(self.path, "tensor type", name=name, found=GGMLQuantizationType(number).name if known else number)
        block, block_bytes = GGML_QUANT_SIZES[kind]
        if sides[0] % block:
            fail(self.path, "row", name=name, found=sides[0], block=block)
        return Entry(name, kind.name, tuple(reversed(sides)), self.path, offset, prod(sides) // block * block_bytes)

    def place(self, entries: list[Entry], alignment: int) -> None:
        """The tensors with their offsets from the start of the file; they lie one behind the other, as llama.cpp demands."""
        start = padded(self.file.tell(), alignment)
        for entry, needed in zip(entries, ends(entries, alignment), strict=True):
            if entry.name in self.header.tensors:
                fail(self.path, "twice", name=entry.name)
            if entry.offset != needed:
                fail(self.path, "offset", name=entry.name, found=entry.offset, needed=needed)
            if (end := start + needed + entry.nbytes) > self.size:
                fail(self.path, "beyond the end", name=entry.name, end=end, size=self.size)
            placed = Entry(entry.name, entry.dtype, entry.shape, self.path, start + needed, entry.nbytes)
            self.header.tensors[entry.name] = placed
        if (rest := self.size - padded(end, alignment)) > 0:
            fail(self.path, "rest", count=rest)


def padded(position: int, alignment: int) -> int:
    """The least multiple of `alignment` that is not below `position`."""
    return -(-position // alignment) * alignment


def ends(entries: list[Entry], alignment: int) -> Iterator[int]:
    """Where each tensor must begin: behind the padded end of the one before."""
    position = 0
    for entry in entries:
        yield position
        position += padded(entry.nbytes, alignment)
