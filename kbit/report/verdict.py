"""Sentences that say what the figures show, computed from the same numbers; the page puts each above its figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from kbit.report import words
from kbit.report.compare import Standing
from kbit.report.runs import KEPT, Table, where

SHORTEST = 0.03  # a stretch of budgets below this share of their logarithmic range is a crossing, not a regime
SHORT = 0.1  # and one below this share must be likely
LIKELY = 0.9  # below this probability the runner-up is named too
MOST_TOLD = 5  # bits above which a format costs too little for a sentence
CLEAR = 0.95  # a probability from which one candidate is said to be the best


@dataclass(frozen=True)
class Stretch:
    """Budgets, in bits, from `low` to `high` at which k is the most probable best, with its mean probability, and the next k."""

    k: int
    low: float
    high: float
    probability: float
    runner_up: int


def stretches(budgets: np.ndarray, chances: np.ndarray, widths: Sequence[int]) -> list[Stretch]:
    """The budgets cut where the best k changes; a stretch too short to matter goes to its longer neighbour.

    budgets: ascending, evenly spaced in their logarithm. chances: (budgets, widths).
    """
    winner = chances.argmax(axis=1)
    while (short := _too_short(winner, chances)) is not None:
        edges = _edges(winner)
        before = edges[short] - edges[short - 1] if short else 0
        after = edges[short + 2] - edges[short + 1] if short + 2 < len(edges) else 0
        winner[edges[short] : edges[short + 1]] = winner[edges[short] - 1 if before >= after else edges[short + 1]]
    edges = _edges(winner)
    borders = [budgets[0], *[float(np.sqrt(budgets[e - 1] * budgets[e])) for e in edges[1:-1]], budgets[-1]]
    found = []
    for (a, b), (low, high) in zip(pairwise(edges), pairwise(borders), strict=True):
        mean = chances[a:b].mean(axis=0)
        second = int(np.argsort(np.where(np.arange(len(mean)) == winner[a], -1, mean))[-1])
        found.append(Stretch(int(widths[winner[a]]), float(low), float(high), float(mean[winner[a]]), int(widths[second])))
    return found


def _edges(winner: np.ndarray) -> list[int]:
    """Where stretches of one winner begin, and the end of the last."""
    return [0, *(np.flatnonzero(np.diff(winner)) + 1).tolist(), len(winner)]


def _too_short(winner: np.ndarray, chances: np.ndarray) -> int | None:
    """The shortest stretch that is none: it is very short, or short and not likely."""
    edges = _edges(winner)
    shares = np.diff(edges) / len(winner)
    for i in np.argsort(shares, kind="stable").tolist() if len(shares) > 1 else []:
        likely = chances[edges[i] : edges[i + 1], winner[edges[i]]].mean() >= LIKELY
        if shares[i] < SHORTEST or (shares[i] < SHORT and not likely):
            return int(i)
    return None


def headline(parts: Sequence[Stretch], axis: str) -> str:
    """Which k is best at which budget, in one sentence with probabilities."""
    of = "of model" if axis == "total" else "in the linear layers"
    first, *rest = parts
    best = f"{words.bit_width(first.k)} {'is' if first.k == 1 else 'are'} best"
    if not rest:
        span = f"from {words.bits(first.low)} to {words.bits(first.high)}"
        return f"{best} at every budget {span} {of} (probability {_chance(first)})."
    told = [f"{best} up to {words.bits(first.high)} {of} (probability {_chance(first)})"]
    told += [f"{words.bit_width(part.k)} from there to {words.bits(part.high)} ({_chance(part)})" for part in rest]
    return ", ".join(told) + "."


def _chance(part: Stretch) -> str:
    """71%, else mostly 5 bits."""
    rival = "" if part.probability >= LIKELY else f", else mostly {words.bit_width(part.runner_up)}"
    return words.probability(part.probability) + rival


def what_bits_cost(rows: Table, series: str) -> str:
    """What each k up to MOST_TOLD adds to the loss of the largest model, for one series of formats."""
    own = where(rows, (rows["series"] == series) & rows["main"] & np.isfinite(rows["added"]))
    if not len(own["k"]):
        return "No model was measured in 16 bits, so what a format costs is not known. Add bf16 to the grid."
    largest = where(own, (own["parameters"] == own["parameters"].max()) & (own["k"] <= MOST_TOLD))
    costs = sorted(zip(largest["k"].tolist(), largest["added"].tolist(), strict=True))
    if not costs:
        return ""
    told = words.listing([f"{added:+.4f} at {words.bit_width(k)}" for k, added in costs])
    return f"{series} on {largest['model'][0]}, in bits per byte above 16 bits: {told}."


def side_by_side(ranking: Mapping[str, Sequence[Standing]], what: str) -> str:
    """Which of the candidates is best at equal bits, for the panels where that is clear and those where it is not."""
    if not any(ranking.values()):
        return f"The runs of these {what}s have no sizes in common, so they cannot be ranked at equal bits."
    clear: dict[str, list[str]] = {}
    for title, standings in ranking.items():
        if standings and standings[0].probability >= CLEAR:
            clear.setdefault(standings[0].name, []).append(title)
    close = [title for title, standings in ranking.items() if standings and standings[0].probability < CLEAR]
    if not clear:
        return f"At equal bits no {what} stands out."
    told = words.listing([f"{name} at {_titles(titles)}" for name, titles in clear.items()])
    rest = f"; at {_titles(close)} it is too close to call" if close else ""
    return f"At equal bits the best {what} is {told}{rest}."


def front(rows: Table, members: np.ndarray) -> str:
    """Who stands on the Pareto front, by bit width."""
    best = where(rows, members)
    if not len(members):
        return ""
    counts = [f"{int((best['k'] == k).sum())} at {words.bit_width(int(k))}" for k in np.unique(best["k"])]
    return (
        f"{len(members)} of {len(rows['k'])} runs are beaten by no other in both bits and loss: {words.listing(counts)}, "
        f"from {words.bits(best['bits'][0])} at {words.loss(best['bits_per_byte'][0])} to {words.bits(best['bits'][-1])} "
        f"at {words.loss(best['bits_per_byte'][-1])} bits per byte."
    )


def training(sizes: Mapping[str, Mapping[int, Table]]) -> str:
    """Whether what a format costs grows with training: its ratio between the most and the fewest tokens, by k."""
    ratios: dict[int, list[float]] = {}
    for widths in sizes.values():
        for k, rows in widths.items():
            tokens = rows["training_tokens"].astype(float)
            first, last = rows["added"][tokens.argmin()], rows["added"][tokens.argmax()]
            if min(first, last) > 2 * float(np.nanmax(rows["added_stderr"])):
                ratios.setdefault(k, []).append(last / first)
    if not ratios:
        return "What the formats cost lies within the noise at every number of training tokens."
    tokens = np.concatenate([rows["training_tokens"] for widths in sizes.values() for rows in widths.values()])
    told = [f"{np.exp(np.mean(np.log(values))):.2f} at {words.bit_width(k)}" for k, values in sorted(ratios.items()) if k < KEPT]
    span = f"From {words.of_size(tokens.min())} to {words.of_size(tokens.max())} training tokens"
    return f"{span} the cost of quantizing is multiplied by {words.listing(told)} (mean over the sizes)."


def _are(k: int) -> str:
    return "is" if k == 1 else "are"


def _titles(titles: Sequence[str]) -> str:
    """3 and 4 bits, for "3 bits" and "4 bits"."""
    if len(titles) > 1 and all(title.endswith(" bits") for title in titles):
        return f"{words.listing([title.removesuffix(' bits') for title in titles])} bits"
    return words.listing(list(titles))
