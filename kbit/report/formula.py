"""A law's formula as the page sets it: exponents raised, members lowered, Greek letters for their names."""

from __future__ import annotations

import re
from html import escape

GREEK = {"alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "lambda": "λ"}
PIECE = re.compile(r"\^\((?P<group>(?:[^()]|\([^()]*\))*)\)|\^(?P<power>-?\w+)|\[(?P<member>\w+)\]")


def pieces(formula: str) -> list[tuple[str, str]]:
    """(tag, text) in order, the tag one of "", "sup" and "sub": "A n^-alpha" is A n, and a raised -α."""
    found, at = [], 0
    for match in PIECE.finditer(formula):
        found.append(("", formula[at : match.start()]))
        found.append(("sub", match["member"]) if match["member"] else ("sup", match["group"] or match["power"]))
        at = match.end()
    return [(tag, _letters(text)) for tag, text in [*found, ("", formula[at:])] if text]


def as_html(formula: str) -> str:
    """The formula as HTML."""
    return "".join(f"<{tag}>{escape(text)}</{tag}>" if tag else escape(text) for tag, text in pieces(formula))


def _letters(text: str) -> str:
    return re.sub(r"\b(" + "|".join(GREEK) + r")\b", lambda match: GREEK[match[0]], text).replace("-", "−")
