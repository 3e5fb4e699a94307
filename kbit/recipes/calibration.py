"""Calibration: the ranges of a model's values, seen while it reads a text in floating point.

The state is a value: `seen = watch(seen, place, values)`; `clips` then finds, by an estimator of kbit.formats, at which value the
codes of each place end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from kbit.errors import FormatError, ModelError, TextError
from kbit.formats import RANGES, Format
from kbit.formats.tracking import MovingRange, update
from kbit.models.integer_blueprint import Blueprint
from kbit.models.integer_float import INPUTS, run

LEAST_TOKENS = 64  # of a calibration text: a static range of fewer is one of a few words
WINDOW = 512
WINDOWS_AT_ONCE = 4
SAMPLE_ROWS = 512  # of each place, kept for estimators that want more than the largest value
TOKEN, MOVING = "token", "moving-average"
ESTIMATORS = (*RANGES, MOVING)
MOMENTUM = 0.9  # of the moving average, which starts at the first window: calibration has a few dozen of them
CHARACTERS_PER_TOKEN = 16  # a text is cut to so many before it is tokenized

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Seen:
    """What was seen at one place: the largest |value|, that of each column, rows evenly spaced over all, a moving average."""

    largest: float = 0.0
    columns: Tensor | None = None
    rows: tuple[Tensor, ...] = ()
    moving: MovingRange = field(default_factory=lambda: MovingRange(MOMENTUM))


@dataclass(frozen=True)
class Calibration:
    """What was seen at each place of kbit.models.integer_float, over so many tokens."""

    seen: Mapping[str, Seen]
    tokens: int

    @property
    def largest(self) -> dict[str, float]:
        """The largest |value| of each place."""
        return {place: seen.largest for place, seen in self.seen.items()}

    def rows(self, place: str) -> Tensor:
        """The rows that were kept, float32 (rows, columns)."""
        return torch.cat(self.seen[place].rows)

    def columns(self, place: str) -> Tensor:
        """The largest |value| of each column."""
        columns = self.seen[place].columns
        assert columns is not None
        return columns


def calibration_windows(text: str, tokenizer: PreTrainedTokenizerBase, positions: int, tokens: int) -> Tensor:
    """The first `tokens` tokens of a text, or so many as it has, in windows: int64 (windows, window).

    Raises TextError where there are fewer than 64, or than fill the positions of a model that has still fewer.
    """
    ids = torch.tensor(tokenizer(text[: tokens * CHARACTERS_PER_TOKEN], add_special_tokens=False, verbose=False)["input_ids"])
    least = min(LEAST_TOKENS, positions)
    if len(ids) < least:
        raise TextError(f"the calibration text has {len(ids)} tokens. Ranges want {least} at least; give a longer text.")
    window = min(positions, WINDOW, len(ids))
    count = max(1, min(len(ids), tokens) // window)
    return ids[: count * window].long().view(count, window)


def calibrate(blueprint: Blueprint, windows: Tensor, progress: Progress | None = None) -> Calibration:
    """Run the model over the windows and watch every place. Raises ModelError where a value is not finite."""
    seen: dict[str, Seen] = {}
    keep = -(-SAMPLE_ROWS // len(windows))

    def see(place: str, values: Tensor) -> Tensor:
        seen[place] = watch(seen.get(place, Seen()), values, keep if is_input(place) else 0)
        if not values.isfinite().all():
            raise ModelError(f"{blueprint.name}, {place}: calibration met values that are not finite. Mend the checkpoint.")
        return values

    for done, batch in enumerate(windows.split(WINDOWS_AT_ONCE)):
        if progress is not None:
            progress(done * WINDOWS_AT_ONCE, len(windows), "calibrating")
        run(blueprint, batch, see)
    return Calibration(seen, windows.numel())


def watch(seen: Seen, values: Tensor, keep: int) -> Seen:
    """The state after `values` (windows, n, ..., columns), of which `keep` rows of each window are kept; 0: the largest alone."""
    largest = max(seen.largest, float(values.abs().max()))
    if not keep:
        return replace(seen, largest=largest)
    columns = values.abs().flatten(0, -2).amax(0)
    rows = values[:, torch.linspace(0, values.shape[1] - 1, min(keep, values.shape[1])).round().long()].flatten(0, -2)
    moving = seen.moving
    for window in values:
        moving = update(moving, window)
    both = columns if seen.columns is None else torch.maximum(seen.columns, columns)
    return Seen(largest, both, (*seen.rows, rows.clone()), moving)


def is_input(place: str) -> bool:
    """Whether matrices multiply what lies at this place."""
    return place == "head" or place.rpartition(".")[2] in INPUTS


def clips(calibration: Calibration, estimator: str, bits: Callable[[str], int]) -> dict[str, float]:
    """The |value| at which the codes of each multiplied place end, by a word of ESTIMATORS, for codes of bits(place) bits.

    min-max: the largest seen. percentile, mse, kl: of the rows that were kept, as kbit.formats finds the range of a tensor.
    moving-average: of the ends of each window, one window after another.
    """
    if estimator not in ESTIMATORS:
        near = get_close_matches(estimator, (TOKEN, *ESTIMATORS), 1, 0.0)[0]
        raise FormatError(f"'{estimator}' finds no ranges. There are {TOKEN}, {', '.join(ESTIMATORS)}; perhaps {near}.")
    return {place: _clip(seen, estimator, bits(place)) for place, seen in calibration.seen.items() if is_input(place)}


def _clip(seen: Seen, estimator: str, k: int) -> float:
    if estimator == "min-max" or not seen.largest:
        return seen.largest
    if estimator == MOVING:
        assert seen.moving.low is not None
        assert seen.moving.high is not None
        return float(torch.maximum(seen.moving.low.abs(), seen.moving.high.abs()))
    fmt = Format.parse(f"int{k}-tensor")
    low, high = RANGES[estimator](torch.cat(seen.rows), fmt, fmt.levels())
    return float(torch.maximum(low.abs(), high.abs()))
