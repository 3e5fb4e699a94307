"""The store as a plain table, one entry per finished run: what laws, planner and report read."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from math import nan
from pathlib import Path
from typing import Any

import numpy as np

from kbit.errors import StoreError
from kbit.study.store import Outcome, read_outcomes

ABOUT_TEXT = ("family", "model", "format", "codebook", "method", "embeddings", "protocol")
ABOUT_WHOLE = ("k", "block", "parameters", "parameters_linear", "seed")
TEXT = ("run", *ABOUT_TEXT, "host", "finished")
WHOLE = (*ABOUT_WHOLE, "activations", "qat_tokens", "peak_bytes")
MEASURED = (
    "total_bits",
    "linear_bits",
    "bits_per_weight",
    "loss",
    "bits_per_byte",
    "perplexity",
    "kld_mean",
    "kld_median",
    "kld_p99",
    "kld_max",
    "same_top",
    "delta_p_mean",
    "delta_p_rms",
)
WITH_ERROR = (
    "loss",
    "bits_per_byte",
    "perplexity",
    "kld_mean",
    "kld_median",
    "kld_p99",
    "same_top",
    "delta_p_mean",
    "delta_p_rms",
)
NUMBERS = (*MEASURED, *(f"{metric}_stderr" for metric in WITH_ERROR), "training_tokens", "seconds")
OBJECTS = ("window_losses", "window_tokens", "window_bytes", "architecture")
ORDER = ("family", "parameters_linear", "model", "embeddings", "k", "format", "run")


def read_table(store: Path) -> dict[str, np.ndarray]:
    """The finished runs of `store` as columns of one length, ordered by family, size, model, embeddings, k and format.

    TEXT columns are strings, WHOLE ones int64, NUMBERS float64 (nan where not measured or not known), OBJECTS hold an array or
    a dict each. k is 16 for bf16 and f16; block is 0 for one scale per row or tensor; method is "none" for floats, which are
    cast. activations: their bits in a model that runs on integers alone, whose format then ends with -a and them; else 0.
    qat_tokens: those that the run was trained on, 0 where it was not; its method is then qat- and them, as qat-839k.
    Raises StoreError as `read_outcomes` does, and where the store has no finished run.
    """
    store = Path(store)
    try:
        rows = [_row(outcome) for outcome in read_outcomes(store) if outcome.error is None]
        rows.sort(key=lambda row: [row[column] for column in ORDER])
        table = _columns(rows)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise StoreError(f"store {store}: a row is damaged. Restore the file, or start again with a new store.") from None
    if not rows:
        raise StoreError(f"store {store}: it has no finished run. Fill it with: kbit study GRID.yaml --store {store}")
    return table


def write_csv(table: Mapping[str, np.ndarray], path: Path) -> None:
    """Write the table's plain columns to `path`: a header, then a run a line; unknown numbers are empty."""
    columns = [column for column in table if column not in OBJECTS]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for values in zip(*(table[column].tolist() for column in columns), strict=True):
            writer.writerow(["" if value != value else value for value in values])


def _columns(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    table = {}
    for columns, dtype in ((TEXT, str), (WHOLE, np.int64), (NUMBERS, np.float64)):
        for column in columns:
            table[column] = np.array([row[column] for row in rows], dtype=dtype)
    for column in OBJECTS:
        table[column] = np.empty(len(rows), dtype=object)
        for index, row in enumerate(rows):  # one by one: arrays of equal length would become one matrix
            table[column][index] = row[column]
    return table


def _row(outcome: Outcome) -> dict[str, Any]:
    about = outcome.about
    measured = {metric: outcome.measurements.get(metric, (nan, None)) for metric in MEASURED}
    tokens = about["training_tokens"]
    return {
        "run": outcome.hash,
        **{column: str(about[column]) for column in ABOUT_TEXT},
        **{column: int(about[column]) for column in ABOUT_WHOLE},
        "qat_tokens": int(about.get("qat_tokens", 0)),
        "activations": int(about.get("activations", 0)),  # stores from before there were models of integers do not say
        "training_tokens": nan if tokens is None else float(tokens),
        **{metric: value for metric, (value, _) in measured.items()},
        **{f"{metric}_stderr": nan if measured[metric][1] is None else measured[metric][1] for metric in WITH_ERROR},
        "seconds": outcome.seconds,
        "peak_bytes": outcome.peak_bytes,
        "host": outcome.host,
        "finished": outcome.finished,
        "window_losses": outcome.window_losses,
        "window_tokens": outcome.window_tokens,
        "window_bytes": outcome.window_bytes,
        "architecture": {str(key): int(value) for key, value in about["architecture"].items()},
    }
