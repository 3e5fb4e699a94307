"""The runs as columns for the page's table, which the script sorts and filters."""

from __future__ import annotations

from typing import Any

import numpy as np

from kbit.report.runs import Table, bits_per_byte_of_nats, rows_of, views

# column: heading, how its values read, and on how wide a screen it is shown (1: any, 3: wide, 4: only in a run's own details)
COLUMNS: dict[str, tuple[str, str, int]] = {
    "model": ("model", "text", 1),
    "format": ("format", "text", 1),
    "k": ("k", "whole", 3),
    "total_bits": ("total bits", "size", 1),
    "bits_per_weight": ("bits per weight", "fixed2", 3),
    "bits_per_byte": ("bits per byte", "fixed4", 1),
    "bits_per_byte_stderr": ("± stderr", "small", 3),
    "added": ("above 16 bits", "small", 2),
    "kld_mean": ("mean KLD", "small", 2),
    "same_top": ("same top token", "percent", 3),
    "embeddings": ("embeddings", "text", 3),
    "protocol": ("text", "text", 2),
    "seconds": ("seconds", "fixed1", 2),
    "family": ("family", "text", 4),
    "method": ("method", "text", 4),
    "linear_bits": ("bits of linear layers", "size", 4),
    "parameters": ("parameters", "size", 4),
    "parameters_linear": ("parameters in linear layers", "size", 4),
    "training_tokens": ("training tokens", "size", 4),
    "seed": ("seed", "whole", 4),
    "loss": ("nats per token", "fixed4", 4),
    "loss_stderr": ("its stderr over windows", "small", 4),
    "perplexity": ("perplexity per token", "fixed2", 4),
    "kld_median": ("median KLD", "small", 4),
    "kld_p99": ("99% KLD", "small", 4),
    "kld_max": ("largest KLD", "small", 4),
    "peak_bytes": ("peak memory, bytes", "size", 4),
    "host": ("host", "text", 4),
    "finished": ("finished", "text", 4),
    "run": ("run", "text", 4),
}


def runs_table(table: Table) -> dict[str, Any]:
    """Columns with their headings, and a list of values for each run; added and the standard error are computed."""
    added: dict[str, float] = {}
    for view in views(table):
        if view.axis == "total":
            rows = rows_of(table, view)
            own = rows["embeddings"] == view.embeddings
            added.update(zip(rows["run"][own].tolist(), rows["added"][own].tolist(), strict=True))
    stderr = table["loss_stderr"] * bits_per_byte_of_nats(table)
    columns = {
        **table,
        "added": np.array([added.get(run, np.nan) for run in table["run"].tolist()]),
        "bits_per_byte_stderr": table.get("bits_per_byte_stderr", stderr),
    }
    known = [name for name in COLUMNS if name in columns]
    return {
        "columns": [dict(zip(("name", "text", "kind", "width"), (name, *COLUMNS[name]), strict=True)) for name in known],
        "rows": [list(values) for values in zip(*(columns[name].tolist() for name in known), strict=True)],
    }
