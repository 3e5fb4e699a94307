"""Small panels side by side, one for each k or size: data types, block sizes, training tokens; y is what a format adds to 16 bits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import plotly.graph_objects as go

from kbit.report import words
from kbit.report.compare import Standing
from kbit.report.figures import reach
from kbit.report.look import (
    RUN_HOVER, band, bits_axis, bits_ticks, cards, colour_of_category, colour_of_k, figure, log_ticks, plain,
)  # fmt: skip
from kbit.report.runs import KEPT, Table, where

HEIGHT, PHONE = 300, 270
ADDED = "bits per byte above 16 bits"
NOISE = 1e-5  # bits per byte: what lies below is no cost any more

Groups = Mapping[str, Table]


def side_by_side(
    by_k: Mapping[int, Groups], order: list[str], axis: str, ranking: Mapping[int, list[Standing]], colour: Callable[..., str]
) -> list[go.Figure]:
    """A panel for each k, a line for each group in it, coloured by its place in `order`; all panels share their axes."""
    every = [rows for groups in by_k.values() for rows in groups.values()]
    bits = np.concatenate([rows["bits"] for rows in every])
    low, high = reach(np.concatenate([np.maximum(rows["added"], NOISE) for rows in every]))
    legend = [{"text": plain(name), "colour": colour(i), "group": plain(name)} for i, name in enumerate(order)]
    panels = []
    for k, groups in by_k.items():
        panel = figure(
            {**bits_axis(bits, axis), "title": {"text": ""}}, {**log_ticks(low, high), "title": {"text": ""}},
            height=HEIGHT, phone=PHONE, title=words.bit_width(k), note=_best_of(ranking.get(k, [])), ticks=bits_ticks(bits)[1:],
            legend=legend if not panels else [],
        )  # fmt: skip
        for name, rows in groups.items():
            _add_cost(panel, rows, rows["bits"], colour(order.index(name)), colour(order.index(name), "-band"), plain(name), low)
        panels.append(panel)
    return panels


def by_training(sizes: Mapping[str, Mapping[int, Table]]) -> list[go.Figure]:
    """A panel for each size: what each k adds, against the tokens that the model was trained on."""
    every = [rows for widths in sizes.values() for rows in widths.values()]
    tokens = np.concatenate([rows["training_tokens"].astype(float) for rows in every])
    low, high = reach(np.concatenate([np.maximum(rows["added"], NOISE) for rows in every]))
    widths = sorted({k for size in sizes.values() for k in size})
    ticks = np.unique(tokens)
    panels = []
    for name, by_k in sizes.items():
        panel = figure(
            {"type": "log", "range": [math.log10(ticks[0] / 1.2), math.log10(ticks[-1] * 1.2)], "title": {"text": ""}},
            {**log_ticks(low, high), "title": {"text": ""}},
            height=HEIGHT, phone=PHONE, title=plain(name),
            ticks=[{"at": ticks.tolist(), "text": [words.of_size(tick) for tick in ticks]}, {"at": ticks[[0, -1]].tolist(), "text": [words.of_size(tick) for tick in ticks[[0, -1]]]}],
            legend=[{"text": words.bit_width(k), "colour": colour_of_k(k), "group": f"k{k}"} for k in widths] if not panels else [],
        )  # fmt: skip
        for k, rows in by_k.items():
            rows = where(rows, np.argsort(rows["training_tokens"].astype(float), kind="stable"))
            _add_cost(panel, rows, rows["training_tokens"].astype(float), colour_of_k(k), colour_of_k(k, "-band"), f"k{k}", low)
        panels.append(panel)
    return panels


def _add_cost(panel: go.Figure, rows: Table, x: np.ndarray, colour: str, shade: str, group: str, floor: float) -> None:
    """A line of added loss with its 95% band; what is at or below the noise lies on the floor of the axis."""
    y, width = np.maximum(rows["added"], floor), 1.96 * rows["added_stderr"]
    if len(x) > 1:
        panel.add_trace(band(x, np.maximum(rows["added"] - width, floor / 10), np.maximum(rows["added"] + width, floor / 10), shade, legendgroup=group))
    panel.add_scatter(
        x=x, y=y, mode="lines+markers", customdata=cards(rows), hovertemplate=RUN_HOVER, legendgroup=group, name=group,
        line={"color": colour, "width": 1.8}, marker={"size": 6, "color": colour, "line": {"color": "var(--paper)", "width": 0.8}},
    )  # fmt: skip


def _best_of(ranking: list[Standing]) -> str:
    return f"{plain(ranking[0].name)} best, {words.probability(ranking[0].probability)}" if ranking else ""


def colour_of_block(index: int, part: str = "") -> str:
    """The colour of the index-th granularity, fine to coarse."""
    return f"var(--b{min(index, 5) + 1}{part})"


def groups_of(rows: Table, by: str) -> dict[int, dict[str, Table]]:
    """k -> value of the column `by` -> main runs sorted by bits, for every k that has at least two of them."""
    found: dict[int, dict[str, Table]] = {}
    for k in np.unique(rows["k"][rows["k"] < KEPT]):
        groups = {}
        for name in np.unique(rows[by][rows["k"] == k]):
            line = where(rows, (rows["k"] == k) & (rows[by] == name) & rows["main"])
            if len(line["bits"]):
                groups[str(name)] = where(line, np.argsort(line["bits"], kind="stable"))
        if len(groups) > 1:
            found[int(k)] = groups
    return found


__all__ = ["ADDED", "by_training", "colour_of_block", "colour_of_category", "groups_of", "side_by_side"]
