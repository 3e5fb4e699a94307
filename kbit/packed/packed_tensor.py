"""PackedTensor: a k-bit weight as the bytes that are stored, the same in memory and on disk. Layout: format_version 0.

Codes are a plain bit stream of the padded weight: rows pad to 16 and the codes of a row to 32 columns, padding is 0 everywhere,
and every part fills whole cache lines. docs/checkpoints.md has the byte of each number.
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
from kbit.formats.storage import CODE_COLUMNS, CODES_PER_BYTE_TERNARY, SCALES_PER_SECOND_LEVEL, TILE_ROWS, pad
from kbit.packed.bits import pack_bits, pack_ternary, unpack_bits, unpack_ternary
from kbit.packed.parts import part_sizes

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
        """The weight that the bits stand for, float32 (n_out, n_in); at most CHUNK weights are unpacked at a time."""
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
        """The dequantized weight in pieces of some rows."""
        n_out, n_in = self.shape
        step = max(1, CHUNK // n_in)
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
        stored = dict(self._parts)
        fields: dict[str, Tensor] = {}
        split = {"_scale": _cut(stored["_scale"], fmt, n_out, n_blocks)}
        if fmt.scales == "s8":
            split["_second_scale"] = _cut(stored["_second_scale"], fmt, n_out, -(-n_blocks // SCALES_PER_SECOND_LEVEL))
        if fmt.scales == "e4m3":
            fields["tensor_scale"] = split["_tensor_scale"] = stored["_tensor_scale"][0].clone()
        fields["scale"] = join_scale(split, fmt.scales)
        if fmt.affine == "asym":
            count = 1 if fmt.granularity == "tensor" else pad(n_out, TILE_ROWS) * n_blocks
            fields["zero"] = _cut(_unpack_flat(stored["_zero"], fmt.k, count), fmt, n_out, n_blocks).float()
        for word, field in (("min", "minimum"), ("center", "mean")):
            if fmt.affine == word:
                fields[field] = _cut(stored["_min" if word == "min" else "_mean"], fmt, n_out, n_blocks).float()
        fields["levels"] = _stored_levels(stored["_levels"][: 2**fmt.k]) if fmt.learned else fmt.levels()
        if fmt.table:
            fmt = with_table(fmt, fields["levels"])
        if fmt.kept_percent:
            nothing = torch.empty(0)  # a row of one weight keeps none
            fields["kept_columns"] = _kept_columns(stored.get("_kept_columns", nothing.int())[:n_kept].clone(), n_in)
            fields["kept_weight"] = stored.get("_kept_weight", nothing)[: n_out * n_kept].view(n_out, n_kept).float()
        for name, values in fields.items():
            if not values.isfinite().all():
                raise CheckpointError(f"a packed weight of shape {self.shape} in {fmt}: its {name} is not finite. {AGAIN}")
        return fmt, fields

    def _encoded(self, rows: slice, fmt: Format, fields: dict[str, Tensor]) -> Encoded:
        """Some rows as Encoded."""
        columns = self.shape[1] - fmt.n_kept(self.shape[1])
        padded = pad(columns, CODE_COLUMNS)
        row_bytes = -(-padded // CODES_PER_BYTE_TERNARY) if fmt.codebook == "ternary" else padded * fmt.k // 8
        stream = self._parts[""].numpy()[: pad(self.shape[0], TILE_ROWS) * row_bytes].reshape(-1, row_bytes)[rows]
        unpacked = unpack_ternary(stream, columns) if fmt.codebook == "ternary" else unpack_bits(stream, fmt.k)
        codes = torch.from_numpy(unpacked[:, :columns])
        top = len(fields["levels"]) - 1
        codes = codes.clamp(max=top) if top < 2**fmt.k - 1 else codes.contiguous()  # no code reads outside, whatever the bytes
        by_row = {name: fields[name][rows] for name in ROW_FIELDS if name in fields and len(fields[name]) == self.shape[0]}
        return Encoded(fmt, (rows.stop - rows.start, self.shape[1]), codes, **(fields | by_row))


def pack(encoded: Encoded) -> PackedTensor:
    """The stored form of `encoded`."""
    fmt, shape = encoded.fmt, encoded.shape
    found: dict[str, Tensor] = {"": _pack_codes(encoded), **split_scale(encoded.scale, fmt.scales, encoded.tensor_scale)}
    if encoded.minimum is not None:
        found["_min"] = encoded.minimum
    if encoded.mean is not None:
        found["_mean"] = encoded.mean
    if encoded.kept_columns is not None and encoded.kept_weight is not None:
        found |= {"_kept_columns": encoded.kept_columns, "_kept_weight": encoded.kept_weight}
    if encoded.zero is not None:
        found["_zero"] = _pack_flat(_padded_rows(encoded.zero.to(torch.uint8), fmt), fmt.k)
    if fmt.learned:
        levels = encoded.levels
        found["_levels"] = torch.cat([levels, levels[-1:].expand(2**fmt.k - len(levels))])
    parts = {}
    for suffix, (dtype, count) in part_sizes(fmt, shape).items():
        values = found[suffix] if suffix in ("", "_zero") else _padded_rows(found[suffix], fmt)
        parts[suffix] = torch.zeros(count, dtype=dtype)
        parts[suffix][: values.numel()] = values.flatten().to(dtype)
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


def _padded_rows(values: Tensor, fmt: Format) -> Tensor:
    """`values` (n_out, n) with rows of zeros up to a multiple of 16; what is not per row stays."""
    if values.dim() != 2 or (fmt.granularity == "tensor" and values.shape == (1, 1)):
        return values
    return torch.nn.functional.pad(values, (0, 0, 0, -len(values) % TILE_ROWS))


def _cut(values: Tensor, fmt: Format, n_out: int, columns: int) -> Tensor:
    """The numbers of the rows that exist, (n_out, columns), or (1, 1) for granularity tensor, out of a padded part."""
    rows, columns = (1, 1) if fmt.granularity == "tensor" else (n_out, columns)
    return values[: rows * columns].view(rows, columns).clone()


def _pack_codes(encoded: Encoded) -> Tensor:
    n_out, columns = encoded.codes.shape
    padded = np.zeros((pad(n_out, TILE_ROWS), pad(columns, CODE_COLUMNS)), dtype=np.uint8)
    padded[:n_out, :columns] = encoded.codes.numpy()
    stream = pack_ternary(padded) if encoded.fmt.codebook == "ternary" else pack_bits(padded, encoded.fmt.k)
    return torch.from_numpy(stream).flatten()


def _pack_flat(codes: Tensor, k: int) -> Tensor:
    """One stream of all codes, as many whole bytes as they need."""
    padded = np.zeros((1, pad(codes.numel(), 8)), dtype=np.uint8)
    padded[0, : codes.numel()] = codes.flatten().numpy()
    return torch.from_numpy(pack_bits(padded, k)[0, : -(-codes.numel() * k // 8)].copy())


def _unpack_flat(stream: Tensor, k: int, count: int) -> Tensor:
    """Inverse of _pack_flat: the first `count` codes."""
    padded = np.zeros((1, pad(count, 8) // 8 * k), dtype=np.uint8)
    present = stream[: padded.size].numpy()
    padded[0, : len(present)] = present
    return torch.from_numpy(unpack_bits(padded, k)[0, :count].copy())


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
