"""Small panels side by side, one for each k or size: data types, block sizes, training tokens; y is what a format adds to 16 bits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from kbit.report import words
from kbit.report.compare import Standing
from kbit.report.look import Figure, band, bits_axis, bits_ticks, colour_of_k, dot, figure, legend_of_k, log_axis, plain, points
from kbit.report.runs import KEPT, Z95, Table, where

HEIGHT, PHONE = 290, 260
UNITS = "bits per byte above 16 bits"
LOWEST = 1e-5  # bits per byte: no axis of costs goes below

Groups = Mapping[str, Table]


def side_by_side(
    by_k: Mapping[int, Groups], order: list[str], ranking: Mapping[int, list[Standing]], colour: Callable[..., str]
) -> list[Figure]:
    """A panel for each k, a line for each group in it, coloured by its place in `order`; the panels share their x axis."""
    bits = np.concatenate([rows["bits"] for groups in by_k.values() for rows in groups.values()])
    legend = [{"text": plain(name), "colour": colour(i), "group": plain(name)} for i, name in enumerate(order)]
    panels = []
    for k, groups in by_k.items():
        low, high = reach(list(groups.values()))
        panel = figure(
            bits_axis(bits, ""), log_axis(low, high), height=HEIGHT, phone=PHONE, title=words.bit_width(k), note=_best_of(ranking.get(k, [])),
            ticks=bits_ticks(bits)[1:], legend=legend, units=UNITS,
        )  # fmt: skip
        for name, rows in groups.items():
            _add_cost(panel, rows, rows["bits"], lambda part="", i=order.index(name): colour(i, part), plain(name), low)
        panels.append(panel)
    return panels


def by_training(sizes: Mapping[str, Mapping[int, Table]]) -> list[Figure]:
    """A panel for each size: what each k adds, against the tokens that the model was trained on; all share their axes."""
    every = [rows for widths in sizes.values() for rows in widths.values()]
    tokens = np.unique(np.concatenate([rows["training_tokens"] for rows in every]).astype(float))
    low, high = reach(every)
    ends = [math.log10(tokens[0] / 1.2), math.log10(tokens[-1] * 1.2)]
    ticks = [{"at": at, "text": [words.of_size(tick) for tick in at]} for at in (tokens, tokens[[0, -1]])]
    panels = []
    for name, by_k in sizes.items():
        panel = figure(
            {"type": "log", "range": ends}, log_axis(low, high), height=HEIGHT, phone=PHONE, title=plain(name), ticks=ticks, units=UNITS,
            legend=legend_of_k(sorted({k for size in sizes.values() for k in size})),
        )  # fmt: skip
        for k, rows in by_k.items():
            rows = where(rows, np.argsort(rows["training_tokens"], kind="stable"))
            _add_cost(panel, rows, rows["training_tokens"], lambda part="", k=k: colour_of_k(k, part), f"k{k}", low)
        panels.append(panel)
    return panels


def reach(lines: list[Table]) -> tuple[float, float]:
    """Ends of an axis of costs: from half of the least cost that stands out from its noise to above the largest."""
    added, stderr = (np.concatenate([rows[name] for rows in lines]) for name in ("added", "added_stderr"))
    clear = added[(added > Z95 * np.nan_to_num(stderr)) & (added > LOWEST)]
    if not len(clear):
        return LOWEST, 1e3 * LOWEST
    return max(float(clear.min()) / 2, LOWEST), float(clear.max()) * 1.5


def _add_cost(panel: Figure, rows: Table, x: np.ndarray, colour: Callable[..., str], group: str, floor: float) -> None:
    """A line of added loss with its 95% band; what lies below the axis is drawn on it."""
    y, width = np.maximum(rows["added"], floor), Z95 * np.nan_to_num(rows["added_stderr"])
    ends = (np.maximum(rows["added"] + sign * width, floor / 10) for sign in (-1, 1))
    if len(x) > 1:
        panel["data"].append(band(x, *ends, colour("-band"), legendgroup=group))
    look = {"color": colour(), "width": 1.8}
    panel["data"].append(points(x, y, rows, mode="lines+markers", legendgroup=group, line=look, marker=dot(colour(), 6)))


def _best_of(ranking: list[Standing]) -> str:
    return f"{plain(ranking[0].name)} best, {words.probability(ranking[0].probability)}" if ranking else ""


def groups_of(rows: Table, by: str) -> dict[int, dict[str, Table]]:
    """k -> value of the column `by` -> main runs sorted by bits, for every k that has at least two values."""
    found: dict[int, dict[str, Table]] = {}
    for k in np.unique(rows["k"][rows["k"] < KEPT]):
        mine = where(rows, (rows["k"] == k) & rows["main"])
        groups = {str(name): where(mine, mine[by] == name) for name in np.unique(mine[by])}
        if len(groups) > 1:
            found[int(k)] = {name: where(line, np.argsort(line["bits"], kind="stable")) for name, line in groups.items()}
    return found
