"""Braces in a grid's strings, as a shell expands them: `int{2..4}-b64` and `prose-{94k,276k}`."""

from __future__ import annotations

import re

from kbit.errors import StoreError

LIMIT = 10_000  # strings from one entry; beyond it a range is a slip of the finger, not a study
_GROUP = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")


def expand_braces(text: str) -> list[str]:
    """Every string that `text` stands for: `{a,b}` is each of its parts, `{2..8}` each whole number from 2 to 8 (or down).

    Several groups give their product, the first group slowest: `{int,nf}{3..4}` is int3, int4, nf3, nf4.
    Raises StoreError where a brace has no partner or lies in another, where a group is neither list nor range, and where more
    than LIMIT strings arise.
    """
    if not balanced(text):
        raise StoreError(
            f"'{text}': braces must come in pairs and not lie in one another. Write int{{2..8}}-b64 or {{int,nf}}4-b64."
        )
    made = [""]
    at = 0
    for group in _GROUP.finditer(text):
        choices = _choices(group[1], text)
        if len(made) * len(choices) > LIMIT:
            raise StoreError(f"'{text}' stands for more than {LIMIT} strings. Narrow its braces.")
        made = [start + text[at : group.start()] + choice for start in made for choice in choices]
        at = group.end()
    return [start + text[at:] for start in made]


def balanced(text: str) -> bool:
    """Whether each `{` of `text` is closed before the next one opens, and no `}` stands alone."""
    return re.sub(r"[^{}]", "", text) == "{}" * text.count("{")


def _choices(inside: str, text: str) -> list[str]:
    if limits := _RANGE.fullmatch(inside):
        first, last = int(limits[1]), int(limits[2])
        if abs(last - first) >= LIMIT:
            raise StoreError(f"'{text}' stands for more than {LIMIT} strings. Narrow its braces.")
        step = 1 if last >= first else -1
        return [str(number) for number in range(first, last + step, step)]
    if "," in inside:
        return [part.strip() for part in inside.split(",")]
    raise StoreError(f"'{text}': '{{{inside}}}' is neither a list nor a range. Write {{2..8}} or {{int,nf}}.")
