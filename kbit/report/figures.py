"""The large figures, one function each: loss against bits, the best k by budget, the Pareto front, the law against its runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from kbit.report import words
from kbit.report.look import (
    INK, MUTED, RULE, RUN_HOVER, band, bits_axis, bits_ticks, cards, colour_of_k, figure, label, log_ticks, plain,
)  # fmt: skip
from kbit.report.runs import KEPT, Table, lines, main_series, where

HEADROOM = 1.45  # the frame ends at this multiple of the worst 16-bit loss: beyond lies what nobody would choose
LOG_FROM = 2.5  # a loss axis that spans more than this factor is logarithmic
BYTES = "bits per byte"


def loss_against_bits(rows: Table, axis: str) -> go.Figure:
    """Loss against bits, a line per k with its 95% band; one group of lines for each series of formats."""
    series = main_series(rows)
    low, high = _loss_frame(rows)
    y = log_ticks(low, high) if high / low > LOG_FROM else {"range": [low, high], "tickformat": ".2f"}
    drawn = figure(
        {**bits_axis(rows["bits"], axis, room_right=1.3)},
        {**y, "title": {"text": BYTES}},
        height=560, phone=420, ticks=bits_ticks(rows["bits"]), choices=[plain(name) for name in series], choose="Format",
        legend=_legend_of_k(rows), labels=[],
    )  # fmt: skip
    for group in series:
        own = where(rows, (rows["series"] == group) | (rows["k"] >= KEPT))
        for k, line in lines(own):
            _add_line(drawn, int(str(k)), line, group=plain(group))
            end = -1
            drawn.layout.meta["labels"].append(
                label(line["bits"][end], line["bits_per_byte"][end], words.bit_width(int(str(k))), colour_of_k(int(str(k))),
                      short=str(k), group=plain(group), sides=("right", "below", "above"))
            )  # fmt: skip
        others = where(own, ~own["main"] & _longest(own))
        if len(others["bits"]):
            drawn.add_scatter(
                x=others["bits"], y=others["bits_per_byte"], mode="markers", customdata=cards(others), hovertemplate=RUN_HOVER,
                marker={"symbol": "circle-open", "size": 7, "color": [colour_of_k(k) for k in others["k"]]}, meta={"group": plain(group)},
            )  # fmt: skip
    return drawn


def _add_line(drawn: go.Figure, k: int, line: Table, **meta: Any) -> None:
    x, y = line["bits"], line["bits_per_byte"]
    own = {"legendgroup": f"k{k}", "meta": meta, "name": words.bit_width(k)}
    if len(x) > 1:
        drawn.add_trace(band(x, y - line["band"], y + line["band"], colour_of_k(k, "-band"), **own))
    drawn.add_scatter(
        x=x, y=y, mode="lines+markers", customdata=cards(line), hovertemplate=RUN_HOVER, **own,
        line={"color": colour_of_k(k), "width": 2, "dash": "dot" if k >= KEPT else "solid"},
        marker={"size": 7, "color": colour_of_k(k), "line": {"color": "var(--paper)", "width": 1}},
    )  # fmt: skip


def _legend_of_k(rows: Table) -> list[dict[str, str]]:
    return [{"text": words.bit_width(int(k)), "colour": colour_of_k(int(k)), "group": f"k{k}"} for k in np.unique(rows["k"])]


def _loss_frame(rows: Table) -> tuple[float, float]:
    """Lowest and highest loss of the frame: what lies far above the worst 16-bit model is outside it."""
    y, kept = rows["bits_per_byte"], rows["bits_per_byte"][rows["k"] >= KEPT]
    top = min(float(y.max()), float(kept.max()) * HEADROOM) if len(kept) else float(np.quantile(y, 0.9))
    margin = 0.04 * (top - float(y.min()) or 1.0)
    return float(y.min()) - margin, top + margin


def _longest(rows: Table) -> np.ndarray:
    """Runs of their size's longest training."""
    tokens = np.nan_to_num(rows["training_tokens"].astype(float), nan=np.inf)
    return np.array([t == tokens[rows["parameters"] == n].max() for t, n in zip(tokens, rows["parameters"], strict=True)], dtype=bool)


def best_by_budget(
    budgets: np.ndarray, chances: np.ndarray, widths: Sequence[int], axis: str, title: str, *, measured: np.ndarray | None = None
) -> go.Figure:
    """The probability that each k is the best, stacked, against the budget. chances: (budgets, widths).

    measured: ends of what was measured, marked where the budgets reach beyond.
    """
    drawn = figure(
        {**bits_axis(budgets, axis, room_right=1.0), "range": np.log10(budgets[[0, -1]]).tolist()},
        {"range": [0, 1], "tickformat": ".0%", "title": {"text": "probability of being the best"}, "dtick": 0.25},
        height=340, phone=300, title=title, ticks=bits_ticks(budgets), labels=[],
        legend=[{"text": words.bit_width(k), "colour": colour_of_k(k), "group": f"k{k}"} for k, p in zip(widths, chances.T, strict=True) if p.max() > 0.01],
    )  # fmt: skip
    for end in measured if measured is not None else ():
        drawn.add_vline(x=float(end), line={"color": INK, "width": 1, "dash": "dot"})
    floor = np.zeros(len(budgets))
    for i, k in enumerate(widths):
        text = [f"{words.bits(b)} ({words.as_bytes(b)})<br>{words.bit_width(k)}: {words.probability(p)}" for b, p in zip(budgets, chances[:, i], strict=True)]
        drawn.add_scatter(
            x=budgets, y=chances[:, i], stackgroup="k", mode="lines", line={"width": 0.5, "color": "var(--paper)"}, text=text,
            fillcolor=colour_of_k(k), hovertemplate="%{text}<extra></extra>", name=words.bit_width(k), legendgroup=f"k{k}",
        )  # fmt: skip
        peak = int(np.argmax(_smooth(chances[:, i])))
        if chances[peak, i] > 0.3:
            drawn.layout.meta["labels"].append(
                label(budgets[peak], floor[peak] + chances[peak, i] / 2, words.bit_width(k), "var(--paper)", short=str(k), sides=("centre",))
            )
        floor = floor + chances[:, i]
    drawn.update_layout(hovermode="x")
    return drawn


