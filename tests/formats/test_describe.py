"""docs/formats.md says what the program does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from kbit.formats import ALIASES, CODEBOOKS, Format
from kbit.formats.describe import SHOWN, levels_tables

PAGE = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")


def test_the_page_holds_the_levels_as_they_are():
    written = PAGE.split("<!-- levels: begin -->\n")[1].split("<!-- levels: end -->")[0]
    assert written.strip() == levels_tables().strip()


def test_every_fixed_codebook_is_shown_at_every_k_up_to_4():
    heads = {Format.parse(f"{name.split('-')[0]}-b64") for names in SHOWN.values() for name in names}
    shown = {(fmt.codebook, fmt.k) for fmt in heads}
    wanted = {(name, k) for name, codebook in CODEBOOKS.items() if not codebook.learned for k in codebook.ks if k <= 4}
    assert shown == wanted
    splits = {(fmt.exponent, fmt.mantissa) for fmt in heads if fmt.codebook == "fp" and fmt.k > 1}
    assert splits == {(e, k - 1 - e) for k in (2, 3, 4) for e in range(1, k)}


def test_every_codebook_alias_and_example_of_the_page_exists():
    for name in CODEBOOKS:
        assert f"| `{name}` |" in PAGE
    for alias, text in ALIASES.items():
        (row,) = (line for line in PAGE.splitlines() if re.match(rf"\| .*`{alias}`[ ,].*\| `{text}`", line))
        assert Format.parse(alias) == Format.parse(text)
        assert row
    examples = PAGE.split("```\n")[1]
    for text in re.findall(r"\b(?:[a-z]+\d[\w:]*|ternary|binary)-(?:b\d+|row|tensor|token)(?:-\w+)*", examples):
        assert Format.parse(text)


def test_the_bits_that_the_page_counts_are_right():
    counted = re.findall(r"`([\w-]+)`(?: takes)? (\d\.\d+)", PAGE)
    assert len(counted) == 7
    for text, bits in counted:
        assert Format.parse(text).stored_bits((4096, 4096)) / 4096**2 == pytest.approx(float(bits), abs=5e-5)


def test_the_hash_of_the_page_is_that_of_a_table():
    levels = torch.tensor([-1, -0.25, 0.25, 1])
    assert str(Format.parse("table2:mine-b64", {"mine": levels})) in PAGE
