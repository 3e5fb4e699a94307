"""PackedTensor: a k-bit weight as the bytes that are stored, the same in memory and on disk. Layout: format_version 1.

Rows lie in tiles of 16, and the codes of a tile in bit planes. The codes of a row pad to 32 columns, padding is 0 everywhere, and
every part fills whole cache lines. docs/formats.md has the byte of each number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kbit.errors import CheckpointError, FormatError
from kbit.formats.encoded import Encoded
from kbit.formats.format import Format, with_table
from kbit.formats.scales import join_scale, split_scale
from kbit.formats.storage import CODE_COLUMNS, SCALES_PER_SECOND_LEVEL, TILE_ROWS, pad, row_bytes
from kbit.packed.parts import part_sizes
from kbit.packed.planes import pack_planes, unpack_planes
from kbit.packed.ternary import pack_ternary, unpack_ternary
from kbit.packed.tiles import from_tiles, to_tiles, zeros_from_tiles, zeros_to_tiles

CHUNK = 2**20  # weights unpacked at once by dequantize and matmul: 5 MB


@dataclass(frozen=True)
class PackedTensor:
    """A weight w (n_out, n_in) in format `fmt`, as stored. Make one with `pack`, or from stored parts with `from_parts`."""

    fmt: Format
    shape: tuple[int, int]
    _parts: dict[str, Tensor]

    @classmethod
    def from_parts(cls, fmt: Format, shape: tuple[int, int], parts: dict[str, Tensor]) -> PackedTensor:
        """The packed weight whose stored tensors are `parts` (suffix -> one dimension), kept as they are, not copied.

        Raises CheckpointError where a part is missing, left over, or not of the dtype and size that the format says.
        """
        needed = part_sizes(fmt, shape)
        found = {suffix: (part.dtype, part.numel() if part.dim() == 1 else -1) for suffix, part in parts.items()}
        if found != needed:
            wrong = sorted(suffix for suffix in needed.keys() | found.keys() if needed.get(suffix) != found.get(suffix))
            raise CheckpointError(
                f"a packed weight of shape {tuple(shape)} in {fmt}: the parts {wrong} are missing, left over "
                f"or of the wrong size. {AGAIN}"
            )
        return cls(fmt, (shape[0], shape[1]), dict(parts))

    def parts(self) -> dict[str, Tensor]:
        """The stored tensors, each of one dimension, by the suffix of their names; the codes have none."""
        return dict(self._parts)

    @property
    def nbytes(self) -> int:
        """Bytes of all parts: fmt.stored_bits(shape) / 8, on disk and in memory."""
        return sum(part.nbytes for part in self._parts.values())

    def unpack(self) -> Encoded:
        """Codes and scales, one to a value: exactly what was packed. Raises CheckpointError where numbers are damaged."""
        return self._encoded(slice(0, self.shape[0]), *self._decoded())

    def dequantize(self) -> Tensor:
        """The weight that the bits stand for, float32 (n_out, n_in); CHUNK weights, or a tile, are unpacked at a time."""
        w = torch.empty(self.shape)
        for rows, part in self._chunks():
            w[rows] = part
        return w

    def matmul(self, x: Tensor, compute: str = "exact") -> Tensor:
        """x @ w.T for x (..., n_in): (..., n_out), in the dtype of x. "exact": dequantized weights and float32 products.

        Raises FormatError where `compute` is not one of COMPUTE, or the last side of x is not n_in.
        """
        if compute not in COMPUTE:
            raise FormatError(f"compute '{compute}' is not to be had. Write {' or '.join(COMPUTE)}.")
        if x.shape[-1:] != (self.shape[1],):
            raise FormatError(
                f"x of shape {tuple(x.shape)} does not fit a weight of shape {self.shape}. Its last side must be {self.shape[1]}."
            )
        return COMPUTE[compute](self, x)

    def _chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """The dequantized weight in pieces of whole tiles."""
        n_out, n_in = self.shape
        step = max(TILE_ROWS, CHUNK // n_in // TILE_ROWS * TILE_ROWS)
        decoded = None if self.fmt.is_float else self._decoded()
        for start in range(0, n_out, step):
            rows = slice(start, min(n_out, start + step))
            if decoded is None:
                yield rows, self._parts[""].view(self.shape)[rows].float()
            else:
                yield rows, self._encoded(rows, *decoded).dequantize()

    def _decoded(self) -> tuple[Format, dict[str, Tensor]]:
        """All but the codes, decoded for the rows and columns that exist; the format, with its table where it has one."""
        fmt, (n_out, n_in) = self.fmt, self.shape
        if fmt.is_float:
            raise FormatError(f"format '{fmt}' has no codes to unpack. Use dequantize.")
        n_kept = fmt.n_kept(n_in)
        n_blocks = fmt.n_blocks(n_in - n_kept)
        rows, blocks = (1, 1) if fmt.granularity == "tensor" else (n_out, n_blocks)
        stored = self._parts
        fields: dict[str, Tensor] = {}
        split = {"_scale": from_tiles(stored["_scale"], rows, blocks)}
        if fmt.scales == "s8":
            split["_second_scale"] = from_tiles(stored["_second_scale"], rows, -(-blocks // SCALES_PER_SECOND_LEVEL))
        if fmt.scales == "e4m3":
            fields["tensor_scale"] = split["_tensor_scale"] = stored["_tensor_scale"][0].clone()
        fields["scale"] = join_scale(split, fmt.scales)
        if fmt.affine == "asym" and fmt.granularity == "tensor":
            fields["zero"] = (stored["_zero"][:1] & 2**fmt.k - 1).view(1, 1).float()
        elif fmt.affine == "asym":
            fields["zero"] = zeros_from_tiles(stored["_zero"], rows, blocks, fmt.k).float()
        for word, field in (("min", "minimum"), ("center", "mean")):
            if fmt.affine == word:
                fields[field] = from_tiles(stored["_min" if word == "min" else "_mean"], rows, blocks).float()
        fields["levels"] = _stored_levels(stored["_levels"][: 2**fmt.k]) if fmt.learned else fmt.levels()
        if fmt.table:
            fmt = with_table(fmt, fields["levels"])
        if fmt.kept_percent:
            nothing = torch.empty(0)  # a row of one weight keeps none
            fields["kept_columns"] = _kept_columns(stored.get("_kept_columns", nothing.int())[:n_kept].clone(), n_in)
            fields["kept_weight"] = from_tiles(stored.get("_kept_weight", nothing), n_out, n_kept).float()
        for name, values in fields.items():
            if not values.isfinite().all():
                raise CheckpointError(f"a packed weight of shape {self.shape} in {fmt}: its {name} is not finite. {AGAIN}")
        return fmt, fields

    def _encoded(self, rows: slice, fmt: Format, fields: dict[str, Tensor]) -> Encoded:
        """Some rows, from the first of a tile on, as Encoded."""
        columns = self.shape[1] - fmt.n_kept(self.shape[1])
        tiles = slice(rows.start // TILE_ROWS, -(-rows.stop // TILE_ROWS))
        tile_bytes = TILE_ROWS * row_bytes(fmt, columns)
        stored = self._parts[""].numpy()[tiles.start * tile_bytes : tiles.stop * tile_bytes].reshape(-1, tile_bytes)
        unpacked = unpack_ternary(stored) if fmt.codebook == "ternary" else unpack_planes(stored, fmt.k)
        codes = torch.from_numpy(unpacked[: rows.stop - rows.start, :columns])
        top = len(fields["levels"]) - 1
        codes = codes.clamp(max=top) if top < 2**fmt.k - 1 else codes.contiguous()  # no code reads outside, whatever the bytes
        by_row = {name: fields[name][rows] for name in ROW_FIELDS if name in fields and len(fields[name]) == self.shape[0]}
        return Encoded(fmt, (rows.stop - rows.start, self.shape[1]), codes, **(fields | by_row))


def pack(encoded: Encoded) -> PackedTensor:
    """The stored form of `encoded`."""
    fmt, shape = encoded.fmt, encoded.shape
    by_row = split_scale(encoded.scale, fmt.scales, encoded.tensor_scale)
    whole = {"": _pack_codes(encoded)}
    if encoded.tensor_scale is not None:
        whole["_tensor_scale"] = by_row.pop("_tensor_scale")
    if encoded.minimum is not None:
        by_row["_min"] = encoded.minimum
    if encoded.mean is not None:
        by_row["_mean"] = encoded.mean
    if encoded.kept_columns is not None and encoded.kept_weight is not None:
        whole["_kept_columns"] = encoded.kept_columns
        by_row["_kept_weight"] = encoded.kept_weight
    if encoded.zero is not None:
        zero = encoded.zero.to(torch.uint8)
        whole["_zero"] = zero.flatten() if fmt.granularity == "tensor" else zeros_to_tiles(zero, fmt.k)
    if fmt.learned:
        levels = encoded.levels
        whole["_levels"] = torch.cat([levels, levels[-1:].expand(2**fmt.k - len(levels))])
    found = whole | {suffix: to_tiles(values) for suffix, values in by_row.items()}
    parts = {}
    for suffix, (dtype, count) in part_sizes(fmt, shape).items():
        parts[suffix] = torch.zeros(count, dtype=dtype)
        parts[suffix][: len(found[suffix])] = found[suffix].to(dtype)
    return PackedTensor.from_parts(fmt, shape, parts)


def keep(w: Tensor, fmt: Format) -> PackedTensor:
    """A weight that stays as it is, in f32, f16 or bf16, as if it were packed."""
    if not fmt.is_float:
        raise FormatError(f"format '{fmt}' has codes. Choose them by a method, then pack; f32, f16 and bf16 keep a weight.")
    return PackedTensor.from_parts(fmt, (w.shape[0], w.shape[1]), {"": w.to(fmt.dtype).flatten().contiguous()})


def exact_product(packed: PackedTensor, x: Tensor) -> Tensor:
    """x @ w.T in float32 with the dequantized weight, some rows of it at a time."""
    y = torch.empty(*x.shape[:-1], packed.shape[0])
    for rows, w in packed._chunks():
        y[..., rows] = x.float() @ w.T
    return y.to(x.dtype) if x.is_floating_point() else y


COMPUTE: dict[str, Callable[[PackedTensor, Tensor], Tensor]] = {"exact": exact_product}
ROW_FIELDS = ("scale", "zero", "minimum", "mean", "kept_weight")  # those with a row for each of w, unless one serves the tensor
AGAIN = "The file is damaged: download or copy it again."


def _pack_codes(encoded: Encoded) -> Tensor:
    n_out, columns = encoded.codes.shape
    padded = np.zeros((pad(n_out, TILE_ROWS), pad(columns, CODE_COLUMNS)), dtype=np.uint8)
    padded[:n_out, :columns] = encoded.codes.numpy()
    stored = pack_ternary(padded) if encoded.fmt.codebook == "ternary" else pack_planes(padded, encoded.fmt.k)
    return torch.from_numpy(stored).flatten()


def _stored_levels(stored: Tensor) -> Tensor:
    """Learned levels without the repetitions of the last that fill 2^k places."""
    rises = stored[1:] > stored[:-1]
    count = 1 + int(rises.sum())
    if not rises[: count - 1].all() or not (stored[count - 1 :] == stored[count - 1]).all():
        raise CheckpointError(f"a packed weight has levels that do not ascend. {AGAIN}")
    return stored[:count].clone()


def _kept_columns(columns: Tensor, n_in: int) -> Tensor:
    if (columns < 0).any() or (columns >= n_in).any() or (columns[1:] <= columns[:-1]).any():
        raise CheckpointError(f"a packed weight has kept columns that are not ascending columns of its {n_in}. {AGAIN}")
    return columns
