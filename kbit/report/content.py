"""What the page shows of one view: sentences, figures and small tables, computed from its runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from kbit.errors import LawError
from kbit.laws import Law
from kbit.report import figures, panels, verdict, words
from kbit.report.compare import Standing, standings
from kbit.report.look import Figure, colour_of_block, colour_of_category
from kbit.report.optimum import Optimum
from kbit.report.runs import KEPT, Table, bits_per_byte_of_nats, block_order, common_granularity, lines, main_series, where

NAMED_ON_TILES = 4  # the bit width at which tiles compare: that of the k-bit paper's advice


@dataclass
class Section:
    """One section of one view; `missing` says why there is nothing to show and what would change it."""

    finding: str = ""
    note: str = ""
    figures: Sequence[Figure] = ()
    tables: Sequence[Mapping[str, Any]] = ()
    formula: str = ""
    missing: str = ""


@dataclass
class Content:
    """All of one view."""

    headline: str
    lead: str
    ruler: list[dict[str, Any]] = field(default_factory=list)
    tiles: list[dict[str, str]] = field(default_factory=list)
    sections: dict[str, Section] = field(default_factory=dict)


def content_of(
    rows: Table, axis: str, optimum: Optimum | LawError, of_any: Optimum | LawError, law: Law | LawError, front: np.ndarray
) -> Content:
    """The content of a view whose runs are `rows` (from runs.rows_of)."""
    best = None if isinstance(optimum, LawError) else verdict.stretches(optimum.budgets, optimum.chances, optimum.widths)
    types, blocks = _types(rows), _blocks(rows)
    ranking = {name: _rank(groups) for name, groups in (("types", types), ("blocks", blocks))}
    return Content(
        headline=verdict.headline(best, axis) if best else "These runs cannot say yet which bit width is best.",
        lead=_lead(rows, optimum),
        ruler=_ruler(best) if best else [],
        tiles=_tiles(rows, ranking["types"]),
        sections={
            "curve": _curve(rows, axis, optimum),
            "optimum": _optimum(optimum, of_any, axis, best),
            "types": _compared(types, ranking["types"], "data type"),
            "blocks": _compared(blocks, ranking["blocks"], "block size"),
            "front": _front(rows, front, axis),
            "law": _law(rows, law, axis),
            "tokens": _tokens(rows),
        },
    )


def _curve(rows: Table, axis: str, optimum: Optimum | LawError) -> Section:
    series = main_series(rows)
    drawn = [figures.loss_against_bits(rows, axis)]
    y = drawn[0]["layout"]["yaxis"]
    top = 10 ** y["range"][1] if y.get("type") == "log" else y["range"][1]
    above = int((rows["bits_per_byte"][rows["main"]] > top).sum())
    note = f"{words.plural(above, 'run')} of other formats or few bits {'lies' if above == 1 else 'lie'} above the frame; a double click shows them." if above else ""
    if not isinstance(optimum, LawError):
        losses = optimum.losses * float(np.median(bits_per_byte_of_nats(rows)))
        drawn.append(figures.behind_the_best(optimum.budgets, losses, optimum.widths, axis, optimum.basis))
    return Section(verdict.what_bits_cost(rows, series[0]), note, drawn)


def _optimum(optimum: Optimum | LawError, of_any: Optimum | LawError, axis: str, best: Sequence[verdict.Stretch] | None) -> Section:
    if isinstance(optimum, LawError) or best is None:
        return Section(missing=str(optimum))
    cells = [
        [f"{words.bits(part.low)} to {words.bits(part.high)}", f"{words.as_bytes(part.low)} to {words.as_bytes(part.high)}",
         words.bit_width(part.k), words.probability(part.probability)]
        for part in best
    ]  # fmt: skip
    table = {"caption": "Best bit width by budget", "head": ["bits", "bytes", "best", "mean probability"], "rows": cells}
    drawn = [figures.best_by_budget(optimum.budgets, optimum.chances, optimum.widths, axis, f"Measured: {optimum.basis}, interpolated")]
    if len(optimum.law_budgets):
        title = f"By the law ({optimum.law_form}), beyond what was measured too"
        drawn.append(figures.best_by_budget(optimum.law_budgets, optimum.law_chances, optimum.widths, axis, title, measured=optimum.budgets[[0, -1]]))
    note = ""
    if not isinstance(of_any, LawError):
        free = verdict.stretches(of_any.budgets, of_any.chances, of_any.widths)
        note = f"With the best format of each bit width instead: {verdict.headline(free, axis)}"
    return Section(verdict.headline(best, axis), note, drawn, [table])


def _types(rows: Table) -> dict[int, dict[str, Table]]:
    """Series of the granularity under which most codebooks were run, by k."""
    common = common_granularity(rows)
    return panels.groups_of(where(rows, (rows["granularity"] == common) | (rows["k"] >= KEPT)), "series")


def _blocks(rows: Table) -> dict[int, dict[str, Table]]:
    """The codebook that was run in most granularities, without options, by k and granularity."""
    plain = where(rows, np.array([text.count("-") == 1 for text in rows["format"].tolist()], dtype=bool) | (rows["k"] >= KEPT))
    quantized = where(plain, plain["k"] < KEPT)
    if not len(quantized["k"]):
        return {}
    names = np.unique(quantized["codebook"])
    counts = [len(np.unique(quantized["granularity"][quantized["codebook"] == name])) for name in names]
    most = names[int(np.argmax(counts))]
    return panels.groups_of(where(plain, plain["codebook"] == most), "granularity")


def _rank(groups: Mapping[int, Mapping[str, Table]]) -> dict[int, list[Standing]]:
    return {k: standings(named) for k, named in groups.items()}


def _compared(groups: dict[int, dict[str, Table]], ranking: Mapping[int, list[Standing]], what: str) -> Section:
    if not groups:
        more = "formats such as nf4-b64" if what == "data type" else "formats such as int4-b32 and int4-b128"
        return Section(missing=f"No bit width was run with more than one {what}. Add {more} to the grid.")
    names = {name for named in groups.values() for name in named}
    order = sorted(names, key=block_order) if what == "block size" else sorted(names)
    colour: Callable[..., str] = partial(colour_of_block, len(order)) if what == "block size" else colour_of_category
    rows = [
        [words.bit_width(k), standing.name, words.probability(standing.probability), "" if i == 0 else f"+{words.small(standing.behind)}",
         "" if i == 0 else f"{words.small(standing.low)} to {words.small(standing.high)}"]
        for k, standings_of_k in ranking.items()
        for i, standing in enumerate(standings_of_k)
    ]  # fmt: skip
    head = ["k", what, "probability of being best", "bits per byte behind the best", "95% interval"]
    table = {"caption": f"Ranking at equal bits, best {what} first", "head": head, "rows": rows, "folded": True}
    return Section(verdict.side_by_side(ranking, what), "", panels.side_by_side(groups, order, ranking, colour), [table] if rows else [])


def _front(rows: Table, front: np.ndarray, axis: str) -> Section:
    best = where(rows, front)
    cells = [
        [words.bits(best["bits"][i]), words.as_bytes(best["bits"][i]), str(best["model"][i]), str(best["format"][i]),
         words.loss(best["bits_per_byte"][i]), f"{best['perplexity'][i]:.2f}"]
        for i in range(len(front))
    ]  # fmt: skip
    table = {"caption": "The front", "head": ["bits", "bytes", "model", "format", "bits per byte", "perplexity"], "rows": cells, "folded": True}
    return Section(verdict.front(rows, front), "", [figures.pareto_front(rows, front, axis)], [table])


def _law(rows: Table, law: Law | LawError, axis: str) -> Section:
    if isinstance(law, LawError):
        return Section(missing=str(law))
    known = np.isin(rows["format"], list(law.layout.k)) & np.isin(rows["model"], law.fitted.model)
    own = where(rows, known)
    tokens = own["training_tokens"].astype(float) if law.layout.has_data else np.ones(len(own["k"]))
    at = law.layout.points(own["parameters_linear"].astype(float), tokens, own["format"].tolist())
    predicted = law.layout.loss(law.theta, at) * own["bits_per_byte"] / own["loss"]
    cells = [
        [name, f"{e.value:.3g}{' (at its bound)' if e.at_bound else ''}", f"{e.low:.3g} to {e.high:.3g}", law.layout.parameters[name.partition("[")[0]].meaning]
        for name, e in law.estimates.items()
    ]  # fmt: skip
    trials = [[t.form, str(t.parameters), f"{t.loss_error:.3g}", f"{t.cost_error:.0%}"] for t in law.trials]
    tables = [
        {"caption": f"Parameters, with {law.confidence:.0%} intervals", "head": ["parameter", "value", "interval", "what it is"], "rows": cells, "folded": True},
        {"caption": "Forms, judged at sizes left out of the fit", "head": ["form", "parameters", "error of loss, nats", "error of what a format costs"], "rows": trials, "folded": True},
    ]  # fmt: skip
    left = own["bits_per_byte"] - predicted
    finding = f"The law misses {words.plural(len(left), 'measurement')} by {np.sqrt(np.mean(left**2)):.2g} bits per byte (root mean square)."
    note = f"{law.where} Source of the form: {law.layout.law.cite}."
    return Section(finding, note, figures.law_fit(own, predicted, axis), tables, f"loss = {law.layout.law.formula}")


def _tokens(rows: Table) -> Section:
    counts = np.unique(rows["training_tokens"].astype(float)[np.isfinite(rows["training_tokens"].astype(float))])
    if len(counts) < 2:
        return Section(missing="All models of this view were trained on one number of tokens. Add models of fewer or more to the grid.")
    series = main_series(rows)[0]
    first = rows["seed"] == rows["seed"].min()
    own = where(rows, (rows["series"] == series) & first & np.isfinite(rows["added"]))
    sizes: dict[str, dict[int, Table]] = {}
    for parameters in np.unique(own["parameters"]):
        of_size = where(own, own["parameters"] == parameters)
        if len(np.unique(of_size["training_tokens"])) > 1:
            name = min(of_size["model"].tolist(), key=len)
            sizes[str(name)] = {int(k): where(of_size, of_size["k"] == k) for k in np.unique(of_size["k"])}
    if not sizes:
        return Section(missing=f"No size of this view was run at {series} after two numbers of training tokens. Add such models to the grid.")
    return Section(verdict.training(sizes), f"Format: {series}.", panels.by_training(sizes))


def _lead(rows: Table, optimum: Optimum | LawError) -> str:
    sizes = np.unique(rows["parameters_linear"])
    how = f" The bit widths are compared with {optimum.basis}." if not isinstance(optimum, LawError) else f" {optimum}"
    return (
        f"{words.plural(len(rows['k']), 'run')} of the family {rows['family'][0]}: {words.plural(len(sizes), 'size')} from {words.of_size(sizes[0])} to "
        f"{words.of_size(sizes[-1])} weights in linear layers, measured on {rows['protocol'][0]}.{how}"
    )


def _ruler(best: Sequence[verdict.Stretch]) -> list[dict[str, Any]]:
    span = np.log(best[-1].high / best[0].low)
    return [
        {"k": part.k, "share": round(float(np.log(part.high / part.low) / span), 4), "text": words.bit_width(part.k),
         "probability": words.probability(part.probability), "from": words.as_bytes(part.low), "to": words.as_bytes(part.high)}
        for part in best
    ]  # fmt: skip


def _tiles(rows: Table, types: Mapping[int, Sequence[Standing]]) -> list[dict[str, str]]:
    kept = where(rows, (rows["k"] >= KEPT) & rows["main"])
    tiles = [{"value": f"{len(rows['k']):,}", "label": "runs", "note": f"{len(np.unique(rows['model']))} models, {len(np.unique(rows['format']))} formats"}]
    if len(kept["k"]):
        low, high = kept["bits_per_byte"].min(), kept["bits_per_byte"].max()
        tiles.append({"value": f"{low:.3f}", "label": "bits per byte, largest model in 16 bits" if len(kept["k"]) > 1 else "bits per byte in 16 bits",
                      "note": f"{high:.3f} the smallest" if high > low else ""})  # fmt: skip
    four = [line for k, line in lines(where(rows, rows["series"] == main_series(rows)[0])) if k == NAMED_ON_TILES]
    if four and np.isfinite(four[0]["added"][-1]):
        shrink = rows["parameters_linear"].max() * 16 / four[0]["linear_bits"][-1]
        tiles.append({"value": f"{four[0]['added'][-1]:+.4f}", "label": f"bits per byte for {four[0]['format'][-1]}, largest model",
                      "note": f"linear layers {shrink:.1f} times smaller"})  # fmt: skip
    if best := types.get(NAMED_ON_TILES):
        tiles.append({"value": best[0].name, "label": f"best data type at {NAMED_ON_TILES} bits", "note": f"probability {words.probability(best[0].probability)}"})
    tiles.append({"value": words.seconds(float(rows["seconds"].sum())), "label": "of computing", "note": words.listing(sorted({str(h) for h in rows["host"]})[:3])})
    return tiles
