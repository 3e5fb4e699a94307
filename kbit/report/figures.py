"""The large figures, one function each: loss against bits, the best k by budget, the Pareto front, the law against its runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kbit.report import words
from kbit.report.look import (
    AXIS_TITLES,
    INK,
    MUTED,
    PAPER,
    RULE,
    Figure,
    band,
    bits_axis,
    bits_ticks,
    colour_of_k,
    dot,
    figure,
    label,
    legend_of_k,
    log_axis,
    plain,
    points,
)
from kbit.report.runs import KEPT, Table, lines, longest_trained, main_series, where

HEADROOM = 1.15  # the frame ends at this multiple of the worst 16-bit loss: beyond lies what nobody would choose
LOG_FROM = 2.5  # a loss axis that spans more than this factor is logarithmic
BYTES = "bits per byte"
LIKELY = 0.5  # an area of probability is labelled where it is above
MOST_LABELS = 14  # names on the Pareto front
MARKED = 0.005  # a probability below it takes no button of the legend


def loss_against_bits(rows: Table, axis: str) -> Figure:
    """Loss against bits, a line per k with its 95% band; one group of lines for each series of formats."""
    series = main_series(rows)
    low, high = loss_frame(rows)
    low -= 0.05 * (high - low)  # room for the labels under the ends of the lines
    y = log_axis(low, high, BYTES) if high / low > LOG_FROM else {"range": [low, high], "tickformat": ".2f", "title": BYTES}
    drawn = figure(
        bits_axis(rows["bits"], AXIS_TITLES[axis]),
        y,
        height=580,
        phone=430,
        ticks=bits_ticks(rows["bits"]),
        choose="Format",
        choices=[plain(name) for name in series],
        legend=legend_of_k(np.unique(rows["k"])),
    )
    for name in series:
        own = where(rows, (rows["series"] == name) | (rows["k"] >= KEPT))
        for k, line in lines(own):
            _add_line(drawn, k, line, plain(name))
        others = where(own, ~own["main"] & longest_trained(own))
        marker = {"symbol": "circle-open", "size": 7, "color": [colour_of_k(k) for k in others["k"]]}
        if len(others["k"]):
            drawn["data"].append(
                points(others["bits"], others["bits_per_byte"], others, meta={"group": plain(name)}, marker=marker)
            )
    return drawn


def _add_line(drawn: Figure, k: int, line: Table, group: str) -> None:
    x, y, own = line["bits"], line["bits_per_byte"], {"legendgroup": f"k{k}"}
    if len(x) > 1:
        drawn["data"].append(band(x, y - line["band"], y + line["band"], colour_of_k(k, "-band"), meta={"group": group}, **own))
    look = {"color": colour_of_k(k), "width": 2, "dash": "dot" if k >= KEPT else "solid"}
    drawn["data"].append(
        points(x, y, line, meta={"group": group}, mode="lines+markers", line=look, marker=dot(colour_of_k(k)), **own)
    )
    named = label(x[-1], y[-1], str(k), colour_of_k(k), group=group, sides=("below", "right", "above"))
    drawn["layout"]["meta"]["labels"].append({**named, "legendgroup": f"k{k}"})


def loss_frame(rows: Table) -> tuple[float, float]:
    """Lowest and highest loss of the frame: what lies far above the worst 16-bit model is outside it."""
    y, kept = rows["bits_per_byte"], rows["bits_per_byte"][(rows["k"] >= KEPT) & rows["main"]]
    top = min(float(y.max()), float(kept.max()) * HEADROOM) if len(kept) else float(np.quantile(y, 0.9))
    margin = 0.04 * (top - float(y.min()) or 1.0)
    return float(y.min()) - margin, top + margin


def behind_the_best(budgets: np.ndarray, losses: np.ndarray, widths: Sequence[int], axis: str, basis: str) -> Figure:
    """How far each k is behind the best at the same bits. losses: (budgets, widths), bits per byte, nan where not measured."""
    behind = losses - np.fmin.reduce(losses, axis=1)[:, None]
    top = 1.15 * float(np.nanmedian(behind[behind > 0])) if np.any(behind > 0) else 1.0
    drawn = figure(
        bits_axis(budgets, AXIS_TITLES[axis], room_right=1.15),
        {"range": [-0.04 * top, top], "title": f"{BYTES} behind the best", "nticks": 6},
        height=300,
        phone=280,
        title="Behind the best bit width at the same bits",
        note=plain(basis),
        ticks=bits_ticks(budgets),
    )
    for i, k in enumerate(widths):
        known = np.isfinite(behind[:, i])
        x, y = budgets[known], behind[known, i]
        look = {"color": colour_of_k(k), "width": 2, "dash": "dot" if k >= KEPT else "solid"}
        text = [f"{words.bit_width(k)} at {words.bits(bits)} ({words.as_bytes(bits)})" for bits in x]
        hover = "%{text}<br>%{y:.4f} bits per byte behind the best<extra></extra>"
        line = {"type": "scatter", "mode": "lines", "x": x, "y": y, "line": look, "legendgroup": f"k{k}", "text": text}
        drawn["data"].append({**line, "hovertemplate": hover})
        if len(y) and y[-1] < top:
            drawn["layout"]["meta"]["labels"].append({**label(x[-1], y[-1], str(k), colour_of_k(k)), "legendgroup": f"k{k}"})
    return drawn


def best_by_budget(
    budgets: np.ndarray, chances: np.ndarray, widths: Sequence[int], axis: str, title: str, *, measured: np.ndarray | None = None
) -> Figure:
    """The probability that each k is the best, stacked, against the budget. chances: (budgets, widths).

    measured: ends of what was measured, marked where the budgets reach beyond.
    """
    likely = [k for k, p in zip(widths, chances.T, strict=True) if p.max() > MARKED]
    drawn = figure(
        {**bits_axis(budgets, AXIS_TITLES[axis]), "range": np.log10(budgets[[0, -1]])},
        {"range": [0, 1], "tickformat": ".0%", "title": "probability of being the best", "dtick": 0.25},
        height=300,
        phone=270,
        title=plain(title),
        ticks=bits_ticks(budgets),
        legend=legend_of_k(likely),
    )
    drawn["layout"] |= {"hovermode": "x", "shapes": [_upright(float(end)) for end in (measured if measured is not None else ())]}
    floor = np.zeros(len(budgets))
    for i, k in enumerate(widths):
        if k not in likely:
            continue
        text = [
            f"{words.bits(b)} ({words.as_bytes(b)})<br>{words.bit_width(k)}: {words.probability(p)}"
            for b, p in zip(budgets, chances[:, i], strict=True)
        ]
        drawn["data"].append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": budgets,
                "y": chances[:, i],
                "stackgroup": "k",
                "fillcolor": colour_of_k(k),
                "line": {"width": 1, "color": PAPER},
                "text": text,
                "hovertemplate": "%{text}<extra></extra>",
                "legendgroup": f"k{k}",
            }
        )
        if (middle := _middle(chances[:, i] > LIKELY)) is not None:
            text_at = floor[middle] + chances[middle, i] / 2
            drawn["layout"]["meta"]["labels"].append(
                label(budgets[middle], text_at, words.bit_width(k), PAPER, short=str(k), sides=("centre",))
            )
        floor = floor + chances[:, i]
    return drawn


def _upright(x: float) -> dict[str, object]:
    return {
        "type": "line",
        "x0": x,
        "x1": x,
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "line": {"color": PAPER, "width": 1.5, "dash": "dot"},
    }


def _middle(holds: np.ndarray) -> int | None:
    """The middle of the longest stretch of True."""
    edges = np.flatnonzero(np.diff([0, *holds.astype(int), 0]))
    if not len(edges):
        return None
    longest = int((edges[1::2] - edges[::2]).argmax())
    return int(edges[2 * longest] + edges[2 * longest + 1] - 1) // 2


def pareto_front(rows: Table, front: np.ndarray, axis: str) -> Figure:
    """Every run as a dot, and the front: the runs that no run beats in both bits and loss. front: indices, by bits."""
    low, high = loss_frame(rows)
    best = where(rows, front)
    x, y = best["bits"], best["bits_per_byte"]
    drawn = figure(
        bits_axis(rows["bits"], AXIS_TITLES[axis]),
        {"range": [low, high], "tickformat": ".2f", "title": BYTES},
        height=560,
        phone=430,
        ticks=bits_ticks(rows["bits"]),
        legend=legend_of_k(np.unique(rows["k"])),
    )
    for k in np.unique(rows["k"]):
        own = where(rows, rows["k"] == k)
        marker = {"size": 6, "color": colour_of_k(k), "opacity": 0.3}
        drawn["data"].append(points(own["bits"], own["bits_per_byte"], own, marker=marker, legendgroup=f"k{k}"))
    drawn["data"].append(
        {
            "type": "scatter",
            "mode": "lines",
            "x": x,
            "y": y,
            "line": {"shape": "hv", "color": INK, "width": 1.2},
            "hoverinfo": "skip",
        }
    )
    marker = {"size": 8, "color": [colour_of_k(k) for k in best["k"]], "line": {"color": INK, "width": 1}}
    drawn["data"].append(points(x, y, best, marker=marker))
    common = _common_start(np.unique(rows["model"]).tolist())
    for i in _landmarks(x, y)[:MOST_LABELS]:
        name = f"{plain(best['model'][i][len(common) :])} · {plain(best['format'][i])}".strip(" ·")
        drawn["layout"]["meta"]["labels"].append(
            label(x[i], y[i], name, INK, short=plain(best["format"][i]), sides=("below-left", "left"))
        )
    return drawn


def _common_start(names: Sequence[str]) -> str:
    """What all names begin with, up to a hyphen, so that labels can leave it out; nothing for a single name."""
    if len(names) < 2:
        return ""
    same = [len(set(letters)) == 1 for letters in zip(*names, strict=False)]
    length = same.index(False) if False in same else len(same)
    return names[0][: names[0].rfind("-", 0, length) + 1]


def _landmarks(x: np.ndarray, y: np.ndarray) -> list[int]:
    """Indices of a front's members by what they won: the drop of loss before them, times the stretch of bits they hold."""
    drop = -np.diff(y, prepend=2 * y[0] - y[min(1, len(y) - 1)])
    held = np.diff(np.log(x), append=np.log(x[-1]) + 0.1)
    return [int(i) for i in np.argsort(-drop * held, kind="stable")]


