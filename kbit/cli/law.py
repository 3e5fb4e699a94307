"""`kbit law`: quality against bits, the best k at every size of memory, and the fitted law."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def law(
    store: Annotated[Path, typer.Option(help="The store that kbit study filled.")],
    axis: Annotated[str, typer.Option(help="total: every stored bit counts; linear: those of the linear layers.")] = "total",
    form: Annotated[str, typer.Option(help="Form of the law: best, or one that docs/law.md lists, such as additive.")] = "best",
    kind: Annotated[str | None, typer.Option(help="Kind of format whose k is chosen, such as int-b64, or any.")] = None,
    family: Annotated[str | None, typer.Option(help="Family of models. Default: the one with most runs.")] = None,
    protocol: Annotated[str | None, typer.Option(help="Protocol of the runs. Default: the one with most runs.")] = None,
    embeddings: Annotated[str | None, typer.Option(help="Format of the embeddings. Default: int8-row.")] = None,
    method: Annotated[str | None, typer.Option(help="Method of the runs. Default: the one with most runs.")] = None,
    bootstrap: Annotated[int, typer.Option(min=2, help="Resamples for the intervals.")] = 200,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show loss against bits for each k, which k is best at each size of memory, and the law fitted to it.

    Example: kbit law --store runs.db --axis linear
    """
    from kbit.cli.show import show
    from kbit.laws import study_law
    from kbit.study import read_table

    findings = study_law(
        read_table(store),
        form,
        axis=axis,
        kind=kind,
        family=family,
        protocol=protocol,
        embeddings=embeddings,
        method=method,
        bootstrap=bootstrap,
    )
    show(findings, json)
