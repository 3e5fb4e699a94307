"""The report on a study: every view of its runs computed, and put into one page."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kbit.errors import LawError, StoreError
from kbit.laws import Law, fit, pareto
from kbit.report.content import Content, content_of
from kbit.report.html import fill, views_as_json
from kbit.report.optimum import Optimum, find_optimum
from kbit.report.provenance import Provenance, provenance_of
from kbit.report.runs import Table, View, rows_of, views
from kbit.report.table import runs_table

SWITCHES = {"family": "Family", "protocol": "Protocol", "embeddings": "Embeddings", "axis": "Axis"}
AXIS_NAMES = {"total": "total bits", "linear": "linear layers"}
Progress = Callable[[float, float, str], None]


@dataclass(frozen=True)
class Report:
    """A finished page and the sentence on top of it."""

    html: str
    verdict: str

    def write(self, folder: Path) -> Path:
        """Write `index.html` into `folder`, which is made where it is missing; the file is there whole or not at all."""
        folder = check_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "index.html"
        handle, unfinished = tempfile.mkstemp(dir=folder, prefix=".index.", suffix=".html")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(self.html)
            os.chmod(unfinished, 0o644)
            os.replace(unfinished, path)
        except BaseException:
            Path(unfinished).unlink(missing_ok=True)
            raise
        return path


def check_folder(folder: Path) -> Path:
    """The folder, if a page can be written into it; said before the work rather than after.

    Raises StoreError where it, or what it is to lie in, is a file or may not be written.
    """
    folder = Path(folder)
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not place.is_dir():
        raise StoreError(f"report {folder}: {place} is a file, not a folder. Name another folder.")
    if not os.access(place, os.W_OK):
        raise StoreError(f"report {folder}: the folder {place} cannot be written. Name another folder.")
    return folder


def write_report(table: Table, out: Path, **options: Any) -> Path:
    """Write the report on a table of runs (kbit.study.read_table) to `out`/index.html; options as those of `make_report`.

    Raises StoreError as `make_report` does, and where `out` cannot be written.
    """
    check_folder(out)
    return make_report(table, **options).write(out)


def make_report(
    table: Table,
    *,
    title: str = "",
    provenance: Provenance | None = None,
    command: str = "",
    bootstrap: int = 200,
    seed: int = 0,
    date: datetime | None = None,
    progress: Progress = lambda done, total, doing: None,
) -> Report:
    """The report on a table of runs.

    title: default "The k-bit law of <families>". provenance: what the table cannot say (texts and their hashes, numerics), a
    heading -> name -> value, shown before what it can. command: how this report was asked for. bootstrap: resamples of the
    law. progress: called with steps done, steps in all, and what is being done.
    Raises StoreError where no run is quantized.
    """
    shown = views(table)
    if not shown:
        raise StoreError("the store holds no quantized run, so there is nothing to report. Add int4-b64 to the grid.")
    laws: dict[tuple[str, str, str], Law | LawError] = {}
    contents = {}
    for done, view in enumerate(shown):
        doing = f"{view.family}, {view.protocol}, embeddings {view.embeddings}, {AXIS_NAMES[view.axis]}"
        progress(done, len(shown), doing)
        key = (view.family, view.protocol, view.embeddings)
        if key not in laws:
            laws[key] = _law_of(table, view, laws.values(), bootstrap, seed)
        contents[view] = _content(table, view, laws[key], seed)
    progress(len(shown), len(shown), "")
    first = contents[shown[0]]
    drawn, figures = views_as_json({view.key: content for view, content in contents.items()})
    data = {
        "views": drawn,
        "figures": figures,
        "initial": shown[0].key,
        "switches": _switches(shown),
        "runs": runs_table(table),
    }
    title = title or f"The k-bit law of {', '.join(sorted({view.family for view in shown}))}"
    date = date or datetime.now(UTC)
    html = fill(title, date, first, provenance_of(table, provenance or {}, command, date), data)
    return Report(html, first.headline)


def _law_of(table: Table, view: View, others: Iterable[Law | LawError], bootstrap: int, seed: int) -> Law | LawError:
    """The view's law, or why it has none; its form is that of the other laws, so that they compare, or else the best."""
    form = next((law.form for law in others if isinstance(law, Law)), "best")
    try:
        return fit(table, form, bootstrap=bootstrap, seed=seed, **view.as_slice)
    except LawError as error:
        return error


def _content(table: Table, view: View, law: Law | LawError, seed: int) -> Content:
    rows = rows_of(table, view)
    known = law if isinstance(law, Law) else None
    main, of_any = (_optimum_of(table, view, known, kind, seed) for kind in (None, "any"))
    return content_of(rows, view.axis, main, of_any, law, pareto(rows, view.axis, "bits_per_byte"))


def _optimum_of(table: Table, view: View, law: Law | None, kind: str | None, seed: int) -> Optimum | LawError:
    try:
        return find_optimum(table, view.axis, law, view.as_slice, kind=kind, seed=seed)
    except LawError as error:
        return error


def _switches(shown: Sequence[View]) -> list[dict[str, Any]]:
    """What the reader chooses a view by, in the order of the parts of a view's key."""
    found = []
    for name, text in SWITCHES.items():
        values = list(dict.fromkeys(getattr(view, name) for view in shown))
        names = AXIS_NAMES if name == "axis" else {}
        options = [{"value": value, "text": names.get(value, value)} for value in values]
        found.append({"name": name, "text": text, "options": options})
    return found
