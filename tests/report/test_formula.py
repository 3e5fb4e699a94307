"""Formulas as the page sets them."""

from __future__ import annotations

import pytest

from kbit.laws import FORMS
from kbit.report.formula import as_html, pieces


def test_exponents_are_raised_members_lowered_and_greek_letters_written():
    html = as_html("E + A n^-alpha + C[kind] n^-gamma 2^(-lambda (k - 4))")
    assert html == "E + A n<sup>−α</sup> + C<sub>kind</sub> n<sup>−γ</sup> 2<sup>−λ (k − 4)</sup>"


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_of_the_law_is_set_whole(form):
    text = "".join(text for _, text in pieces(form.formula))
    assert not set("^[]") & set(text)
    assert not {"alpha", "beta", "gamma", "delta", "lambda"} & set(text.split())


def test_markup_in_a_formula_stays_text():
    assert as_html("a < b & c^x") == "a &lt; b &amp; c<sup>x</sup>"
