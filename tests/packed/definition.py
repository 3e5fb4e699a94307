"""The layout of format_version 1, read one number at a time as docs/formats.md defines it: slow, apart from kbit's own code."""

from __future__ import annotations

import torch

from kbit.formats import Encoded
from kbit.packed import PackedTensor

PLANES = {1: (1,), 2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}


def up(size: int, multiple: int) -> int:
    """`size` up to a multiple."""
    return (size + multiple - 1) // multiple * multiple


def code_at(stored: bytes, k: int, columns: int, row: int, column: int) -> int:
    """One code of k bits; `columns` is the padded count."""
    tile, row = divmod(row, 16)
    unit, column = divmod(column, 32)
    group, lane = divmod(column, 4)
    start = tile * (16 * columns * k // 8) + unit * 64 * k
    code = low = 0
    for width in PLANES[k]:
        vector, place = divmod(group, 8 // width)
        byte = stored[start + 64 * vector + 4 * row + lane]
        code |= (byte >> width * place & 2**width - 1) << low
        low += width
        start += 64 * width
    return code


def ternary_code_at(stored: bytes, columns: int, row: int, column: int) -> int:
    """One ternary code; `columns` is the padded count."""
    tile, row = divmod(row, 16)
    row_bytes = up(columns, 5) // 5
    vectors = row_bytes // 4
    start = tile * 16 * row_bytes
    if column < 20 * vectors:
        vector, within = divmod(column, 20)
        digit, lane = divmod(within, 4)
        byte = stored[start + 64 * vector + 4 * row + lane]
    else:
        left, digit = divmod(column - 20 * vectors, 5)
        byte = stored[start + 64 * vectors + 16 * left + row]
    value = byte * 243 // 256  # the byte is value * 256 / 243, rounded up
    return value // 3 ** (4 - digit) % 3


def number_at(stored: list, columns: int, row: int, column: int) -> float:
    """One of the numbers that rows have `columns` of."""
    return stored[(row // 16 * columns + column) * 16 + row % 16]


def zero_at(stored: bytes, k: int, columns: int, row: int, column: int) -> int:
    """One zero point of k bits."""
    zero = 0
    for bit in range(k):
        at = 2 * ((row // 16 * columns + column) * k + bit)
        word = stored[at] + 256 * stored[at + 1]
        zero |= (word >> row % 16 & 1) << bit
    return zero


def grid(rows: int, columns: int, at) -> torch.Tensor:
    """`at(row, column)` for all, (rows, columns)."""
    return torch.tensor([[at(row, column) for column in range(columns)] for row in range(rows)]).view(rows, columns)


def codes_of(packed: PackedTensor) -> torch.Tensor:
    """All stored codes, padding included."""
    fmt, (n_out, n_in) = packed.fmt, packed.shape
    stored, columns = bytes(packed.parts()[""].tolist()), up(n_in - fmt.n_kept(n_in), 32)
    if fmt.codebook == "ternary":
        return grid(up(n_out, 16), up(columns, 5), lambda r, c: ternary_code_at(stored, columns, r, c))
    return grid(up(n_out, 16), columns, lambda r, c: code_at(stored, fmt.k, columns, r, c))


def check(packed: PackedTensor, e: Encoded) -> None:
    """The stored bytes of `packed` are those of `e`, and all else is 0."""
    fmt, (n_out, n_in), parts = packed.fmt, packed.shape, packed.parts()
    n_kept = fmt.n_kept(n_in)
    rows, n_blocks = up(n_out, 16), fmt.n_blocks(n_in - n_kept)
    tensor = fmt.granularity == "tensor"

    def numbers(suffix: str, columns: int, one: bool = tensor) -> torch.Tensor:
        """The numbers of a part, (n_out, columns) or (1, 1) where the tensor has one; the rest of the part is 0."""
        stored = parts[suffix].tolist()
        found = grid(1, 1, lambda *_: stored[0]) if one else grid(rows, columns, lambda r, c: number_at(stored, columns, r, c))
        assert not any(stored[found.numel() :])
        assert not found[n_out:].any()
        return found if one else found[:n_out]

    codes = codes_of(packed)
    coded = e.codes.shape[1]
    assert torch.equal(codes[:n_out, :coded], e.codes.long())
    codes[:n_out, :coded] = 0
    assert not codes.any()
    code_bytes = rows * up(up(coded, 32), 5) // 5 if fmt.codebook == "ternary" else codes.numel() * fmt.k // 8
    assert not parts[""][code_bytes:].any()

    scale = numbers("_scale", n_blocks)
    if fmt.scales == "f16":
        assert torch.equal(scale.float(), e.scale)
    elif fmt.scales == "e8m0":
        assert torch.equal(torch.pow(2.0, scale.double() - 127), e.scale.double())
    elif fmt.scales == "e4m3":
        assert not parts["_tensor_scale"][1:].any()
        assert torch.equal(parts["_tensor_scale"][0], e.tensor_scale)
        assert torch.equal(scale.to(torch.uint8).view(torch.float8_e4m3fn).float() * e.tensor_scale, e.scale)
    else:
        together = 16 if fmt.scales == "s8" else n_blocks
        second = numbers("_second_scale", (n_blocks + together - 1) // together).float()
        shared = torch.stack([second[:, block // together] for block in range(n_blocks)], dim=1)
        assert torch.equal(scale.float() * shared / 255, e.scale)
    for suffix, values in (("_min", e.minimum), ("_mean", e.mean)):
        assert (suffix in parts) == (values is not None)
        if values is not None:
            assert torch.equal(numbers(suffix, n_blocks).float(), values)
    if e.zero is not None:
        stored = bytes(parts["_zero"].tolist())
        if tensor:
            assert stored == bytes([int(e.zero)]) + bytes(63)
        else:
            zero = grid(rows, n_blocks, lambda r, c: zero_at(stored, fmt.k, n_blocks, r, c))
            assert torch.equal(zero[:n_out].float(), e.zero)
            assert not zero[n_out:].any()
            assert not any(stored[2 * rows // 16 * n_blocks * fmt.k :])
    if n_kept:
        assert torch.equal(parts["_kept_columns"][:n_kept], e.kept_columns)
        assert torch.equal(numbers("_kept_weight", n_kept, one=False).float(), e.kept_weight)
    if fmt.learned:
        levels = parts["_levels"][: 2**fmt.k]
        assert torch.equal(levels[: len(e.levels)], e.levels)
        assert (levels[len(e.levels) :] == e.levels[-1]).all()
