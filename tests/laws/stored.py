"""A simulated table as a store on disk, for the commands that read one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kbit.study.store import Outcome, Store

ABOUT = (
    *("family", "model", "format", "codebook", "k", "block", "method", "embeddings", "protocol"),
    *("parameters", "parameters_linear", "training_tokens", "seed", "architecture"),
)
PLAIN = ("total_bits", "linear_bits", "bits_per_weight", "kld_mean", "kld_median", "kld_p99", "kld_max", "same_top")


def write_store(table: Mapping[str, np.ndarray], path: Path) -> Path:
    """Write every row of the table as a finished run; returns the path."""
    with Store.writing(path) as store:
        for row in range(len(table["run"])):
            losses = table["window_losses"][row]
            stderr = float(table["loss_stderr"][row])
            scale = float(table["bits_per_byte"][row] / table["loss"][row])
            measurements: dict[str, tuple[float, float | None]] = {name: (float(table[name][row]), None) for name in PLAIN}
            measurements["loss"] = (float(table["loss"][row]), stderr)
            measurements["bits_per_byte"] = (float(table["bits_per_byte"][row]), stderr * scale)
            measurements["perplexity"] = (float(table["perplexity"][row]), stderr * float(table["perplexity"][row]))
            store.record(
                Outcome(
                    hash=str(table["run"][row]).zfill(64),
                    spec={"model": str(table["model"][row])},
                    about={name: plain(table[name][row]) for name in ABOUT},
                    host="simulated",
                    seconds=float(table["seconds"][row]),
                    peak_bytes=int(table["peak_bytes"][row]),
                    finished="2026-01-01T00:00:00+00:00",
                    measurements=measurements,
                    window_losses=losses,
                    window_tokens=np.full(len(losses), 255),
                    window_bytes=np.full(len(losses), 663),
                )
            )
    return path


def plain(value: object) -> object:
    """A NumPy scalar as Python's own."""
    return value.item() if isinstance(value, np.generic) else value
