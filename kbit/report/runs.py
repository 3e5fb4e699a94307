"""Which runs belong together: views of a table, series of formats, and what each run adds to its 16-bit model."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from kbit.laws.runs import Slice

Table = Mapping[str, np.ndarray]

AXES = {"total": "total_bits", "linear": "linear_bits"}
KEPT = 16  # k from which a format is a float that stands for the model itself
DEFAULT_SPLITS = ("2e1m0", "3e2m0", "4e2m1", "5e2m2", "6e3m2", "7e3m3", "8e4m3")
Z95 = 1.959964  # half the width of a normal's 95% interval, in standard errors
LOSSLESS = ("f32", "bf16", "f16")


@dataclass(frozen=True)
class View:
    """What the page shows at one time: runs that compare with one another, and what their bits count."""

    family: str
    protocol: str
    embeddings: str
    axis: str

    @property
    def key(self) -> str:
        """The view's name in the page."""
        return "\n".join((self.family, self.protocol, self.embeddings, self.axis))

    @property
    def as_slice(self) -> Slice:
        """The view's runs as kbit.laws names them."""
        return Slice(family=self.family, protocol=self.protocol, embeddings=self.embeddings)


def views(table: Table) -> list[View]:
    """Every (family, protocol, embeddings) that has a quantized run, each with both axes; the one to open with first.

    That one has the family with most sizes, then the protocol and the quantized embeddings with most runs.
    """
    quantized = table["k"] < KEPT
    triples = Counter(zip(*(table[name][quantized].tolist() for name in ("family", "protocol", "embeddings")), strict=True))
    sizes = {family: len(np.unique(table["parameters_linear"][table["family"] == family])) for family, _, _ in triples}

    def rank(triple: tuple[str, str, str]) -> tuple[object, ...]:
        family, protocol, embeddings = triple
        return -sizes[family], family, -triples[triple], protocol, embeddings in LOSSLESS, embeddings

    return [
        View(family, protocol, embeddings, axis) for family, protocol, embeddings in sorted(triples, key=rank) for axis in AXES
    ]


def rows_of(table: Table, view: View) -> Table:
    """The view's runs with these columns more, each (runs,):

    row: where the run stands in the table. bits: on the view's axis.
    series: what the format is but for its k ("int-b64"). granularity: "b64", "row", "tensor".
    main: whether the run is of its size's longest training and first seed.
    added, added_stderr: bits per byte above the 16-bit run of the same model, paired over windows.
    band: half the 95% interval for comparing runs of this view with each other, bits per byte: the windows' difficulty,
    which all runs share, is taken out.
    """
    chosen = (table["family"] == view.family) & (table["protocol"] == view.protocol)
    chosen &= (table["embeddings"] == view.embeddings) | ((table["k"] >= KEPT) & ~_has_baseline(table, view))
    rows = {name: column[chosen] for name, column in table.items()} | {"row": np.flatnonzero(chosen)}
    rows["bits"] = rows[AXES[view.axis]].astype(float)
    rows["series"] = np.array([series_of(f, m) for f, m in zip(rows["format"].tolist(), rows["method"].tolist(), strict=True)])
    rows["granularity"] = np.array([granularity_of(text) for text in rows["format"].tolist()])
    rows["main"] = _main(rows)
    rows["added"], rows["added_stderr"] = _added(rows)
    rows["band"] = Z95 * _comparable_stderr(rows)
    return rows


def where(rows: Table, mask: np.ndarray) -> Table:
    """The rows for which `mask` (runs,) holds."""
    return {name: column[mask] for name, column in rows.items()}


def series_of(fmt: str, method: str = "rtn") -> str:
    """The format without its k, with the method where it is not plain rounding: int-b64, fp e3m0-b64, nf-b64 (gptq)."""
    if (match := re.fullmatch(r"([a-z]+)(\d+(?:e\d+m\d+)?)(:[^-]*)?(-.*)?", fmt)) is None or fmt in LOSSLESS:
        name = fmt
    else:
        codebook, number, table, rest = match.groups(default="")
        split = "" if number.isdigit() or number in DEFAULT_SPLITS else " " + number[1:]
        name = codebook + split + table + rest
    return name if method in ("rtn", "none", "") else f"{name} ({method})"


def granularity_of(fmt: str) -> str:
    """The part of a format that says what shares a scale; empty for floats."""
    return next((part for part in fmt.split("-")[1:] if re.fullmatch(r"b\d+|row|tensor", part)), "")


