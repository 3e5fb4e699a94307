"""pack() puts every number where the definition of format_version 1 says, and zeros elsewhere."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.packed import pack
from tests.packed.definition import check
from tests.packed.formats import ALL, SOME, encoded, formats

SHAPES = [(1, 1), (17, 33), (15, 31), (33, 100), (16, 32), (2, 300)]
OPTIONS = [text for text in ALL if text.startswith(("int3-b16", "int8-b16", "fp6e3m2-b16", "ternary-b16", "int5-tensor"))]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("text", [f"int{k}-b40-asym" for k in range(1, 9)] + ["ternary-b40", "ternary-row-o3"])
def test_every_width_lies_as_defined(text, shape):
    e = encoded(text, shape)
    check(pack(e), e)


@pytest.mark.parametrize("text", OPTIONS)
def test_every_option_lies_as_defined(text):
    e = encoded(text, (19, 300))  # 19 blocks of 16: two of the second level
    check(pack(e), e)


@pytest.mark.parametrize("text", SOME)
def test_every_codebook_lies_as_defined(text):
    e = encoded(text, (17, 70))
    check(pack(e), e)


@settings(max_examples=100, deadline=None)
@given(formats, st.tuples(st.integers(1, 40), st.integers(1, 100)), st.integers(0, 2**31))
def test_every_format_and_shape_lies_as_defined(text, shape, seed):
    e = encoded(text, shape, seed)
    check(pack(e), e)


@pytest.mark.parametrize("text", ["int7-b64-asym", "ternary-b64", "kmeans3-row", "int5-b16-s8", "int4-b64-min-o2"])
def test_long_rows_lie_as_defined(text):
    e = encoded(text, (5, 4097))
    check(pack(e), e)