def _smooth(values: np.ndarray) -> np.ndarray:
    """A running mean over a fifth of the budgets, so that a label stands in the middle of its area."""
    width = max(1, len(values) // 5)
    return np.convolve(values, np.ones(width) / width, mode="same")


def pareto_front(rows: Table, front: np.ndarray, axis: str) -> go.Figure:
    """Every run as a dot, and the front: the runs that no run beats in both bits and loss. front: indices, by bits."""
    low, high = _loss_frame(rows)
    best = where(rows, front)
    drawn = figure(
        bits_axis(rows["bits"], axis),
        {"range": [low, high], "tickformat": ".2f", "title": {"text": BYTES}},
        height=540, phone=420, ticks=bits_ticks(rows["bits"]), legend=_legend_of_k(rows), labels=[],
    )  # fmt: skip
    for k in np.unique(rows["k"]):
        own = where(rows, rows["k"] == k)
        drawn.add_scatter(
            x=own["bits"], y=own["bits_per_byte"], mode="markers", customdata=cards(own), hovertemplate=RUN_HOVER, legendgroup=f"k{k}",
            marker={"size": 6, "color": colour_of_k(k), "opacity": 0.35},
        )  # fmt: skip
    drawn.add_scatter(x=best["bits"], y=best["bits_per_byte"], mode="lines", line={"shape": "hv", "color": INK, "width": 1.2}, hoverinfo="skip")
    drawn.add_scatter(
        x=best["bits"], y=best["bits_per_byte"], mode="markers", customdata=cards(best), hovertemplate=RUN_HOVER,
        marker={"size": 9, "color": [colour_of_k(k) for k in best["k"]], "line": {"color": INK, "width": 1.2}},
    )  # fmt: skip
    drawn.layout.meta["labels"] += [
        label(best["bits"][i], best["bits_per_byte"][i], f"{plain(best['model'][i])} · {plain(best['format'][i])}", INK,
              short=plain(best["format"][i]), sides=("below-left", "above-right"))
        for i in range(len(front))
    ]  # fmt: skip
    return drawn


def law_fit(rows: Table, predicted: np.ndarray) -> list[go.Figure]:
    """Measured against predicted loss, and what is left over against bits; rows in the order of `predicted` (runs,), bits per byte."""
    measured = rows["bits_per_byte"]
    inside = predicted <= _loss_frame(rows)[1]
    ends = [float(min(predicted[inside].min(), measured[inside].min())), float(max(predicted[inside].max(), measured[inside].max()))]
    margin = 0.03 * (ends[1] - ends[0])
    span = [ends[0] - margin, ends[1] + margin]
    fitted = figure(
        {"range": span, "tickformat": ".2f", "title": {"text": f"predicted {BYTES}"}, "nticks": 6},
        {"range": span, "tickformat": ".2f", "title": {"text": f"measured {BYTES}"}, "nticks": 6},
        height=400, phone=330, title="Measured against predicted", legend=_legend_of_k(rows),
    )  # fmt: skip
    fitted.add_scatter(x=span, y=span, mode="lines", line={"color": RULE, "width": 1.2}, hoverinfo="skip")
    left = measured - predicted
    worst = 1.15 * float(np.abs(left[inside]).max())
    rest = figure(
        {**bits_axis(rows["bits"], "total"), "title": {"text": "bits"}},
        {"range": [-worst, worst], "title": {"text": f"measured less predicted, {BYTES}"}, "zeroline": True, "zerolinecolor": MUTED, "nticks": 7},
        height=400, phone=330, title="What the law leaves over", ticks=bits_ticks(rows["bits"])[1:],
    )  # fmt: skip
    for k in np.unique(rows["k"]):
        mask = rows["k"] == k
        own = where(rows, mask)
        text = [f"{card[0]}<br>{card[1]}<br>measured {card[4]}, predicted {words.loss(p)}" for card, p in zip(cards(own), predicted[mask], strict=True)]
        look: dict[str, Any] = {
            "mode": "markers", "text": text, "hovertemplate": "%{text}<extra></extra>", "legendgroup": f"k{k}",
            "marker": {"size": 7, "color": colour_of_k(k), "opacity": 0.85, "line": {"color": "var(--paper)", "width": 0.8}},
        }  # fmt: skip
        fitted.add_scatter(x=predicted[mask], y=own["bits_per_byte"], **look)
        rest.add_scatter(x=own["bits"], y=left[mask], **look)
    return [fitted, rest]


def reach(values: np.ndarray) -> tuple[float, float]:
    """From where to where positive values reach, with a margin, for a logarithmic axis."""
    kept = values[np.isfinite(values) & (values > 0)]
    if not len(kept):
        return 1e-4, 1.0
    return float(kept.min()) / 1.5, float(kept.max()) * 1.5 if math.isfinite(kept.max()) else 1.0
