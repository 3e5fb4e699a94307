"""The sections of one view, a function each: a finding in words, figures, small tables, or why there is nothing to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from kbit.errors import LawError
from kbit.laws import Law
from kbit.report import figures, panels, verdict, words
from kbit.report.compare import Standing
from kbit.report.look import Figure, colour_of_block, colour_of_category
from kbit.report.optimum import Optimum
from kbit.report.runs import (
    KEPT,
    Table,
    bits_per_byte_of_nats,
    block_order,
    common_granularity,
    longest_trained,
    main_series,
    where,
)

Panels = Mapping[str, panels.Lines]  # title -> name of a line -> its runs
Ranking = Mapping[str, Sequence[Standing]]


@dataclass(frozen=True)
class SmallTable:
    """A table of texts under a figure; folded: the reader opens it."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: bool = True


@dataclass(frozen=True)
class Section:
    """One section of one view; `missing` says why there is nothing to show and what would change it."""

    finding: str = ""
    note: str = ""
    figures: Sequence[Figure] = ()
    tables: Sequence[SmallTable] = ()
    formula: str = ""
    missing: str = ""


def curve(rows: Table, axis: str, optimum: Optimum | LawError) -> Section:
    """Loss against bits for every series, and the distance of each k from the best at the same bits."""
    drawn = [figures.loss_against_bits(rows, axis)]
    above = int((rows["bits_per_byte"][rows["main"]] > figures.loss_frame(rows)[1]).sum())
    lie = "lies" if above == 1 else "lie"
    notes = [f"{words.plural(above, 'run')} {lie} above the frame; a double click shows all."] if above else []
    if len(np.unique(rows["seed"][longest_trained(rows)])) > 1:
        notes.append("Hollow points are models of other seeds.")
    if isinstance(optimum, Optimum):
        losses = optimum.losses * float(np.median(bits_per_byte_of_nats(rows)))
        drawn.append(figures.behind_the_best(optimum.budgets, losses, optimum.widths, axis, optimum.basis))
    return Section(verdict.what_bits_cost(rows, main_series(rows)[0]), " ".join(notes), drawn)


def best_width(optimum: Optimum | LawError, of_any: Optimum | LawError, axis: str) -> Section:
    """The probability of each k being the best, by budget: measured, and by the law."""
    if isinstance(optimum, LawError):
        return Section(missing=str(optimum))
    best = optimum.stretches
    cells = [
        [
            f"{words.bits(part.low)} to {words.bits(part.high)}",
            f"{words.as_bytes(part.low)} to {words.as_bytes(part.high)}",
            words.bit_width(part.k),
            words.probability(part.probability),
        ]
        for part in best
    ]
    table = SmallTable("Best bit width by budget", ("bits", "bytes", "best", "mean probability"), cells, folded=False)
    title = f"Measured: {optimum.basis}, interpolated"
    drawn = [figures.best_by_budget(optimum.budgets, optimum.chances, optimum.widths, axis, title)]
    if len(optimum.law_budgets):
        title = f"By the law ({optimum.law_form}), beyond what was measured too"
        ends = optimum.budgets[[0, -1]]
        chances = optimum.law_chances
        drawn.append(figures.best_by_budget(optimum.law_budgets, chances, optimum.widths, axis, title, measured=ends))
    note = ""
    if isinstance(of_any, Optimum):
        note = f"With the best format of each bit width instead: {verdict.headline(of_any.stretches, axis)}"
    return Section(verdict.headline(best, axis), note, drawn, [table])


def data_types(rows: Table) -> Panels:
    """For each k the series of the granularity under which most codebooks were run."""
    own = where(rows, rows["granularity"] == common_granularity(rows))
    widths = np.unique(own["k"]).tolist()
    return _with_rivals({words.bit_width(k): panels.lines_by(where(own, own["k"] == k), "series") for k in widths})


def block_sizes(rows: Table) -> Panels:
    """For each codebook and k its granularities, formats without options alone."""
    own = where(rows, np.array([text.count("-") == 1 for text in rows["format"].tolist()], dtype=bool))
    found = {}
    for name, k in sorted(set(zip(own["codebook"].tolist(), own["k"].tolist(), strict=True))):
        of_pair = where(own, (own["codebook"] == name) & (own["k"] == k))
        found[f"{name}{k}"] = panels.lines_by(of_pair, "granularity")
    return _with_rivals(found)


def _with_rivals(found: Panels) -> Panels:
    return {title: lines for title, lines in found.items() if len(lines) > 1}


def compared_types(found: Panels, ranking: Ranking) -> Section:
    """Data types side by side."""
    if not found:
        return Section(missing="No bit width was run with more than one data type. Add formats such as nf4-b64 to the grid.")
    order = sorted({name for lines in found.values() for name in lines})
    drawn = panels.side_by_side(found, order, ranking, colour_of_category)
    return Section(verdict.side_by_side(ranking, "data type"), "", drawn, _ranks(ranking, "data type"))


