"""What the page shows of one view: the verdict, key numbers, and a section for each question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kbit.errors import LawError
from kbit.laws import Law
from kbit.report import chapters, verdict, words
from kbit.report.chapters import Section
from kbit.report.compare import Standing, standings
from kbit.report.optimum import Optimum
from kbit.report.runs import KEPT, Table, lines, main_series, where

NAMED_ON_TILES = 4  # the bit width at which tiles compare: that of the k-bit paper's advice
OPEN = "These runs cannot say yet which bit width is best."


@dataclass(frozen=True)
class Content:
    """All of one view; `ruler` has a part for each stretch of budgets with one best k, `tiles` a key number each."""

    headline: str
    lead: str
    ruler: list[dict[str, object]]
    tiles: list[dict[str, str]]
    sections: dict[str, Section]


def content_of(
    rows: Table, axis: str, optimum: Optimum | LawError, of_any: Optimum | LawError, law: Law | LawError, front: np.ndarray
) -> Content:
    """The content of a view whose runs are `rows` (from runs.rows_of).

    optimum: for the main kind of format, of_any: for the best format of each k; or why there is none, as for the law.
    front: indices of the Pareto front, by bits.
    """
    best = optimum.stretches if isinstance(optimum, Optimum) else []
    types, blocks = chapters.data_types(rows), chapters.block_sizes(rows)
    best_types, best_blocks = ({title: standings(lines) for title, lines in panels.items()} for panels in (types, blocks))
    return Content(
        headline=verdict.headline(best, axis) if best else OPEN,
        lead=_lead(rows, optimum),
        ruler=_ruler(best),
        tiles=_tiles(rows, best_types),
        sections={
            "curve": chapters.curve(rows, axis, optimum),
            "optimum": chapters.best_width(optimum, of_any, axis),
            "types": chapters.compared_types(types, best_types),
            "blocks": chapters.compared_blocks(blocks, best_blocks),
            "front": chapters.front(rows, front, axis),
            "law": chapters.fitted_law(rows, law, axis),
            "tokens": chapters.training(rows),
        },
    )


def _lead(rows: Table, optimum: Optimum | LawError) -> str:
    sizes = np.unique(rows["parameters_linear"])
    span = f"{words.of_size(sizes[0])} to {words.of_size(sizes[-1])}" if len(sizes) > 1 else words.of_size(sizes[0])
    runs, of_sizes = words.plural(len(rows["k"]), "run"), words.plural(len(sizes), "size")
    found = f"{runs} of the family {rows['family'][0]}, {of_sizes} with {span}"
    how = f"The bit widths are compared with {optimum.basis}." if isinstance(optimum, Optimum) else str(optimum)
    return f"{found} weights in linear layers, measured under protocol {rows['protocol'][0]}. {how}"


def _ruler(best: Sequence[verdict.Stretch]) -> list[dict[str, object]]:
    return [
        {
            "k": part.k,
            "share": float(np.log(part.high / part.low) / np.log(best[-1].high / best[0].low)),
            "text": words.bit_width(part.k),
            "probability": words.probability(part.probability),
            "from": words.as_bytes(part.low),
            "to": words.as_bytes(part.high),
        }
        for part in best
    ]


def _tiles(rows: Table, types: Mapping[str, Sequence[Standing]]) -> list[dict[str, str]]:
    models, formats = (len(np.unique(rows[name])) for name in ("model", "format"))
    tiles = [_tile(f"{len(rows['k']):,}", "runs", f"{words.plural(models, 'model')}, {words.plural(formats, 'format')}")]
    kept = rows["bits_per_byte"][(rows["k"] >= KEPT) & rows["main"]]
    if len(kept) > 1:
        tiles.append(_tile(f"{kept.min():.3f}", "bits per byte, best model in 16 bits", f"{kept.max():.3f} the worst"))
    series = main_series(rows)[0]
    for k, line in lines(where(rows, rows["series"] == series)):
        if k == NAMED_ON_TILES and np.isfinite(line["added"][-1]):
            smaller = line["parameters_linear"][-1] * 16 / line["linear_bits"][-1]
            what = f"bits per byte for {line['format'][-1]}, largest model"
            tiles.append(_tile(f"{line['added'][-1]:+.4f}", what, f"linear layers {smaller:.1f} times smaller"))
    if best := types.get(words.bit_width(NAMED_ON_TILES)):
        chance = f"probability {words.probability(best[0].probability)}"
        tiles.append(_tile(best[0].name, f"best data type at {NAMED_ON_TILES} bits", chance))
    hosts = words.listing(sorted(set(rows["host"].tolist()))[:3])
    return [*tiles, _tile(words.seconds(float(rows["seconds"].sum())), "of computing", hosts)]


def _tile(value: str, label: str, note: str) -> dict[str, str]:
    return {"value": value, "label": label, "note": note}
