"""The runs that a law is fitted to: one slice of a study's table, as arrays of one length."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TypedDict, Unpack

import numpy as np

from kbit.errors import LawError

Table = Mapping[str, np.ndarray]
UNQUANTIZED_BITS = 16  # formats of 16 and 32 bits are floats, kept as they are
FLOATS = ("f32", "f16", "bf16")
LENGTH = re.compile(r"qat-[^-]+")  # methods qat-839k, qat-420k, ... are one, qat, with several T; so are those of one teacher
PREFERRED = {"embeddings": "int8-row"}  # what a recipe gives them unless told otherwise


class Slice(TypedDict, total=False):
    """Which runs of a table are meant; None: the one with most runs."""

    family: str | None
    protocol: str | None
    embeddings: str | None
    method: str | None


@dataclass(frozen=True)
class Runs:
    """Runs under one protocol, of one family, with one format of the embeddings: every field has shape (runs,).

    loss is in nats per token; windows is (runs, windows), the losses it is the mean of, or (runs, 0) where they were not kept.
    """

    run: np.ndarray  # hash of the run
    model: np.ndarray
    format: np.ndarray
    kind: np.ndarray  # the format without its k: int-b64
    codebook: np.ndarray
    k: np.ndarray
    N: np.ndarray  # weights of the linear layers
    D: np.ndarray  # training tokens, nan where unknown
    T: np.ndarray  # tokens of quantization-aware training, 0 where there was none
    total_bits: np.ndarray
    linear_bits: np.ndarray
    loss: np.ndarray
    loss_stderr: np.ndarray
    windows: np.ndarray

    def __len__(self) -> int:
        return len(self.loss)

    def take(self, rows: np.ndarray) -> Runs:
        """The runs at `rows` (indices or a mask)."""
        return Runs(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    @property
    def quantized(self) -> np.ndarray:
        """True where the linear layers hold codes rather than floats."""
        return self.k < UNQUANTIZED_BITS

    @property
    def sizes(self) -> np.ndarray:
        """The distinct N, ascending."""
        return np.unique(self.N)

    @property
    def penalty(self) -> np.ndarray:
        """Measured loss less the loss of the same model in 16 bits (in its best format, where 16 bits were not measured)."""
        out = np.empty(len(self))
        for model in np.unique(self.model):
            rows = self.model == model
            kept = rows & ~self.quantized
            out[rows] = self.loss[rows] - (self.loss[kept].mean() if kept.any() else self.loss[rows].min())
        return out

    @property
    def longest_trained(self) -> np.ndarray:
        """True for runs of those models of each size that saw the most tokens."""
        most = {N: np.nanmax(self.D[self.N == N], initial=-np.inf) for N in self.sizes}
        return np.array([np.isnan(D) or most[N] <= D for N, D in zip(self.N, self.D, strict=True)], dtype=bool)

    @property
    def longest_tuned(self) -> np.ndarray:
        """True for runs that had the most quantization-aware training of their size and format."""
        pairs = np.char.add(np.char.add(self.N.astype(str), "\n"), self.format.astype(str))
        _, which = np.unique(pairs, return_inverse=True)
        most = np.zeros(which.max(initial=-1) + 1)
        np.maximum.at(most, which, self.T)
        return np.asarray(most[which] == self.T)


def split_format(text: str) -> tuple[str, int | None, str]:
    """Codebook, k and kind of a format string: the kind is what stays when k changes; no k where the string says none.

    int4-b64-asym: ("int", 4, "int-b64-asym"). fp6e3m2-row: ("fp", 6, "fpe3-row"), since another bit of mantissa halves the step.
    """
    head, _, rest = text.partition("-")
    found = re.fullmatch(r"([a-z_]+)(\d*)(e\d+)?(m\d+)?(:.+)?", head)
    if text in FLOATS or found is None or not found[2]:
        return head, None, text
    codebook, exponent, name = found[1], found[3] or "", found[5] or ""
    return codebook, int(found[2]), f"{codebook}{exponent}{name}" + (f"-{rest}" if rest else "")


def choose_slice(table: Table, **asked: Unpack[Slice]) -> tuple[Table, Slice]:
    """The rows of one family, protocol, embeddings and method, and which these are.

    Of what is not named it takes the embeddings in int8-row where there are such, else the value with most runs.

    Raises LawError where the table has no such runs.
    """
    if not len(table["run"]):
        raise LawError("the store holds no finished run. Run kbit study first.")
    keep = np.ones(len(table["run"]), dtype=bool)
    floats = table["k"] >= UNQUANTIZED_BITS
    wishes: Mapping[str, object] = asked
    chosen: dict[str, str | None] = {}
    for column in ("family", "protocol", "embeddings", "method"):
        wanted = wishes.get(column)
        counted = keep & ~floats if column == "method" and (keep & ~floats).any() else keep
        values = table[column].astype(str)
        if column == "method" and wanted not in values and wanted in (alike := of_any_length(values)):
            values = alike
        counts = Counter(values[counted].tolist())
        if wanted is not None and wanted not in counts:
            raise LawError(f"{column} '{wanted}' has no finished run. The store has: {', '.join(sorted(counts))}.")
        value = str(wanted or min(counts, key=lambda name: (name != PREFERRED.get(column), -counts[name], name)))
        chosen[column] = value
        match = values == value
        if column == "method":
            match = match | floats | taught_by_itself(table, values, value)  # 16 bits are 16 bits, whatever chose the codes
        if column == "embeddings":
            match = match | only_baseline(table, keep, match)
        keep = keep & match
    return {column: values[keep] for column, values in table.items()}, Slice(**chosen)  # type: ignore[typeddict-item]


def of_any_length(methods: np.ndarray) -> np.ndarray:
    """Methods with qat in the place of qat-839k, qat-420k and so on: qat, and qat-NAME where another model teaches."""
    return np.array([LENGTH.sub("qat", method, count=1) for method in methods.tolist()], dtype=str)


def taught_by_itself(table: Table, methods: np.ndarray, method: str) -> np.ndarray:
    """Rows of the model that teaches the others: it learned from itself, so qat-839k-NAME and qat-839k are one method there."""
    teaches = np.char.add(np.char.add(methods, "-"), table["model"].astype(str))
    by_itself = np.char.add(f"{method}-", table["model"].astype(str))
    return np.asarray((teaches == method) | (methods == by_itself))


def only_baseline(table: Table, keep: np.ndarray, match: np.ndarray) -> np.ndarray:
    """Rows in 16 bits of models whose 16 bits were not measured with these embeddings: the nearest there is."""
    floats = keep & (table["k"] >= UNQUANTIZED_BITS)
    have = set(table["model"][floats & match])
    return np.asarray(floats & ~match & np.array([model not in have for model in table["model"]], dtype=bool))


def tokens_of_training(table: Table) -> np.ndarray:
    """T of every row; 0 in tables that do not say."""
    return np.asarray(table.get("qat_tokens", np.zeros(len(table["run"]))), dtype=float)


def prepare(table: Table) -> Runs:
    """Runs of a slice; of several rows of one model, format and T the first counts.

    Raises LawError where the losses are not finite, or the windows of the runs are not the same.
    """
    pairs = np.char.add(np.char.add(table["model"].astype(str), "\n"), table["format"].astype(str))
    pairs = np.char.add(np.char.add(pairs, "\n"), tokens_of_training(table).astype(str))
    _, rows = np.unique(pairs, return_index=True)
    table = {column: values[np.sort(rows)] for column, values in table.items()}
    loss = table["loss"].astype(float)
    if not np.isfinite(loss).all():
        row = int(np.argmin(np.isfinite(loss)))
        where = f"{table['model'][row]} at {table['format'][row]}"
        raise LawError(f"{where}: its loss is {loss[row]}. Remove that run from the store.")
    losses = [np.asarray(values, dtype=float).ravel() for values in table.get("window_losses", [np.empty(0)] * len(loss))]
    lengths = sorted({len(values) for values in losses})
    if len(lengths) > 1:
        raise LawError(f"runs of one protocol have {lengths[0]} and {lengths[-1]} windows. Run them again on one text.")
    parts = [split_format(str(text)) for text in table["format"]]
    return Runs(
        run=table["run"].astype(str),
        model=table["model"].astype(str),
        format=table["format"].astype(str),
        kind=np.array([kind for _, _, kind in parts]),
        codebook=np.array([codebook for codebook, _, _ in parts]),
        k=table["k"].astype(int),
        N=table["parameters_linear"].astype(float),
        D=table["training_tokens"].astype(float),
        T=tokens_of_training(table),
        total_bits=table["total_bits"].astype(float),
        linear_bits=table["linear_bits"].astype(float),
        loss=loss,
        loss_stderr=np.nan_to_num(table["loss_stderr"].astype(float)),
        windows=np.stack(losses),
    )
