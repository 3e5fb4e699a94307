"""PackedTensor: a k-bit weight as the bytes that are stored, the same in memory and on disk. Layout: format_version 1.

Rows lie in tiles of 16, and the codes of a tile in bit planes. The codes of a row pad to 32 columns, padding is 0 everywhere, and
every part fills whole cache lines. docs/formats.md has the byte of each number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from kbit.errors import CheckpointError, FormatError
from kbit.formats.encoded import Encoded
from kbit.formats.format import Format, with_table
from kbit.formats.scales import join_scale, split_scale
from kbit.formats.storage import CODE_COLUMNS, SECOND_LEVELS, TILE_ROWS, pad, row_bytes, second_scales
from kbit.kernels import Matrix
from kbit.packed import native
from kbit.packed.native import AGAIN
from kbit.packed.parts import part_sizes
from kbit.packed.planes import pack_planes, unpack_planes
from kbit.packed.ternary import pack_ternary, unpack_ternary
from kbit.packed.tiles import from_tiles, to_tiles, zeros_from_tiles, zeros_to_tiles

CHUNK = 2**20  # weights dequantized at once where a product is torch's: 4 MB
COMPUTE = ("exact", "int8")


@dataclass(frozen=True)
class PackedTensor:
    """A weight w (n_out, n_in) in format `fmt`, as stored. Make one with `pack`, or from stored parts with `from_parts`."""

    fmt: Format
    shape: tuple[int, int]
    _parts: dict[str, Tensor]
    stored: list[Tensor] = field(init=False, repr=False, compare=False)  # the parts in the order of part_sizes
    format_string: str = field(init=False, repr=False, compare=False)
    _copied: list[Tensor] = field(init=False, repr=False, compare=False)  # parts of which the kernels keep numbers of their own

    def __post_init__(self) -> None:
        """Make what the operators take at each call."""
        object.__setattr__(self, "stored", [self._parts[suffix] for suffix in part_sizes(self.fmt, self.shape)])
        object.__setattr__(self, "format_string", str(self.fmt))
        copied = [self._parts[suffix] for suffix in COPIED if suffix in self._parts]
        object.__setattr__(self, "_copied", [part for part in copied if not part.is_inference()])

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
        """The weight that the bits stand for, float32 (n_out, n_in), on the device of the bits."""
        w = torch.empty(self.shape)
        self._dequantize_rows(slice(0, self.shape[0]), w)
        return w.to(self.device)

    def rows(self, ids: Tensor) -> Tensor:
        """Rows `ids` (...) of the weight: float32 (..., n_in). Raises FormatError where there is no such row."""
        wanted, place = ids.flatten().cpu().unique(return_inverse=True)
        if len(wanted) and not 0 <= int(wanted[0]) <= int(wanted[-1]) < self.shape[0]:
            raise FormatError(f"row {int(wanted[0])} or {int(wanted[-1])} is none of a weight of shape {self.shape}.")
        w = torch.empty(len(wanted), self.shape[1])
        for i, row in enumerate(wanted.tolist()):
            self._dequantize_rows(slice(row, row + 1), w[i : i + 1])
        return w[place].view(*ids.shape, self.shape[1]).to(ids.device)

    def chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """The dequantized weight in pieces of whole tiles: rows, and float32 (rows, n_in)."""
        n_out, n_in = self.shape
        step = max(TILE_ROWS, CHUNK // n_in // TILE_ROWS * TILE_ROWS)
        for start in range(0, n_out, step):
            rows = slice(start, min(n_out, start + step))
            w = torch.empty(rows.stop - start, n_in)
            self._dequantize_rows(rows, w)
            yield rows, w.to(self.device)

    def matmul(self, x: Tensor, compute: str = "exact") -> Tensor:
        """x @ w.T for x (..., n_in): (..., n_out), in the dtype of x (float32 for whole numbers). docs/kernels.md has the order.

        "exact": float32 products. "int8": activations rounded to 8 bits, whole numbers added exactly within a block.
        Gradients reach x. Compiles and exports, as the operator kbit::matmul.
        Raises FormatError where `compute` is not one of COMPUTE, or the last side of x is not n_in.
        """
        if compute not in COMPUTE:
            raise FormatError(f"compute '{compute}' is not to be had. Write {' or '.join(COMPUTE)}.")
        if x.shape[-1:] != (self.shape[1],):
            raise FormatError(
                f"x of shape {tuple(x.shape)} does not fit a weight of shape {self.shape}. Its last side must be {self.shape[1]}."
            )
        if not seen_by_torch(x):
            return self.multiply(x, compute)
        y: Tensor = torch.ops.kbit.matmul(x, self.stored, self.format_string, *self.shape, compute)
        return y

    def multiply(self, x: Tensor, compute: str) -> Tensor:
        """The product itself, for the operator: matmul without its checks, compiling and gradients."""
        n_out, n_in = self.shape
        dtype = x.dtype if x.is_floating_point() else torch.float32
        if self.fmt.is_float or not (x.is_cpu and self._parts[""].is_cpu):
            if compute != "exact":
                raise FormatError(f"a weight in {self.fmt} on {x.device} has no {compute} product. Write exact.")
            return torch.cat([x.float() @ w.to(x.device).T for _, w in self.chunks()], -1).to(dtype)
        y = torch.empty((*x.shape[:-1], n_out))
        if y.numel():
            plain = x.detach().to(torch.float32).contiguous()
            self.native.product(plain.view(-1, n_in), y.view(-1, n_out), compute)
        return y if dtype == torch.float32 else y.to(dtype)

    @property
    def device(self) -> torch.device:
        """Where the bits lie."""
        return self._parts[""].device

    def to(self, device: torch.device | str) -> PackedTensor:
        """The same bits on `device`."""
        if self.device == torch.device(device):
            return self
        return PackedTensor(self.fmt, self.shape, {suffix: part.to(device) for suffix, part in self._parts.items()})

    def __deepcopy__(self, memo: dict) -> PackedTensor:
        return self  # nobody writes to it, and its bytes may be a map of a file

    @property
    def native(self) -> Matrix:
        """What the kernels need; made when it is first used, and anew where a part that they copy was written to since.

        Raises CheckpointError where stored numbers are damaged.
        """
        kept = vars(self)
        written = [part._version for part in self._copied]
        if kept.get("_matrix") is None or kept["_written"] != written:
            kept["_matrix"], kept["_written"] = native.matrix_of(self.fmt, self.shape, self._parts), written
        made: Matrix = kept["_matrix"]
        return made

    def check_numbers(self) -> None:
        """Raise CheckpointError where a stored number is one that no packer writes; reads all parts but the codes."""
        if not self.fmt.is_float:
            native.check_numbers(self.fmt, self.shape, self._parts)

    def _dequantize_rows(self, rows: slice, out: Tensor) -> None:
        """Some rows into `out` (rows, n_in), float32 and contiguous."""
        if self.fmt.is_float:
            out.copy_(self._parts[""].view(self.shape)[rows])
        else:
            (self if self.device.type == "cpu" else self.to("cpu")).native.dequantize(out, rows.start)

    def __reduce__(self) -> tuple:
        return PackedTensor, (self.fmt, self.shape, self._parts)  # without what is made when it is used

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
        if fmt.scales in SECOND_LEVELS:
            split["_second_scale"] = from_tiles(stored["_second_scale"], rows, second_scales(fmt.scales, blocks))
        if fmt.scales == "e4m3":
            fields["tensor_scale"] = split["_tensor_scale"] = stored["_tensor_scale"][0].clone()
        fields["scale"] = join_scale(split, fmt.scales)
        if fmt.affine == "asym" and fmt.granularity == "tensor":
            fields["zero"] = (stored["_zero"][:1] & 2**fmt.k - 1).view(1, 1).float()
        elif fmt.affine == "asym":
            fields["zero"] = zeros_from_tiles(stored["_zero"], rows, blocks, fmt.k).float()
        for word, name in (("min", "minimum"), ("center", "mean")):
            if fmt.affine == word:
                fields[name] = from_tiles(stored["_min" if word == "min" else "_mean"], rows, blocks).float()
        fields["levels"] = native.stored_levels(stored["_levels"][: 2**fmt.k]) if fmt.learned else fmt.levels()
        if fmt.table:
            fmt = with_table(fmt, fields["levels"])
        if fmt.kept_percent:
            nothing = torch.empty(0)  # a row of one weight keeps none
            fields["kept_columns"] = native.kept_columns(stored.get("_kept_columns", nothing.int())[:n_kept].clone(), n_in)
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


def seen_by_torch(x: Tensor) -> bool:
    """Whether torch must see a product with x as an operator: to trace, transform or differentiate it. Else the 20 microseconds
    on the way there can be saved.
    """
    return (
        torch.compiler.is_compiling()
        or type(x) is not Tensor
        or (x.requires_grad and torch.is_grad_enabled())
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._are_functorch_transforms_active()
    )


COPIED = ("_levels", "_kept_columns", "_tensor_scale")
ROW_FIELDS = ("scale", "zero", "minimum", "mean", "kept_weight")  # those with a row for each of w, unless one serves the tensor


def _pack_codes(encoded: Encoded) -> Tensor:
    n_out, columns = encoded.codes.shape
    padded = np.zeros((pad(n_out, TILE_ROWS), pad(columns, CODE_COLUMNS)), dtype=np.uint8)
    padded[:n_out, :columns] = encoded.codes.numpy()
    stored = pack_ternary(padded) if encoded.fmt.codebook == "ternary" else pack_planes(padded, encoded.fmt.k)
    return torch.from_numpy(stored).flatten()