def lines(rows: Table) -> Iterator[tuple[int, Table]]:
    """The main runs of each k, ascending, sorted by bits."""
    for k in np.unique(rows["k"][rows["main"]]):
        line = where(rows, (rows["k"] == k) & rows["main"])
        yield int(k), where(line, np.argsort(line["bits"], kind="stable"))


def longest_trained(rows: Table) -> np.ndarray:
    """Whether each run is of its size's longest training."""
    tokens = np.nan_to_num(rows["training_tokens"].astype(float), nan=np.inf)
    return np.array(
        [t == tokens[rows["parameters"] == n].max() for t, n in zip(tokens, rows["parameters"], strict=True)], dtype=bool
    )


def main_series(rows: Table) -> list[str]:
    """The series of the quantized runs, that with most widths and models first."""
    counts = Counter(rows["series"][(rows["k"] < KEPT) & rows["main"]].tolist())
    return sorted(counts, key=lambda name: (-counts[name], _plainness(name), name))


def common_granularity(rows: Table) -> str:
    """The granularity under which most codebooks were run, the finer of equals last."""
    quantized = rows["k"] < KEPT
    pairs = set(zip(rows["codebook"][quantized].tolist(), rows["granularity"][quantized].tolist(), strict=True))
    counts = Counter(granularity for _, granularity in pairs)
    return min(counts, key=lambda name: (-counts[name], abs(_block(name) - 64), name))


def block_order(granularity: str) -> int:
    """Sorts granularities from fine to coarse."""
    return _block(granularity)


def _block(granularity: str) -> int:
    return {"row": 1 << 20, "tensor": 1 << 21}.get(granularity) or int(granularity[1:] or 0)


def _plainness(series: str) -> tuple[int, int]:
    return series.count("-") + series.count("(") + series.count(" "), 0 if series.startswith("int") else 1


def _has_baseline(table: Table, view: View) -> np.ndarray:
    """For each run, whether its model has a 16-bit run with the view's own embeddings."""
    own = (table["k"] >= KEPT) & (table["embeddings"] == view.embeddings) & (table["protocol"] == view.protocol)
    return np.isin(table["model"], table["model"][own])


def _main(rows: Table) -> np.ndarray:
    longest = longest_trained(rows)
    first = {n: rows["seed"][longest & (rows["parameters"] == n)].min() for n in np.unique(rows["parameters"])}
    return longest & np.array([s == first[n] for s, n in zip(rows["seed"], rows["parameters"], strict=True)], dtype=bool)


def _added(rows: Table) -> tuple[np.ndarray, np.ndarray]:
    added, stderr = np.full((2, len(rows["k"])), np.nan)
    baseline = {rows["model"][i]: i for i in np.flatnonzero(rows["k"] >= KEPT)}
    for i, model in enumerate(rows["model"]):
        if (base := baseline.get(model)) is not None:
            added[i] = rows["bits_per_byte"][i] - rows["bits_per_byte"][base]
            stderr[i] = paired_stderr(rows, i, int(base))
    return added, stderr


def paired_stderr(rows: Table, i: int, j: int) -> float:
    """Standard error of the difference of two runs over the same windows, bits per byte; not paired where the windows differ."""
    one, other = rows["window_losses"][i], rows["window_losses"][j]
    if len(one) == len(other):
        return float(_stderr(one - other) * bits_per_byte_of_nats(rows)[i])
    return float(np.hypot(rows["loss_stderr"][i], rows["loss_stderr"][j]) * bits_per_byte_of_nats(rows)[i])


def bits_per_byte_of_nats(rows: Table) -> np.ndarray:
    """What a nat per token is in bits per byte, for each run; nan where its loss is not finite."""
    with np.errstate(invalid="ignore"):
        return np.asarray(rows["bits_per_byte"].astype(float) / rows["loss"].astype(float))


def _comparable_stderr(rows: Table) -> np.ndarray:
    """Standard error of each run's loss over windows after the median run's loss is taken from each window, bits per byte."""
    stderr = rows["loss_stderr"].astype(float).copy()
    counts = np.array([len(losses) for losses in rows["window_losses"]])
    for count in np.unique(counts[counts > 1]):
        of_count = counts == count
        losses = np.stack(rows["window_losses"][of_count].tolist())
        if len(losses) > 2:
            stderr[of_count] = _stderr(losses - np.median(losses, axis=0))
    return stderr * bits_per_byte_of_nats(rows)


def _stderr(values: np.ndarray) -> np.ndarray:
    count = values.shape[-1]
    return values.std(axis=-1, ddof=1) / np.sqrt(count) if count > 1 else np.full(values.shape[:-1], np.nan)
