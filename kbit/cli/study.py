"""`kbit study`: measure models in many formats, and keep every run in a store that survives anything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def study(
    grid: Annotated[Path, typer.Argument(help="YAML file that names models, formats and protocols.")],
    store: Annotated[Path, typer.Option(help="SQLite file of the runs; made where there is none.")],
    executor: Annotated[
        str, typer.Option(help="local: processes on this machine; ray: a Ray cluster; serial: this process.")
    ] = "local",
    workers: Annotated[int | None, typer.Option(help="Runs at a time. By default one per core, as memory allows.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the finished runs of the store to this file as well.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be run.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Run every model of GRID in every format that the store does not hold yet.

    Each finished run is written at once: killed at any moment and started again, the study loses none and repeats none.
    A run that fails is recorded with its reason and tried again at the next start; the exit code is then 2.

    Example: kbit study family/study.yaml --store runs.db
    """
    from kbit.cli.progress import bar
    from kbit.cli.show import show
    from kbit.errors import StoreError
    from kbit.study import read_table, run_study, write_csv

    with bar("study", percent=True) as advance:
        result = run_study(grid, store, executor=executor, workers=workers, progress=advance, dry_run=dry_run)
    if csv is not None and not dry_run:
        write_csv(read_table(store), csv)
    show(result, json)
    if result.failures:
        name, reason = result.failures[0]
        raise StoreError(
            f"store {store}: {len(result.failures)} of {len(result.specs)} runs failed, the first {name}: {reason} "
            "The others are kept; start the same study again to retry."
        )
