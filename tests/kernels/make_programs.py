"""Write integer programs and their logits for the driver of the kernels (kbit/kernels/csrc/driver.cpp), from the interpreter.

python -m tests.kernels.make_programs FILE

Numbers are int64 and little-endian. After the magic, for each program: its name; positions, layers, heads of keys and values,
numbers of a head, bits; then lists, each a count and its items: buffers (width, kind), matrices (n_out, n_in, block, k, first,
scales; codes; scale), tensors (bits, sizes; the integers), curves, exp2, steps (operator, curve; the eight lists of operands);
tokens; and the logits of all of them. What is bytes has their number before it.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

import kbit
from kbit.fixedpoint.tables import CURVES, curve, exp2_table
from kbit.kernels.matrix import SCALES
from kbit.models.integer_program import KINDS, Program
from kbit.models.integer_run import Interpreter
from kbit.packed import PackedTensor
from tests.kernels.matrices import matrix_fields
from tests.kernels.programs import ids_of, program
from tests.models.make_integer_models import STORED, sha256_of

MAGIC = b"kbit programs 1\n"
LISTS = ("from_", "to", "matrix", "multiplier", "shift", "bias", "tensor", "numbers")
RANDOM = 40
TOKENS = 11


class Writer:
    """Numbers, lists and bytes, one after another."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def numbers(self, *values: int) -> None:
        self._file.write(struct.pack(f"<{len(values)}q", *values))

    def listed(self, values: Iterable[int]) -> None:
        found = list(values)
        self.numbers(len(found), *found)

    def tensor(self, values: Tensor) -> None:
        content = values.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if values.numel() else b""
        self.numbers(len(content))
        self._file.write(content)

    def text(self, words: str) -> None:
        self.numbers(len(words.encode()))
        self._file.write(words.encode())

    def matrix(self, weight: PackedTensor) -> None:
        fields = matrix_fields(weight)
        numbers = (fields[name] for name in ("n_out", "n_in", "block", "k", "first"))
        self.numbers(*(int(number) for number in numbers), SCALES[fields["scales"]])
        self.tensor(fields["codes"])
        self.tensor(fields["scale"])

    def program(self, name: str, made: Program, ids: Tensor, logits: Tensor) -> None:
        cache, curves = made.cache, [*CURVES]
        self.text(name)
        self.numbers(made.positions, cache.layers, cache.kv_heads, cache.head, cache.k)
        self.listed(number for buffer in made.buffers for number in (buffer.width, KINDS.index(buffer.kind)))
        self.numbers(len(made.weights))
        for weight in made.weights:
            self.matrix(weight)
        self.numbers(len(made.tensors))
        for tensor in made.tensors:
            self.numbers(8 * tensor.element_size())
            self.listed(tensor.shape)
            self.tensor(tensor)
        self.numbers(len(curves))
        for word in curves:
            self.tensor(curve(word))
        self.tensor(exp2_table())
        self.numbers(len(made.steps))
        for step in made.steps:
            self.text(step.op)
            self.numbers(curves.index(step.table) if step.table else -1)
            for operands in LISTS:
                self.listed(getattr(step, operands))
        self.tensor(ids)
        self.tensor(logits)


def programs() -> Iterator[tuple[str, Program, Tensor]]:
    """Random ones, tame and wild; and the stored models of integers, with the text whose logits have a hash in the repository."""
    for seed in range(RANDOM):
        made = program(seed, wild=seed % 2 == 1)
        yield f"program {seed}", made, ids_of(made, TOKENS, seed)
    for folder in sorted(STORED.iterdir()):
        stored = json.loads((folder / "logits.json").read_text())
        yield f"{folder.name}, SHA-256 {stored['sha256']}", kbit.load(folder).program, torch.tensor(stored["ids"])


def main() -> None:
    """Write the file that the argument names."""
    path = Path(sys.argv[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    count = 0
    with path.open("wb") as file:
        file.write(MAGIC)
        for name, made, ids in programs():
            logits = Interpreter(made)(ids[None])[0]
            if "SHA-256" in name and not name.endswith(sha256_of(logits)):
                raise SystemExit(f"{name}: the interpreter gives other logits, {sha256_of(logits)}")
            Writer(file).program(name, made, ids, logits)
            count += 1
    print(f"{count} programs, {path.stat().st_size} bytes: {path}")


if __name__ == "__main__":
    main()
