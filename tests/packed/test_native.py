"""What the kernels are told of a weight gives the weight itself, bit for bit, and damaged numbers are refused first."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.errors import CheckpointError, FormatError
from kbit.formats import Format
from kbit.packed import PackedTensor, pack
from kbit.packed.native import LINEAR, TABLE, TERNARY, coding_of
from kbit.packed.reference import exact_product, integer_product
from tests.packed.formats import HEADS, encoded, formats, shapes
from tests.packed.formats import TABLE as LEVELS


@pytest.mark.parametrize("head", HEADS)
def test_every_codebook_has_its_coding(head):
    e = encoded(f"{head}-b40", (5, 70))
    coding, first, rise = coding_of(e.fmt, e.levels)
    expected = TERNARY if e.fmt.codebook == "ternary" else TABLE
    if e.fmt.codebook == "int" or (e.fmt.k == 1 and not e.fmt.learned):
        expected = LINEAR
        assert torch.equal(first + rise * torch.arange(len(e.levels)), e.levels.int())
    assert coding == expected


@pytest.mark.parametrize("affine", ["asym", "min"])
def test_one_bit_with_a_zero_point_or_a_minimum_counts_from_zero(affine):
    fmt = Format.parse(f"int1-b64-{affine}")
    assert coding_of(fmt, fmt.levels()) == (LINEAR, 0, 1)


@settings(max_examples=300, deadline=None)
@given(formats, shapes, st.integers(0, 2**31))
def test_native_dequantize_is_the_formats_own_bit_for_bit(text, shape, seed):
    e = encoded(text, shape, seed)
    packed = pack(e)
    assert torch.equal(packed.dequantize(), e.dequantize())
    ids = torch.tensor([shape[0] - 1, 0, shape[0] // 2, 0])
    assert torch.equal(packed.rows(ids), e.dequantize()[ids])
    assert torch.equal(torch.cat([w for _, w in packed.chunks()]), e.dequantize())


@settings(max_examples=150, deadline=None)
@given(formats, shapes, st.integers(1, 9), st.integers(0, 2**31))
def test_products_are_those_of_the_reference(text, shape, n, seed):
    e = encoded(text, shape, seed)
    x = torch.randn(n, shape[1], generator=torch.Generator().manual_seed(seed))
    packed = pack(e)
    assert torch.equal(packed.matmul(x, "int8"), integer_product(e, x))
    terms = x.abs() @ e.dequantize().abs().T
    assert ((packed.matmul(x) - exact_product(e, x)).abs() <= terms * (shape[1] + 4) * 2.0**-23 + 1e-30).all()


def test_a_row_that_is_not_there_is_refused():
    packed = pack(encoded("int4-b64", (21, 70)))
    for ids in ([0, 21], [-1]):
        with pytest.raises(FormatError, match=r"of a weight of shape \(21, 70\)"):
            packed.rows(torch.tensor(ids))


@pytest.mark.parametrize(
    ("text", "suffix", "value", "fault"),
    [
        ("int4-b64", "_scale", torch.inf, "its scale is not finite"),
        ("int4-b64-min", "_min", torch.nan, "its minimum is not finite"),
        ("int4-b64-center", "_mean", torch.nan, "its mean is not finite"),
        ("nf4-b64-s8", "_second_scale", torch.inf, "its scale is not finite"),
        ("fp4-b32-e8m0", "_scale", 255, "its scale is not finite"),
        ("fp4-b16-e4m3", "_scale", 0xFF, "its scale is not finite"),
        ("fp4-b16-e4m3", "_tensor_scale", torch.nan, "its tensor_scale is not finite"),
        ("kmeans3-b64", "_levels", torch.nan, "levels (is not finite|that do not ascend)"),
        ("kmeans3-b64", "_levels", -9.0, "has levels that do not ascend"),
        ("int4-b64-o3", "_kept_weight", torch.nan, "its kept_weight is not finite"),
        ("int4-b64-o3", "_kept_columns", 70, "kept columns that are not ascending columns of its 70"),
    ],
)
def test_damaged_numbers_are_refused_before_a_kernel_reads_them(text, suffix, value, fault):
    packed = pack(encoded(text, (21, 70)))
    parts = {name: part.clone() for name, part in packed.parts().items()}
    parts[suffix][1 if suffix == "_levels" else 0] = value
    damaged = PackedTensor.from_parts(packed.fmt, packed.shape, parts)
    for use in (damaged.dequantize, damaged.check_numbers, damaged.unpack, lambda: damaged.matmul(torch.ones(70), "int8")):
        with pytest.raises(CheckpointError, match=fault):
            use()


def test_a_users_levels_need_no_table_at_hand():
    fmt = Format.parse("table3:TEST-b64", {"TEST": LEVELS})
    packed = pack(encoded("table3:TEST-b64", (21, 70)))
    bare = PackedTensor.from_parts(Format.parse(str(packed.fmt)), packed.shape, packed.parts())
    assert fmt.table == "TEST"
    assert torch.equal(bare.dequantize(), packed.dequantize())
