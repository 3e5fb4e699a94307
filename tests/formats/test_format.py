"""Format strings: parse, print, and the words of a refusal."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.errors import FormatError
from kbit.formats import ALIASES, Format
from tests.formats.examples import ALL, parse

ALPHABET = "abdefiklmnoprstxy0123456789-:@e_. "


@pytest.mark.parametrize("text", [*ALL, "f32", "f16", "bf16"])
def test_a_printed_format_parses_to_itself(text):
    fmt = parse(text)
    assert Format.parse(str(fmt)) == fmt
    assert str(Format.parse(str(fmt))) == str(fmt)
    assert hash(Format.parse(str(fmt))) == hash(fmt)


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("INT4-B64", "int4-b64"),
        (" nf4-b64 ", "nf4-b64"),
        ("int4-b64-o2-s8-asym", "int4-b64-asym-s8-o2"),
        ("int4-b64-e8m0-center", "int4-b64-center-e8m0"),
        ("fp4-b32", "fp4e2m1-b32"),
        ("fp6-row", "fp6e3m2-row"),
        ("fp1-b32", "fp1-b32"),
        ("BF16", "bf16"),
        ("mxfp4", "fp4e2m1-b32-e8m0"),
        ("MXFP8", "fp8e4m3-b32-e8m0"),
        ("nvfp4", "fp4e2m1-b16-e4m3"),
        ("table4:My.Name_2-b64", "table4:My.Name_2-b64"),
    ],
)
def test_what_is_read_is_printed_in_one_way(text, printed):
    assert str(Format.parse(text)) == printed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nf4-64", "'64' is not a granularity. Write a block size as b64, or row, or tensor, or token: nf4-b64."),
        ("nf4", "the granularity is missing. Add a block size as b64, or row, or tensor, or token: nf4-b64."),
        ("int9-b64", "k = 9 is not to be had for int: k is 1 to 8. Perhaps int8-b64."),
        ("int0-b64", "k = 0 is not to be had for int: k is 1 to 8. Perhaps int1-b64."),
        ("int-b64", "int needs its k, the bits of a code (1 to 8). Write int4-b64."),
        ("bnbfp3-b64", "k = 3 is not to be had for bnbfp: k is 4. Perhaps bnbfp4-b64."),
        ("ternary2-b64", "ternary takes no number. Write ternary-b64."),
        ("fp4e3m1-b64", "e3m1 does not split 4 bits: 1 + e + m must be k, and e at least 1. Perhaps fp4e2m1-b64."),
        ("fp4e0m3-b64", "e0m3 does not split 4 bits: 1 + e + m must be k, and e at least 1. Perhaps fp4e2m1-b64."),
        ("int4e2m1-b64", "only fp is split into exponent and mantissa, not int. Write int4-b64."),
        ("nf4-b0", "a block of 0 is not to be had: blocks are b1 to b65536. Perhaps nf4-b64."),
        ("nf4-b65537", "a block of 65537 is not to be had: blocks are b1 to b65536. Perhaps nf4-b65536."),
        ("int4-b64-s8-e8m0", "e8m0 clashes with s8: at most one of s8, i8, e8m0, e4m3. Perhaps int4-b64-s8."),
        ("int4-b64-asym-min", "min clashes with asym: at most one of asym, min, center. Perhaps int4-b64-asym."),
        ("nf4-b64-asym", "asym goes with int alone. Write nf4-b64."),
        ("int4-row-i8", "i8 shares a second scale among all blocks of a row, so it needs blocks. Perhaps int4-row."),
        ("int4-row-s8", "s8 shares a second scale among 16 blocks of a row, so it needs blocks. Perhaps int4-row."),
        ("int4-b64-o2-o3", "o3 clashes with o2: at most one share of outliers. Perhaps int4-b64-o2."),
        ("int4-b64-o51", "51% of outliers is not to be had: o1 to o50. Perhaps int4-b64."),
        (
            "int4-b64-asymm",
            "'asymm' is not an option. Options are asym, min, center; s8, i8, e8m0, e4m3; o1 to o50. Perhaps int4-b64-asym.",
        ),
        ("bf16-b64", "bf16 keeps weights as they are and takes no '-b64'. Write bf16."),
        (
            "table4-b64",
            "'table4' does not name its levels. Write table, k, a colon and a name (letters, digits, _ and .): table4:NAME-b64.",
        ),
        (
            "quantil4-b64",
            "'quantil4' is not a codebook with its k. Codebooks are int, nf, fp, bnbfp, log, dyn, quantile, kmeans, table, "
            "ternary, binary; f32, f16, bf16 keep weights. Perhaps quantile4-b64.",
        ),
    ],
)
def test_a_wrong_string_is_refused_with_what_is_allowed_and_the_nearest_right_one(text, message):
    with pytest.raises(FormatError) as caught:
        Format.parse(text)
    assert str(caught.value) == f"format '{text}': {message}"


EDITS = st.lists(st.tuples(st.integers(0, 40), st.sampled_from("dis"), st.sampled_from(ALPHABET)), max_size=4)


@given(st.sampled_from(ALL), EDITS)
@settings(max_examples=1000, deadline=None)
def test_a_damaged_string_parses_or_is_refused_in_one_line_with_a_string_that_parses(text, edits):
    for place, edit, letter in edits:
        place %= len(text) + 1
        text = text[:place] + (letter if edit != "d" else "") + text[place + (edit != "i") :]
    check_parse(text)


@given(st.text(max_size=40))
@settings(deadline=None)
def test_any_text_parses_or_is_refused_in_one_line_with_a_string_that_parses(text):
    check_parse(text)


def check_parse(text: str) -> None:
    try:
        fmt = Format.parse(text)
    except FormatError as error:
        refusal = str(error)
    else:
        assert Format.parse(str(fmt)) == fmt
        return
    assert refusal.isprintable()  # so it is one line
    right = refusal.rsplit(" ", 1)[1].removesuffix(".")
    assert str(Format.parse(right)) == right


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_is_the_format_that_it_stands_for(alias):
    assert Format.parse(alias) == Format.parse(ALIASES[alias])
    assert str(Format.parse(alias)) == ALIASES[alias]


def test_a_table_is_known_by_the_hash_of_its_levels():
    levels = torch.tensor([-1, -0.25, 0.25, 1])
    fmt = Format.parse("table2:mine-b64", {"mine": levels})
    digest = "08255a05"  # printf '\x00\x00\x80\xbf\x00\x00\x80\xbe\x00\x00\x80\x3e\x00\x00\x80\x3f' | sha256sum
    assert str(fmt) == f"table2:mine@{digest}-b64"
    assert torch.equal(fmt.levels(), levels)
    assert Format.parse(str(fmt), {"mine": levels.flip(0)}) == fmt  # order does not matter
    with pytest.raises(FormatError, match=r"the levels handed over as 'mine' have hash .* Hand over the levels"):
        Format.parse(str(fmt), {"mine": levels * 2})
    with pytest.raises(FormatError, match=r"the levels of 'mine' are not known here. Hand them over: Format.parse"):
        Format.parse(str(fmt)).levels()


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ([-1.0, 1.0], "2 levels do not make a 2-bit table. Give 3 to 4 of them."),
        ([-1.0, 0.0, 0.5, 1.0, 2.0], "5 levels do not make a 2-bit table. Give 3 to 4 of them."),
        ([-1.0, 0.0, 0.0], "two levels are equal in float32. Give distinct levels."),
        ([-1.0, 0.0, float("nan")], "a level is NaN or infinite. Give finite levels."),
        ([-1.0, 0.0, float("inf")], "a level is NaN or infinite. Give finite levels."),
    ],
)
def test_levels_that_make_no_table_are_refused(levels, message):
    with pytest.raises(FormatError) as caught:
        Format.parse("table2:mine-b64", {"mine": torch.tensor(levels)})
    assert str(caught.value) == f"table2: {message}"


@pytest.mark.parametrize("text", ["bf16", "kmeans4-b64", "quantile2-row"])
def test_levels_are_refused_where_the_format_has_none_of_its_own(text):
    with pytest.raises(FormatError, match=f"format '{text}'"):
        Format.parse(text).levels()


def test_what_a_format_tells():
    fmt = Format.parse("int4-b64-asym-s8")
    assert (fmt.codebook, fmt.k, fmt.granularity, fmt.block, fmt.affine, fmt.scales) == ("int", 4, "block", 64, "asym", "s8")
    assert (fmt.is_float, fmt.learned, fmt.code_bits) == (False, False, 4.0)
    ternary = Format.parse("ternary-row")
    assert (ternary.k, ternary.code_bits, ternary.granularity, ternary.block) == (2, 1.6, "row", None)
    assert [Format.parse(name).k for name in ("f32", "f16", "bf16")] == [32, 16, 16]
    assert all(Format.parse(name).is_float for name in ("f32", "f16", "bf16"))
    assert all(Format.parse(name).learned for name in ("kmeans4-b64", "quantile4-b64", "table4:mine-b64"))
