"""Where the numbers come from: runs, protocols, machines, versions, and the command that asked for the page."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from kbit.report import words
from kbit.report.runs import Table
from kbit.study.store import read_outcomes

Provenance = Mapping[str, Mapping[str, str]]  # heading -> name -> value

PACKAGES = ("kbit", "torch", "transformers", "numpy", "scipy", "plotly")


def read_provenance(store: Path) -> dict[str, dict[str, str]]:
    """What a store knows of its runs and its table does not say: every protocol in full with the hashes of its text, NUMERICS.

    Raises StoreError as kbit.study.read_outcomes does.
    """
    outcomes = read_outcomes(Path(store))
    settings: dict[str, dict[str, set[str]]] = {}
    for outcome in outcomes:
        protocol = settings.setdefault(f"Protocol {outcome.about.get('protocol', '')}", {})
        for name, value in outcome.spec.get("protocol", {}).items():
            protocol.setdefault(name, set()).add(value if isinstance(value, str) else json.dumps(value))
    found = {
        heading: {name: words.listing(sorted(values)) for name, values in protocol.items()}
        for heading, protocol in settings.items()
    }
    numerics = sorted({str(outcome.spec.get("numerics")) for outcome in outcomes})
    failed = sum(outcome.error is not None for outcome in outcomes)
    found["Runs"] = {"store": Path(store).name, "NUMERICS": words.listing(numerics), "failed runs": str(failed)}
    return found


def provenance_of(table: Table, told: Provenance, command: str, date: datetime) -> dict[str, dict[str, str]]:
    """What was told first, then what the table and this machine say."""
    found = {heading: dict(facts) for heading, facts in told.items()}
    found["Runs"] = {**found.pop("Runs", {}), **_runs(table)}
    found["This page"] = {
        "written": date.isoformat(sep=" ", timespec="seconds"),
        **({"command": command} if command else {}),
        "machine": f"{platform.node() or 'unnamed'}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }
    return found


def _runs(table: Table) -> dict[str, str]:
    hosts = sorted(set(table["host"].tolist()))
    facts = {
        "finished runs": f"{len(table['run']):,}",
        "families": words.listing(sorted(set(table["family"].tolist()))),
        "models": words.listing(sorted(set(table["model"].tolist()))),
        "methods": words.listing(sorted(set(table["method"].tolist()) - {"none"})) or "none",
        "protocols": words.listing(sorted(set(table["protocol"].tolist()))),
        "windows a run": words.listing([str(count) for count in sorted({len(losses) for losses in table["window_losses"]})]),
        "hosts": words.listing(hosts),
        "computing time": words.seconds(float(np.nansum(table["seconds"]))),
        "largest peak memory": words.as_bytes(8 * float(np.max(table["peak_bytes"]))),
    }
    if "finished" in table:
        facts["first and last finished"] = f"{min(table['finished'].tolist())} to {max(table['finished'].tolist())}"
    return facts


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