def law_fit(rows: Table, predicted: np.ndarray, axis: str) -> list[Figure]:
    """Measured against predicted loss, and what is left over against bits. predicted: one for each row, bits per byte."""
    measured, left = rows["bits_per_byte"], rows["bits_per_byte"] - predicted
    inside = predicted <= loss_frame(rows)[1]
    ends = np.array([np.minimum(predicted, measured)[inside].min(), np.maximum(predicted, measured)[inside].max()])
    span = ends + np.array([-0.03, 0.03]) * (ends[1] - ends[0])
    fitted = figure(
        {"range": span, "tickformat": ".2f", "title": f"predicted {BYTES}", "nticks": 6},
        {"range": span, "tickformat": ".2f", "title": f"measured {BYTES}", "nticks": 6},
        height=380,
        phone=330,
        title="Measured against predicted",
        legend=legend_of_k(np.unique(rows["k"])),
    )
    fitted["data"].append(
        {"type": "scatter", "mode": "lines", "x": span, "y": span, "line": {"color": RULE, "width": 1.2}, "hoverinfo": "skip"}
    )
    worst = 1.15 * float(np.abs(left[inside]).max())
    rest = figure(
        bits_axis(rows["bits"], AXIS_TITLES[axis]),
        {
            "range": [-worst, worst],
            "title": f"measured less predicted, {BYTES}",
            "zeroline": True,
            "zerolinecolor": MUTED,
            "nticks": 7,
        },
        height=380,
        phone=330,
        title="What the law leaves over",
        ticks=bits_ticks(rows["bits"])[1:],
    )
    for k in np.unique(rows["k"]):
        mask = rows["k"] == k
        own = where(rows, mask)
        look: dict[str, Any] = {"legendgroup": f"k{k}", "marker": dot(colour_of_k(k))}
        fitted["data"].append(points(predicted[mask], own["bits_per_byte"], own, hover="predicted %{x:.4f}", **look))
        rest["data"].append(points(own["bits"], left[mask], own, hover="%{y:+.4f} from the law", **look))
    return [fitted, rest]
