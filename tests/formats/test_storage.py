"""Stored bytes: worked out by hand, and against a count of what Encoded holds."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.errors import FormatError
from kbit.formats import Format
from tests.formats.examples import ALL, parse


@pytest.mark.parametrize(
    ("text", "shape", "parts"),
    [
        ("int4-b64", (16, 64), {"": 512, "_scale": 64}),
        ("int4-b64", (1, 1), {"": 256, "_scale": 64}),  # 16 rows of 32 codes; 16 scales of 2 bytes
        ("int4-b64", (17, 65), {"": 32 * 96 // 2, "_scale": 2 * 32 * 2}),
        ("int3-row", (100, 172), {"": 112 * 192 * 3 // 8, "_scale": 256}),  # 224 bytes of scales fill up to 256
        ("int4-b128", (64, 100), {"": 64 * 128 // 2, "_scale": 128}),  # a block longer than the row is the row
        ("int8-tensor-asym", (100, 100), {"": 112 * 128, "_scale": 64, "_zero": 64}),
        ("int5-b32-asym", (64, 64), {"": 64 * 64 * 5 // 8, "_scale": 256, "_zero": 128}),  # 128 zeros of 5 bits are 80 bytes
        ("int4-b64-min", (64, 64), {"": 2048, "_scale": 128, "_min": 128}),
        ("nf4-b64-center", (64, 64), {"": 2048, "_scale": 128, "_mean": 128}),
        ("nf4-b64-i8", (64, 64 * 17), {"": 64 * 64 * 17 // 2, "_scale": 64 * 17, "_second_scale": 128}),
        ("nf4-b64-s8", (64, 64 * 17), {"": 64 * 64 * 17 // 2, "_scale": 64 * 17, "_second_scale": 256}),
        ("mxfp4", (16, 128), {"": 1024, "_scale": 64}),
        ("nvfp4", (16, 128), {"": 1024, "_scale": 128, "_tensor_scale": 64}),
        ("ternary-b64", (16, 64), {"": 256, "_scale": 64}),  # 13 bytes for 64 codes, in 16 rows: 208
        ("binary-b64", (16, 64), {"": 128, "_scale": 64}),
        ("kmeans3-b64", (16, 64), {"": 384, "_scale": 64, "_levels": 64}),
        ("kmeans8-b64", (16, 64), {"": 1024, "_scale": 64, "_levels": 1024}),
        ("int4-b64-o2", (16, 100), {"": 1024, "_scale": 64, "_kept_columns": 64, "_kept_weight": 64}),  # 98 coded columns
        ("int4-b64-o50", (16, 4), {"": 256, "_scale": 64, "_kept_columns": 64, "_kept_weight": 64}),
        ("int4-b64-o2", (16, 1), {"": 256, "_scale": 64}),  # the only column is not kept
        ("bf16", (3, 5), {"": 30}),
        ("f32", (3, 5), {"": 60}),
    ],
)
def test_bytes_of_each_part(text, shape, parts):
    assert Format.parse(text).stored_parts(shape) == parts
    assert Format.parse(text).stored_bits(shape) == 8 * sum(parts.values())


@given(st.sampled_from(ALL), st.integers(1, 300), st.integers(1, 300))
@settings(max_examples=300)
def test_no_part_is_smaller_than_its_numbers_and_none_wastes_more_than_padding(text, n_out, n_in):
    fmt = parse(text)
    kept = fmt.n_kept(n_in)
    assert 0 <= kept < n_in
    scale_bits = {
        "f16": 16,
        "s8": 8 + 16 / min(16, fmt.n_blocks(n_in - kept)),
        "i8": 8 + 16 / fmt.n_blocks(n_in - kept),
        "e8m0": 8,
        "e4m3": 8,
    }[fmt.scales]
    scale_bits += {None: 0, "asym": fmt.k, "min": 16, "center": 16}[fmt.affine]
    scales = 1 if fmt.granularity == "tensor" else n_out * fmt.n_blocks(n_in - kept)
    least = math.floor(n_out * (n_in - kept) * fmt.code_bits + scales * scale_bits + n_out * kept * 16)
    stored = fmt.stored_bits((n_out, n_in))
    assert stored >= least
    rows, columns = n_out + 15, n_in - kept + 31
    scales = 1 if fmt.granularity == "tensor" else rows * fmt.n_blocks(n_in - kept)
    most = rows * (columns + 5) * fmt.code_bits + scales * (scale_bits + 16) + rows * kept * 16 + 32 * kept + 32 * 2**fmt.k
    assert stored <= most + 8 * 64 * 7
    assert all(size % 64 == 0 for size in fmt.stored_parts((n_out, n_in)).values())


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (-1, 4)])
def test_an_empty_weight_is_refused(shape):
    with pytest.raises(FormatError, match="holds nothing"):
        Format.parse("nf4-b64").stored_bits(shape)
