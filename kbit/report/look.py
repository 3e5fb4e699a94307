"""How every figure looks: names of colours, axes, labels. Colours are CSS variables, which the page's script fills in per theme.

What plotly has no word for travels in `layout.meta` and in each trace's `meta`, and script.js carries it out:
labels     texts at points, placed where they collide with nothing, left out where there is no room
legend     buttons that switch traces of a `legendgroup` off and on
ticks      sets of ticks of the x axis, the densest first, of which that is taken which fits
choices    names of groups of traces (`meta.group`), of which the reader sees one at a time
height, phone   heights in pixels on a wide and on a narrow screen
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from kbit.report import words
from kbit.report.runs import KEPT, Table

INK, MUTED, RULE, FAINT = "var(--ink)", "var(--muted)", "var(--rule)", "var(--faint)"
CATEGORIES = 8  # colours for things without an order
TICK_STEPS = ((1, 2, 5), (1, 3), (1,))  # within a decade, from dense to sparse

AXIS_TITLES = {"total": "total bits of the model", "linear": "bits of the linear layers"}
RUN_HOVER = (
    "<b>%{customdata[0]}</b><br>%{customdata[1]}<br>%{customdata[2]} (%{customdata[3]})<br>"
    "%{customdata[4]} ± %{customdata[5]} bits per byte<br>%{customdata[6]} more than in 16 bits<br>took %{customdata[7]}<extra></extra>"
)


def colour_of_k(k: int, part: str = "") -> str:
    """The colour of a bit width; part "-band" is its transparent one."""
    return f"var(--k{min(int(k), KEPT)}{part})"


def colour_of_category(index: int, part: str = "") -> str:
    """The colour of the index-th thing without an order."""
    return f"var(--c{index % CATEGORIES + 1}{part})"


def figure(x: Mapping[str, Any], y: Mapping[str, Any], *, height: int, phone: int, title: str = "", **meta: Any) -> go.Figure:
    """An empty figure with the report's axes."""
    axis = {
        "gridcolor": FAINT, "linecolor": RULE, "tickcolor": RULE, "zeroline": False, "automargin": True, "ticks": "",
        "tickfont": {"color": MUTED, "size": 12}, "title": {"font": {"color": MUTED, "size": 12.5}, "standoff": 12},
    }  # fmt: skip
    drawn = go.Figure()
    drawn.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": INK, "size": 13},
        margin={"l": 8, "r": 16, "t": 16, "b": 8},
        hovermode="closest",
        hoverlabel={"bgcolor": "var(--card)", "bordercolor": RULE, "font": {"color": INK, "size": 12.5}, "align": "left"},
        showlegend=False,
        dragmode="zoom",
        meta={"title": title, "height": height, "phone": phone, **meta},
        xaxis={**axis, "showgrid": False, "showline": True, "ticks": "outside", "ticklen": 5},
        yaxis=axis,
    )
    drawn.update_xaxes(**x)
    drawn.update_yaxes(**y)
    return drawn


def bits_axis(values: np.ndarray, axis: str, *, room_right: float = 1.12) -> dict[str, Any]:
    """A logarithmic x axis over these bits; its ticks come from `bits_ticks`."""
    low, high = float(np.min(values)) / 1.12, float(np.max(values)) * room_right
    return {"type": "log", "range": [math.log10(low), math.log10(high)], "title": {"text": AXIS_TITLES[axis]}}


def bits_ticks(values: np.ndarray) -> list[dict[str, list[Any]]]:
    """Sets of ticks for these bits, the densest first: 1M and, below it, 125 kB."""
    low, high = float(np.min(values)) / 1.12, float(np.max(values)) * 1.12
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    sets = []
    for steps in TICK_STEPS:
        ticks = [float(step * 10.0**power) for power in powers for step in steps if low <= step * 10.0**power <= high]
        sets.append({"at": ticks, "text": [f"{words.of_size(tick)}<br>{words.as_bytes(tick)}" for tick in ticks]})
    return [ticks for ticks in sets if ticks["at"]]


def log_ticks(low: float, high: float) -> dict[str, Any]:
    """A logarithmic y axis from low to high with plain numbers at 1, 2 and 5 of each decade, or at 1 alone over many."""
    steps = (1, 2, 5) if high / low < 200 else (1, 3) if high / low < 1500 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
    return {
        "type": "log", "range": [math.log10(low), math.log10(high)], "tickvals": ticks, "ticktext": [f"{tick:.10g}" for tick in ticks]
    }  # fmt: skip


def cards(rows: Table) -> list[list[str]]:
    """What hovering over a run shows: the columns of RUN_HOVER. Names are foreign input, and plotly reads tags: so they are escaped."""
    return [
        [
            plain(rows["model"][i]), plain(rows["format"][i]), words.bits(rows["bits"][i]), words.as_bytes(rows["bits"][i]),
            words.loss(rows["bits_per_byte"][i]), words.small(plain_stderr(rows, i)), words.small(rows["added"][i]),
            words.seconds(float(rows["seconds"][i])),
        ]
        for i in range(len(rows["bits"]))
    ]  # fmt: skip


def plain(text: object) -> str:
    """Text that plotly draws as it is."""
    return escape(str(text), quote=False)


def plain_stderr(rows: Table, i: int) -> float:
    """The standard error of a run's loss over windows, bits per byte."""
    return float(rows["loss_stderr"][i] * rows["bits_per_byte"][i] / rows["loss"][i])


def band(x: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str, **trace: Any) -> go.Scatter:
    """A filled band between two lines."""
    return go.Scatter(
        x=[*x, *x[::-1]], y=[*high, *low[::-1]], fill="toself", fillcolor=colour, line={"width": 0}, mode="lines", hoverinfo="skip", **trace
    )


def label(x: float, y: float, text: str, colour: str, *, short: str = "", group: str = "", sides: Sequence[str] = ("right",)) -> dict[str, Any]:
    """A text at a point of the figure, on the first of `sides` (right, left, above, below) where it hits no other."""
    return {"x": float(x), "y": float(y), "text": text, "short": short or text, "colour": colour, "group": group, "sides": list(sides)}
