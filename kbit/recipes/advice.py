"""What would help most for the bits it costs: each change tried on the weights themselves, priced in bits, and ranked.

The price list is the squared error's own: one bit more halves the steps and divides the squared error by 4 (6 dB), so a change
that divides it by 4^g is *worth* g bits. It *costs* what it adds to the stored bits per weight. What is worth more than it costs
beats the plain way of spending bits. An error below the one that bf16 makes by its own rounding counts as that: there is nothing
below it to win.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from kbit.formats import Format
from kbit.methods import choose
from kbit.recipes.changes import Change, changes_of
from kbit.recipes.facts import sample_rows, squared_error

SAMPLE = 2**20  # weights of a layer on which changes are tried: an error is then known to about 0.2%
BF16_FLOOR = (2.0**-7) ** 2 / 12 / (7 / 3)  # in [1, 2) bf16's step is 2^-7, and the mean of v^2 is 7/3


@dataclass(frozen=True)
class Trial:
    """One change tried on one layer: its squared error relative to mean w^2, and its stored bits per weight."""

    change: Change
    relative_mse: float
    bits_per_weight: float


@dataclass(frozen=True)
class Tried:
    """All trials of one layer, beside the layer as it is. `weights` is the number of its weights."""

    name: str
    weights: int
    relative_mse: float
    bits_per_weight: float
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class Advice:
    """A change and what it brings: `worth` and `costs` in bits per weight of all layers looked at, `net` their difference.

    error: relative error (root of the mean over layers of the squared one) before and after. layers: where it is done, all or
    those in which it pays most; everywhere: whether that is all of them.
    """

    words: str
    format: str
    method: str
    error_before: float
    error_after: float
    worth: float
    costs: float
    layers: tuple[str, ...]
    everywhere: bool

    @property
    def net(self) -> float:
        """Worth less costs."""
        return self.worth - self.costs


def measured(w: Tensor, fmt: Format, method: str, *, seed: int = 0) -> float:
    """Squared error of `w` in a format by a method, relative to mean w^2; 0 where all weights are 0."""
    power = float(w.double().square().mean())
    if not power:
        return 0.0
    rounded = w.to(fmt.dtype).float() if fmt.is_float else choose(method, w, fmt, seed=seed).dequantize()
    return squared_error(w, rounded) / power


def try_changes(name: str, w: Tensor, fmt: Format, method: str, *, seed: int = 0) -> Tried:
    """Every change of `fmt` and `method` on evenly spaced rows of `w` (n_out, n_in); bits are counted for the whole layer."""
    shape = (len(w), w.shape[1])
    rows = sample_rows(w, SAMPLE)

    def bits(of: Format) -> float:
        return of.stored_bits(shape) / w.numel()

    trials = tuple(
        Trial(change, measured(rows, change.fmt, change.method, seed=seed), bits(change.fmt))
        for change in changes_of(fmt, method)
    )
    return Tried(name, w.numel(), measured(rows, fmt, method, seed=seed), bits(fmt), trials)


def advise(tried: Sequence[Tried]) -> list[Advice]:
    """What to change about the layers, best net worth first. Layers count alike, whatever their size; bits count per weight.

    Each change is taken where it pays most: layers in order of error won per bit, as many of them as give the best net worth;
    where it pays nowhere, in all of them, to show what it would cost.
    """
    found: dict[str, list[tuple[Tried, Trial]]] = {}
    for layer in tried:
        for trial in layer.trials:
            found.setdefault(trial.change.words, []).append((layer, trial))
    return sorted((_best_extent(tried, pairs) for pairs in found.values()), key=lambda advice: (-advice.net, advice.costs))


def worth(before: float, after: float) -> float:
    """Bits that a fall of the squared relative error from `before` to `after` is worth; both count as at least bf16's own."""
    return 0.5 * math.log2(max(before, BF16_FLOOR) / max(after, BF16_FLOOR))


def _best_extent(tried: Sequence[Tried], pairs: list[tuple[Tried, Trial]]) -> Advice:
    """The change of `pairs` in those layers in which it has the best net worth."""
    total_weights = sum(layer.weights for layer in tried)
    before = sum(max(layer.relative_mse, BF16_FLOOR) for layer in tried) / len(tried)

    def won(layer: Tried, trial: Trial) -> float:
        return max(layer.relative_mse, BF16_FLOOR) - max(trial.relative_mse, BF16_FLOOR)

    def paid(layer: Tried, trial: Trial) -> float:
        return (trial.bits_per_weight - layer.bits_per_weight) * layer.weights

    def per_bit(pair: tuple[Tried, Trial]) -> tuple[float, float]:
        gain, bits = won(*pair), paid(*pair)
        return (math.inf, gain) if bits <= 0 < gain else (gain / bits if bits > 0 else -math.inf, gain)

    extents = []
    after, costs, names = before, 0.0, []
    for layer, trial in sorted(pairs, key=per_bit, reverse=True):
        after -= won(layer, trial) / len(tried)
        costs += paid(layer, trial) / total_weights
        names.append(layer.name)
        extents.append(
            Advice(
                words=trial.change.words,
                format=str(trial.change.fmt),
                method=trial.change.method,
                error_before=before**0.5,
                error_after=max(after, 0.0) ** 0.5,
                worth=worth(before, after),
                costs=costs,
                layers=tuple(names),
                everywhere=len(names) == len(tried),
            )
        )
    best = max(extents, key=lambda advice: advice.net)
    return best if best.net > 0 else extents[-1]
