"""Small panels side by side, one for each k or size: data types, block sizes, training tokens; y is what a format costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kbit.report import words
from kbit.report.compare import Standing
from kbit.report.look import Figure, band, bits_axis, bits_ticks, colour_of_k, dot, figure, legend_of_k, log_axis, plain, points
from kbit.report.runs import KEPT, Z95, Table, where

HEIGHT, PHONE = 290, 260
CLEAR_SHARE = 0.5  # of a panel's costs must stand out from their noise, or it says that they do not


class Cost(NamedTuple):
    """A measure of what a format costs: columns of value and standard error, and the least that an axis shows."""

    value: str
    stderr: str
    least: float


COSTS = {
    "bits per byte above 16 bits": Cost("added", "added_stderr", 1e-5),
    "mean KL divergence from 16 bits, nats": Cost("kld_mean", "kld_mean_stderr", 1e-7),
}

Lines = Mapping[str, Table]  # name of a line -> its runs, sorted by x
Colour = Callable[..., str]


def side_by_side(
    panels: Mapping[str, Lines], order: list[str], ranking: Mapping[str, Sequence[Standing]], colour: Colour
) -> list[Figure]:
    """Panels by title; a line's colour is that of its place in `order`. The panels share their x axis, and each has its own y."""
    bits = np.concatenate([rows["bits"] for lines in panels.values() for rows in lines.values()])
    legend = [{"text": plain(name), "colour": colour(i), "group": plain(name)} for i, name in enumerate(order)]
    drawn = []
    for title, lines in panels.items():
        clear = _is_clear(lines.values())
        note = _best_of(ranking.get(title, [])) if clear else "costs less than the noise"
        panel = _panel(bits_axis(bits, ""), lines.values(), title=title, note=note, ticks=bits_ticks(bits)[1:], legend=legend)
        for name, rows in lines.items():
            place = order.index(name)
            _add_line(panel, rows, "bits", (colour(place), colour(place, "-band")), plain(name), clear)
        drawn.append(panel)
    return drawn


def by_training(sizes: Mapping[str, Mapping[int, Table]]) -> list[Figure]:
    """A panel for each size: what each k costs, against the tokens that the model was trained on; all share their axes."""
    every = [rows for widths in sizes.values() for rows in widths.values()]
    tokens = np.unique(np.concatenate([rows["training_tokens"] for rows in every]).astype(float))
    x = {"type": "log", "range": [math.log10(tokens[0] / 1.2), math.log10(tokens[-1] * 1.2)]}
    ticks = [{"at": at, "text": [words.of_size(tick) for tick in at]} for at in (tokens, tokens[[0, -1]])]
    legend = legend_of_k(sorted({k for widths in sizes.values() for k in widths}))
    drawn = []
    for name, widths in sizes.items():
        panel = _panel(x, every, title=plain(name), note="", ticks=ticks, legend=legend)
        for k, rows in widths.items():
            _add_line(panel, rows, "training_tokens", (colour_of_k(k), colour_of_k(k, "-band")), f"k{k}", True)
        drawn.append(panel)
    return drawn


def _panel(x: Mapping[str, object], lines: Iterable[Table], **meta: Any) -> Figure:
    """A panel whose reader chooses the measure of cost."""
    lines = list(lines)
    axes = {name: log_axis(*reach(lines, cost)) for name, cost in COSTS.items()}
    for axis in axes.values():
        axis.pop("title")
    first = next(iter(axes.values()))
    return figure(x, first, height=HEIGHT, phone=PHONE, choose="Cost", choices=list(axes), axes=axes, **meta)


def reach(lines: Iterable[Table], cost: Cost) -> tuple[float, float]:
    """Ends of an axis of costs: from half of the least cost that stands out from its noise to above the largest."""
    found = [_costs(rows, cost) for rows in lines]
    value, noise = (np.concatenate([pair[i] for pair in found]) for i in (0, 1))
    clear = value[(value > noise) & (value > cost.least)]
    if not len(clear):
        clear = value[value > cost.least]
    return (float(clear.min()) / 2, float(clear.max()) * 1.5) if len(clear) else (cost.least, 1e3 * cost.least)


def _costs(rows: Table, cost: Cost) -> tuple[np.ndarray, np.ndarray]:
    """A measure's values and half their 95% intervals (0 where no standard error is known)."""
    value = rows[cost.value].astype(float)
    return value, Z95 * np.nan_to_num(rows.get(cost.stderr, np.zeros_like(value)).astype(float))


def _is_clear(lines: Iterable[Table]) -> bool:
    """Whether enough of the losses stand out from their noise."""
    found = [_costs(rows, COSTS["bits per byte above 16 bits"]) for rows in lines]
    return float(np.mean(np.concatenate([value > noise for value, noise in found]))) >= CLEAR_SHARE


def _add_line(panel: Figure, rows: Table, x: str, colours: tuple[str, str], group: str, clear: bool) -> None:
    """A line for each measure of cost, with its 95% band; what lies below the axis is drawn on it."""
    for name, cost in COSTS.items():
        value, noise = _costs(rows, cost)
        floor = 10.0 ** panel["layout"]["meta"]["axes"][name]["range"][0]
        vague = cost.value == "added" and not clear
        if len(value) > 1 and not vague:
            low, high = (np.maximum(value + sign * noise, floor / 10) for sign in (-1, 1))
            panel["data"].append(band(rows[x], low, high, colours[1], legendgroup=group, meta={"group": name}))
        look: dict[str, Any] = {"line": {"color": colours[0], "width": 1.8}, "marker": dot(colours[0], 6)}
        look |= {"mode": "lines+markers", "opacity": 0.4 if vague else 1, "legendgroup": group}
        panel["data"].append(points(rows[x], np.maximum(value, floor), rows, meta={"group": name}, **look))


def _best_of(ranking: Sequence[Standing]) -> str:
    return f"{plain(ranking[0].name)} best, {words.probability(ranking[0].probability)}" if ranking else ""


def lines_by(rows: Table, column: str) -> dict[str, Table]:
    """The main quantized runs for each value of a column, each sorted by bits."""
    mine = where(rows, rows["main"] & (rows["k"] < KEPT))
    lines = {str(name): where(mine, mine[column] == name) for name in np.unique(mine[column])}
    return {name: where(line, np.argsort(line["bits"], kind="stable")) for name, line in lines.items()}
