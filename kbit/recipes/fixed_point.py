"""FixedPoint: how a recipe turns a model into one that runs on integers alone; a value, as every part of a recipe."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from typing import Any

from kbit.errors import FormatError
from kbit.formats import Format
from kbit.recipes.calibration import ESTIMATORS, TOKEN
from kbit.recipes.rotation import ROTATIONS

LEAST_BITS, MOST_BITS = 4, 8  # of activations
WEIGHT_BITS = (2, 8)
AUTO = "auto"
MOST_STRENGTH = 1.0


@dataclass(frozen=True)
class FixedPoint:
    """Integers alone, from token ids to logits.

    activations  bits of what the matrices of layers multiply, 4 to 8. The output head takes 8, as do cached keys and values
    ranges       token: each row finds its own step as it runs; or a static step for each place, by a word of ESTIMATORS
    smooth       SmoothQuant's strength, 0 (none) to 1; auto: at each place the one, or none, that comes closest to the floats
    rotate       inputs: a Hadamard transform before every matrix; down: before each down projection and the output head; none;
                 all: before each down projection, and in the weights the residual stream and values
    tokens       of the calibration text, at most
    text_sha256  of that text (UTF-8); None until bound to one

    Raises FormatError where a value is not allowed.
    """

    activations: int = 8
    ranges: str = TOKEN
    smooth: str | float = AUTO
    rotate: str = "inputs"
    tokens: int = 8192
    text_sha256: str | None = None

    def __post_init__(self) -> None:
        if type(self.activations) is not int or not LEAST_BITS <= self.activations <= MOST_BITS:
            raise FormatError(f"activations of {self.activations!r} bits are not to be had. Write {LEAST_BITS} to {MOST_BITS}.")
        _check_word("ranges", self.ranges, (TOKEN, *ESTIMATORS))
        _check_word("rotate", self.rotate, ROTATIONS)
        number = isinstance(self.smooth, int | float) and not isinstance(self.smooth, bool)
        if self.smooth != AUTO and not (number and 0 <= float(self.smooth) <= MOST_STRENGTH):
            raise FormatError(f"smooth {self.smooth!r} is no strength. Write {AUTO}, or a number from 0 (none) to 1.")
        if self.text_sha256 is not None and not isinstance(self.text_sha256, str):
            raise FormatError(f"text_sha256 {self.text_sha256!r} is no hash. Leave it out.")
        if type(self.tokens) is not int or self.tokens < 1:
            raise FormatError(f"{self.tokens!r} tokens calibrate nothing. Write 64 or more.")
        object.__setattr__(self, "smooth", self.smooth if self.smooth == AUTO else float(self.smooth))

    @classmethod
    def of(cls, settings: FixedPoint | Mapping[str, Any]) -> FixedPoint:
        """The value with these settings; FormatError names one that does not exist."""
        if isinstance(settings, FixedPoint):
            return settings
        if not isinstance(settings, Mapping):
            raise FormatError("the setting 'fixed_point' must be a map, such as {activations: 8}.")
        known = [entry.name for entry in fields(cls)]
        for key in settings:
            if key not in known:
                near = get_close_matches(str(key), known, 1, 0.0)[0]
                raise FormatError(f"fixed_point has no setting '{key}'. Settings are {', '.join(known)}; perhaps {near}.")
        return cls(**settings)

    def bind(self, text: str) -> FixedPoint:
        """The same settings with the hash of the calibration text. Raises FormatError where they have that of another."""
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        if self.text_sha256 not in (None, digest):
            raise FormatError(
                "the calibration text is not the one that the recipe names by its hash. Take that, or leave it out."
            )
        return replace(self, text_sha256=digest)

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON has them; the hash where there is one."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def integer_format(weights: int | str) -> Format:
    """The format that integers multiply: of so many bits, in blocks of 64 under a scale of 8 bits; or the one that is named.

    Raises FormatError where it has no whole numbers under one scale a row.
    """
    low, high = WEIGHT_BITS
    if isinstance(weights, int):
        if not low <= weights <= high:
            raise FormatError(f"weights of {weights} bits have no integer form. Write {low} to {high}.")
        weights = f"int{weights}-b64-i8"
    fmt = Format.parse(weights)
    plain = fmt.codebook == "int" and low <= fmt.k <= high and fmt.affine is None and not fmt.kept_percent
    if not plain or not (fmt.scales == "i8" or (fmt.granularity == "row" and fmt.scales == "f16")):
        raise FormatError(
            f"format '{fmt}' has no integer form: that wants whole numbers under one scale a row. "
            f"Write int{max(low, min(fmt.k, high))}-b64-i8, or int{max(low, min(fmt.k, high))}-row."
        )
    return fmt


def _check_word(name: str, word: object, words: tuple[str, ...]) -> None:
    if word not in words:
        near = get_close_matches(str(word), words, 1, 0.0)[0]
        raise FormatError(f"{name} '{word}' is not to be had. There are {', '.join(words)}; perhaps {near}.")
