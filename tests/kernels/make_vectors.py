"""Write test vectors for the driver of the kernels (kbit/kernels/csrc/driver.cpp), from the reference of kbit.packed.

python -m tests.kernels.make_vectors FILE
"""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from kbit.kernels.matrix import CODINGS, SCALES
from kbit.packed import PackedTensor, pack, reference
from tests.kernels.matrices import matrix_fields
from tests.packed.formats import ALL, HEADS, encoded

MAGIC = b"kbit vectors 1\n"
NUMBERS = ("n_out", "n_in", "n_kept", "block", "k", "coding", "first", "rise", "scales", "per_tensor", "integer_bits")
PARTS = ("codes", "scale", "second_scale", "zero", "shift", "levels", "integer_levels", "kept_columns", "kept_weight")
SHAPES = [(1, 1), (5, 3), (16, 32), (17, 33), (16, 64), (31, 127), (33, 128), (2, 200), (48, 256), (19, 290), (64, 320)]
BATCHES = [1, 2, 3, 4, 5, 8, 9, 17, 1, 33]
MORE = 200  # formats out of all, drawn anew each time that the list changes
FLOAT32_UNIT = 2.0**-24


def cases() -> Iterator[tuple[str, tuple[int, int], int]]:
    """(format, shape, rows of x): every codebook at every k, in blocks of whole units and in others, and a draw of the rest."""
    texts = [f"{head}-{granularity}" for head in HEADS for granularity in ("b64", "b40", "row")]
    texts += random.Random(0).sample(ALL, MORE)
    shapes, batches = cycle(SHAPES), cycle(BATCHES)
    for text in texts:
        yield text, next(shapes), next(batches)


def activations(n: int, n_in: int, seed: int) -> Tensor:
    """Rows of x: Gaussian, but some with a large number, with zeros, with numbers too small to count, with NaN or infinity."""
    x = torch.randn(n, n_in, generator=torch.Generator().manual_seed(seed))
    x[1::7, n_in // 2] = 1e4
    x[2::7, : n_in // 2] = 0
    x[3::7] *= 2.0**-110
    x[4::11, n_in // 3] = torch.nan
    x[5::11, n_in // 3] = -torch.inf
    return x


def bound(packed: PackedTensor, x: Tensor) -> Tensor:
    """How far an exact product may be off: a rounding for each addition, of the sum of all magnitudes."""
    weight = packed.unpack()
    w = weight.dequantize().double().abs()
    shift = weight.minimum if weight.minimum is not None else weight.mean
    if shift is not None:  # level * scale and the shift are added apart from each other
        w = w + 2 * shift.double().abs().amax(1, keepdim=True)
    return ((x.double().abs() @ w.T) * (2 * FLOAT32_UNIT * (w.shape[1] + 8))).float()


def write_array(file: BinaryIO, content: bytes) -> None:
    """Its length, then itself."""
    file.write(struct.pack("<q", len(content)))
    file.write(content)


def write_case(file: BinaryIO, text: str, shape: tuple[int, int], n: int, seed: int) -> None:
    """One case: a random weight, rows of x, and what the reference makes of them."""
    weight = encoded(text, shape, seed)
    packed = pack(weight)
    weight = packed.unpack()
    x = activations(n, shape[1], seed)
    fields = matrix_fields(packed)
    fields |= {"coding": CODINGS[fields["coding"]], "scales": SCALES[fields["scales"]]}
    file.write(struct.pack("<12q2f", *(int(fields[name]) for name in NUMBERS), n, fields["step"], fields["tensor_scale"]))
    write_array(file, f"{text} {shape} x {n}".encode())
    for name in PARTS:
        part = fields.get(name)
        write_array(file, b"" if part is None else part.contiguous().view(torch.uint8).numpy().tobytes())
    coded = reference.coded(weight, x)
    activations_of = reference.quantize_activations(coded, reference.segments(weight.fmt, coded.shape[1]))
    products = reference.integer_product(weight, x), reference.exact_product(weight, x)
    for values in (x, weight.dequantize(), *activations_of, *products, bound(packed, x)):
        write_array(file, values.contiguous().numpy().tobytes())


def main() -> None:
    """Write the file that the argument names."""
    path = Path(sys.argv[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    with path.open("wb") as file:
        file.write(MAGIC)
        count = 0
        for count, (text, shape, n) in enumerate(cases(), 1):
            write_case(file, text, shape, n, seed=count)
    print(f"{count} cases, {path.stat().st_size} bytes: {path}")


if __name__ == "__main__":
    main()
