"""`kbit report`: the page with the verdict, the curves, the law and every run of a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    store: Annotated[Path, typer.Option(help="The store that kbit study filled.")],
    out: Annotated[Path, typer.Option(help="Folder of the page; it is made where it is missing.")] = Path("report"),
    title: Annotated[str, typer.Option(help="Title of the page. Default: the families' names.")] = "",
    bootstrap: Annotated[int, typer.Option(min=2, help="Resamples for the law's intervals.")] = 100,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write OUT/index.html: one page that opens without a network and says which bit width is best at each size of memory.

    Example: kbit report --store runs.db --out report
    """
    import shlex

    from kbit.cli.progress import bar
    from kbit.cli.show import show
    from kbit.report import check_folder, make_report, read_provenance
    from kbit.study import read_table

    check_folder(out)
    command = ["kbit", "report", "--store", str(store), "--out", str(out), *(["--title", title] if title else [])]
    with bar("report") as advance:
        page = make_report(
            read_table(store),
            title=title,
            provenance=read_provenance(store),
            command=shlex.join(command),
            bootstrap=bootstrap,
            progress=advance,
        )
    path = page.write(out)
    show({"path": str(path), "verdict": page.verdict} if json else f"{page.verdict}\n{path}", json)
