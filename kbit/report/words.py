"""How numbers read in the report: bits, bytes, seconds, probabilities, losses."""

from __future__ import annotations

import math
from collections.abc import Sequence

SURE = 0.995  # a probability at or above it reads "over 99%", since the bootstrap resolves no more


def of_size(count: float, digits: int = 2) -> str:
    """A count with its decimal prefix, `digits` significant digits at least: 1.9M, 240k, 3.2G."""
    for power, prefix in ((9, "G"), (6, "M"), (3, "k")):
        if abs(count) >= 0.9995 * 10**power:
            return f"{_significant(count / 10**power, digits)}{prefix}"
    return _significant(count, digits)


def bits(count: float) -> str:
    """1.9 Mbit."""
    text = of_size(count)
    return f"{text[:-1]} {text[-1]}bit" if text[-1].isalpha() else f"{text} bit"


def as_bytes(count: float) -> str:
    """Bits as bytes: 15.2M bits are 1.9 MB."""
    text = of_size(count / 8)
    return f"{text[:-1]} {text[-1]}B" if text[-1].isalpha() else f"{text} B"


def probability(p: float) -> str:
    """A bootstrap's share in words that promise no more than it knows: 93%, over 99%, under 1%."""
    if p >= SURE:
        return "over 99%"
    if p <= 1 - SURE:
        return "under 1%"
    return f"{100 * p:.0f}%"


def loss(value: float) -> str:
    """Bits per byte to the fourth decimal."""
    return f"{value:.4f}" if math.isfinite(value) else "-"


def small(value: float) -> str:
    """A difference, three significant digits: 0.0123, 4.56e-05."""
    return f"{value:.3g}" if math.isfinite(value) else "-"


def seconds(value: float) -> str:
    """3.2 s, 4 min 10 s, 2 h 5 min."""
    if not math.isfinite(value):
        return "-"
    if value < 60:
        return f"{value:.3g} s"
    minutes, rest = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if rest else f"{minutes} min"


def bit_width(k: int) -> str:
    """2 bits, 1 bit, 16 bits."""
    return f"{k} bit" if k == 1 else f"{k} bits"


def listing(items: Sequence[str], join: str = "and") -> str:
    """A, b and c."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {join} {items[-1]}" if items else ""


def plural(count: int, noun: str) -> str:
    """1 run, 2 runs."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _significant(value: float, digits: int) -> str:
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
