"""Braces of a grid expand as bash expands them."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbit.errors import StoreError
from kbit.study.braces import expand_braces


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("int4-b64", ["int4-b64"]),
        ("", [""]),
        ("int{2..4}-b64", ["int2-b64", "int3-b64", "int4-b64"]),
        ("int{4..2}-b64", ["int4-b64", "int3-b64", "int2-b64"]),
        ("int{3..3}", ["int3"]),
        ("{int,nf}{3..4}-b64", ["int3-b64", "int4-b64", "nf3-b64", "nf4-b64"]),
        ("prose-{94k, 1.9m}", ["prose-94k", "prose-1.9m"]),
        ("int4-b64{,-asym}", ["int4-b64", "int4-b64-asym"]),
    ],
)
def test_braces_stand_for_their_lists_and_ranges(text, meant):
    assert expand_braces(text) == meant


@pytest.mark.parametrize("text", ["int{2..8-b64", "int2}", "{a,{b,c}}", "}{", "{{2..3}}"])
def test_braces_without_a_partner_are_refused(text):
    with pytest.raises(StoreError, match="braces must come in pairs"):
        expand_braces(text)


@pytest.mark.parametrize("text", ["int{}", "int{2}", "int{2-8}", "int{a..c}"])
def test_a_group_that_is_no_list_and_no_range_is_refused(text):
    with pytest.raises(StoreError, match="neither a list nor a range"):
        expand_braces(text)


@pytest.mark.parametrize("text", ["{0..1000000000}", "{1..1000}{1..1000}"])
def test_a_range_that_no_study_means_is_refused_at_once(text):
    with pytest.raises(StoreError, match="more than 10000"):
        expand_braces(text)


words = st.text("abc.-4", max_size=3)
groups = st.one_of(
    st.lists(words, min_size=2, max_size=3).map(lambda parts: "{" + ",".join(parts) + "}"),
    st.tuples(st.integers(-3, 9), st.integers(-3, 9)).map(lambda ends: f"{{{ends[0]}..{ends[1]}}}"),
)


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash, the other program, is not installed")
@given(st.lists(st.one_of(words, groups), max_size=4).map("".join).filter(lambda text: ".." not in text.replace("..", "", 1)))
def test_bash_agrees(text):
    shown = subprocess.run(["bash", "-c", f"printf '%s\\n' x{text}y"], capture_output=True, text=True, check=True).stdout
    assert expand_braces(f"x{text}y") == shown.split("\n")[:-1]


@given(st.text("{},.2a", max_size=12))
def test_any_text_expands_or_is_refused(text):
    with suppress(StoreError):
        assert len(expand_braces(text)) >= 1