def compared_blocks(found: Panels, ranking: Ranking) -> Section:
    """Block sizes side by side."""
    if not found:
        return Section(missing="No format was run with more than one block size. Add int4-b32 and int4-b128 to the grid.")
    order = sorted({name for lines in found.values() for name in lines}, key=block_order)
    drawn = panels.side_by_side(found, order, ranking, partial(colour_of_block, len(order)))
    return Section(verdict.side_by_side(ranking, "block size"), "", drawn, _ranks(ranking, "block size"))


def _ranks(ranking: Ranking, what: str) -> list[SmallTable]:
    cells = []
    for title, group in ranking.items():
        cells += [[title, one.name, words.probability(one.probability), *_behind(one)] for one in group]
    head = ("", what, "probability of being best", "bits per byte behind the first", "95% interval")
    return [SmallTable(f"Ranking at equal bits, best {what} first", head, cells)] if cells else []


def _behind(one: Standing) -> list[str]:
    if one.behind == 0:
        return ["", ""]
    return [f"+{words.small(one.behind)}", f"{words.small(one.low)} to {words.small(one.high)}"]


def front(rows: Table, members: np.ndarray, axis: str) -> Section:
    """The Pareto front, drawn and listed."""
    best = where(rows, members)
    cells = [
        [words.bits(bits), words.as_bytes(bits), str(model), str(fmt), words.loss(loss), f"{perplexity:.2f}"]
        for bits, model, fmt, loss, perplexity in zip(
            *(best[name] for name in ("bits", "model", "format", "bits_per_byte", "perplexity")), strict=True
        )
    ]
    table = SmallTable("The front", ("bits", "bytes", "model", "format", "bits per byte", "perplexity"), cells)
    return Section(verdict.front(rows, members), "", [figures.pareto_front(rows, members, axis)], [table])


def fitted_law(rows: Table, law: Law | LawError, axis: str) -> Section:
    """The law's formula, its parameters, and how well it holds."""
    if isinstance(law, LawError):
        return Section(missing=str(law))
    fitted = np.isin(rows["format"], list(law.layout.k)) & np.isin(rows["model"], law.fitted.model)
    own = where(rows, fitted & ((rows["method"] == law.chosen["method"]) | (rows["k"] >= KEPT)))
    tokens = own["training_tokens"].astype(float) if law.layout.has_data else np.ones(len(own["k"]))
    at = law.layout.points(own["parameters_linear"].astype(float), tokens, own["format"].tolist(), own.get("qat_tokens"))
    predicted = law.layout.loss(law.theta, at) * bits_per_byte_of_nats(own)
    error = float(np.sqrt(np.mean((own["bits_per_byte"] - predicted) ** 2)))
    finding = f"The law misses {words.plural(len(predicted), 'measurement')} by {error:.2g} bits per byte (root mean square)."
    note = f"{law.where} Source of the form: {law.layout.law.cite}."
    tables = [_parameters(law), _trials(law)]
    return Section(finding, note, figures.law_fit(own, predicted, axis), tables, f"loss = {law.formula}")


def _parameters(law: Law) -> SmallTable:
    cells: list[list[str]] = []
    for name, estimate in law.estimates.items():
        bound = " (at its bound)" if estimate.at_bound else ""
        meaning = law.layout.parameters[name.partition("[")[0]].meaning
        if cells and name.partition("[")[0] == cells[-1][0].partition("[")[0]:
            meaning = ""  # said of the first of its members
        cells.append([name, f"{estimate.value:.3g}{bound}", f"{estimate.low:.3g} to {estimate.high:.3g}", meaning])
    return SmallTable(f"Parameters, with {law.confidence:.0%} intervals", ("parameter", "value", "interval", "what it is"), cells)


def _trials(law: Law) -> SmallTable:
    cells = [[one.form, str(one.parameters), f"{one.loss_error:.3g}", f"{one.cost_error:.0%}"] for one in law.trials]
    head = ("form", "parameters", "error of loss, nats", "error of what a format costs")
    return SmallTable("Forms, judged at sizes left out of the fit", head, cells)


def training(rows: Table) -> Section:
    """What each k costs after fewer and more training tokens, for the main series and the first seed."""
    tokens = rows["training_tokens"].astype(float)
    if len(np.unique(tokens[np.isfinite(tokens)])) < 2:
        return Section(missing="All models of this view saw one number of training tokens. Add models of fewer or more.")
    series = main_series(rows)[0]
    own = where(rows, (rows["series"] == series) & (rows["seed"] == rows["seed"].min()) & np.isfinite(rows["added"]))
    sizes = {}
    for parameters in np.unique(own["parameters"]):
        of_size = where(own, own["parameters"] == parameters)
        if found := _by_tokens(of_size):
            sizes[min(of_size["model"].tolist(), key=len)] = found
    if not sizes:
        return Section(missing=f"No size was run at {series} after two numbers of training tokens. Add such models.")
    return Section(verdict.training(sizes), f"Format: {series}.", panels.by_training(sizes))


def _by_tokens(rows: Table) -> dict[int, Table]:
    """The runs of each k that was run after several numbers of training tokens, by these."""
    found = {int(k): where(rows, rows["k"] == k) for k in np.unique(rows["k"])}
    found = {k: line for k, line in found.items() if len(np.unique(line["training_tokens"])) > 1}
    return {k: where(line, np.argsort(line["training_tokens"], kind="stable")) for k, line in found.items()}
