"""How every figure looks: names of colours, axes, labels. A figure is plotly's own JSON, {"data": [...], "layout": {...}}.

Plain dicts rather than plotly's classes, whose checks take longer than all the mathematics of a report (a test passes every
figure through them). Colours are CSS variables, "var(--k4)", which script.js fills in for the theme. What plotly has no word for
travels in `layout.meta` and in each trace's `meta`, and script.js carries it out:
runs            rows of the table of all runs, one a point: what hovering shows (trace)
group           which of `choices` a trace belongs to; the reader sees one at a time (trace, choices), on its y axis (axes)
labels          texts at points, placed where they collide with nothing, left out where there is no room
legend          buttons that switch traces of a `legendgroup` off and on
ticks           sets of ticks of the x axis, the densest first, of which that is taken which fits
height, phone   heights in pixels on a wide and on a narrow screen
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from kbit.report import words
from kbit.report.runs import KEPT, Table

Figure = dict[str, Any]

INK, MUTED, RULE, FAINT, PAPER, CARD = (f"var(--{name})" for name in ("ink", "muted", "rule", "faint", "paper", "card"))
CATEGORIES = 8  # colours for things without an order
BLOCKS = 6  # colours for granularities, fine to coarse
TICK_STEPS = ((1, 2, 5), (1, 3), (1,))  # within a decade, from dense to sparse
MARGIN = 1.12  # how far a logarithmic axis reaches beyond what it shows, as a factor

AXIS_TITLES = {"total": "total bits of the model", "linear": "bits of the linear layers"}


def colour_of_k(k: int, part: str = "") -> str:
    """The colour of a bit width; part "-band" is its transparent one."""
    return f"var(--k{min(int(k), KEPT)}{part})"


def colour_of_category(index: int, part: str = "") -> str:
    """The colour of the index-th thing without an order."""
    return f"var(--c{index % CATEGORIES + 1}{part})"


def colour_of_block(count: int, index: int, part: str = "") -> str:
    """The colour of the index-th of `count` granularities, fine to coarse."""
    return f"var(--b{1 + round(index * (BLOCKS - 1) / max(count - 1, 1))}{part})"


def figure(x: Mapping[str, Any], y: Mapping[str, Any], *, height: int, phone: int, title: str = "", **meta: Any) -> Figure:
    """A figure without traces, with the report's axes."""
    axis = {"gridcolor": FAINT, "linecolor": RULE, "tickcolor": RULE, "zeroline": False, "automargin": True, "ticks": ""}
    axis |= {"tickfont": {"color": MUTED, "size": 12}}
    layout = {
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": INK, "size": 13},
        "margin": {"l": 8, "r": 16, "t": 12, "b": 8},
        "hovermode": "closest",
        "hoverlabel": {"bgcolor": CARD, "bordercolor": RULE, "font": {"color": INK, "size": 12.5}, "align": "left"},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": MUTED, "activecolor": INK},
        "showlegend": False,
        "dragmode": "zoom",
        "meta": {"title": title, "height": height, "phone": phone, "labels": [], **meta},
        "xaxis": {**axis, "showgrid": False, "showline": True, "ticks": "outside", "ticklen": 5, **_titled(x)},
        "yaxis": {**axis, **_titled(y)},
    }
    return {"data": [], "layout": layout}


def _titled(axis: Mapping[str, Any]) -> dict[str, Any]:
    return {**axis, "title": {"text": axis.get("title", ""), "font": {"color": MUTED, "size": 12.5}, "standoff": 12}}


def bits_axis(values: np.ndarray, title: str, *, room_right: float = MARGIN) -> dict[str, Any]:
    """A logarithmic x axis over these bits; its ticks come from `bits_ticks`."""
    low, high = float(np.min(values)) / MARGIN, float(np.max(values)) * room_right
    return {"type": "log", "range": [math.log10(low), math.log10(high)], "title": title}


def bits_ticks(values: np.ndarray) -> list[dict[str, list[Any]]]:
    """Sets of ticks for these bits, the densest first: 1M and, below it, 125 kB."""
    low, high = float(np.min(values)) / MARGIN, float(np.max(values)) * MARGIN
    sets = [_ticks(low, high, steps) for steps in TICK_STEPS]
    return [{"at": at, "text": [f"{words.of_size(tick)}<br>{words.as_bytes(tick)}" for tick in at]} for at in sets if at]


def log_axis(low: float, high: float, title: str = "") -> dict[str, Any]:
    """A logarithmic y axis from low to high, plain numbers at 1, 2 and 5 of each decade, or fewer over many decades."""
    steps = next((steps for steps, most in zip(TICK_STEPS, (200, 1500), strict=False) if high / low < most), TICK_STEPS[-1])
    at = _ticks(low, high, steps)
    text = [f"{tick:.10f}".rstrip("0").rstrip(".") for tick in at]
    return {"type": "log", "range": [math.log10(low), math.log10(high)], "tickvals": at, "ticktext": text, "title": title}


def _ticks(low: float, high: float, steps: Sequence[int]) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [float(f"{step}e{power}") for power in powers for step in steps if low <= step * 10.0**power <= high]


def points(
    x: np.ndarray, y: np.ndarray, rows: Table, *, hover: str = "", meta: Mapping[str, Any] | None = None, **look: Any
) -> dict[str, Any]:
    """A trace of runs, one a point; `hover` is a line more, in plotly's template, for what hovering shows of a run."""
    template = "%{text}" + (f"<br>{hover}" if hover else "") + "<extra></extra>"
    meta = {"runs": rows["row"], **(meta or {})}
    return {"type": "scatter", "mode": "markers", "x": x, "y": y, "hovertemplate": template, "meta": meta, **look}


def band(x: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str, **look: Any) -> dict[str, Any]:
    """A filled band between two lines."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [*x, *x[::-1]],
        "y": [*high, *low[::-1]],
        "fill": "toself",
        "fillcolor": colour,
        "line": {"width": 0},
        "hoverinfo": "skip",
        **look,
    }


def dot(colour: Any, size: float = 7) -> dict[str, Any]:
    """A marker with a thin rim of the paper's colour, so that neighbours stay apart."""
    return {"size": size, "color": colour, "line": {"color": PAPER, "width": 1}}


def label(
    x: float, y: float, text: str, colour: str, *, short: str = "", group: str = "", sides: Sequence[str] = ("right",)
) -> dict[str, Any]:
    """A text at a point, on the first of `sides` (right, left, above, below, below-left, centre, ...) that is free."""
    return {
        "x": float(x),
        "y": float(y),
        "text": text,
        "short": short or text,
        "colour": colour,
        "group": group,
        "sides": list(sides),
    }


def plain(text: object) -> str:
    """Text that plotly draws as it is: names are foreign input, and plotly reads tags."""
    return escape(str(text), quote=False)


def legend_of_k(widths: Sequence[int] | np.ndarray) -> list[dict[str, str]]:
    """Buttons for bit widths."""
    return [{"text": words.bit_width(int(k)), "colour": colour_of_k(int(k)), "group": f"k{k}"} for k in widths]
