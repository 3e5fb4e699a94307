"""Put the page together: one HTML file that holds its style, its script, plotly.js and its data, and asks the network for nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from html import escape
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from plotly.offline import get_plotlyjs

from kbit.errors import LawError, StoreError
from kbit.laws import Law, fit, pareto
from kbit.report.content import Content, Section, content_of
from kbit.report.formula import as_html, pieces
from kbit.report.optimum import Optimum, find_optimum
from kbit.report.provenance import Provenance, provenance_of
from kbit.report.runs import Table, View, rows_of, views
from kbit.report.sections import SECTIONS
from kbit.report.table import runs_table

SWITCHES = {"family": "Family", "protocol": "Text", "embeddings": "Embeddings", "axis": "Axis"}
AXIS_NAMES = {"total": "total bits", "linear": "linear layers"}
DIGITS = 7  # significant digits of the numbers in figures


@dataclass(frozen=True)
class Report:
    """A finished page and the sentence on top of it."""

    html: str
    verdict: str

    def write(self, folder: Path) -> Path:
        """Write `index.html` into `folder`, which is made where it is missing; the file is there whole or not at all."""
        folder = Path(folder)
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


def write_report(table: Table, out: Path, **options: Any) -> Path:
    """Write the report on a table of runs (kbit.study.read_table) to `out`/index.html; the options are those of `make_report`."""
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
    progress: Callable[[float, float, str], None] = lambda done, total, doing: None,
) -> Report:
    """The report on a table of runs.

    title: default "The k-bit law of <families>". provenance: what the table cannot say (texts and their hashes, numerics), a
    heading -> name -> value, shown before what it can. command: how this report was asked for. bootstrap: resamples of the law. progress: called
    with steps done, steps in all and what is being done.
    Raises StoreError where no run is quantized.
    """
    shown = views(table)
    if not shown:
        raise StoreError("the store holds no quantized run, so there is nothing to report. Add formats such as int4-b64 to the grid.")
    laws: dict[tuple[str, str, str], Law | LawError] = {}
    contents = {}
    for done, view in enumerate(shown):
        progress(done, len(shown), f"{view.family}, {view.protocol}, embeddings {view.embeddings}, {AXIS_NAMES[view.axis]}")
        key = (view.family, view.protocol, view.embeddings)
        if key not in laws:
            laws[key] = _law_of(table, view, laws.values(), bootstrap, seed)
        contents[view] = _content(table, view, laws[key], seed)
    progress(len(shown), len(shown), "")
    figures = _Pool()
    first = contents[shown[0]]
    families = sorted({view.family for view in shown})
    title = title or f"The k-bit law of {', '.join(families)}"
    date = date or datetime.now(timezone.utc)
    data = {
        "views": {view.key: _unbroken(_as_json(content, figures)) for view, content in contents.items()},
        "initial": shown[0].key,
        "switches": _switches(shown),
        "runs": runs_table(table),
        "figures": figures.drawn,
    }
    told = provenance_of(table, provenance or {}, command, date)
    return Report(_fill(title, date, first, told, data), first.headline)


def _law_of(table: Table, view: View, others: Iterable[Law | LawError], bootstrap: int, seed: int) -> Law | LawError:
    """The view's law, or why it has none; its form is that of the other laws, so that they compare, or else the best."""
    form = next((law.form for law in others if isinstance(law, Law)), "best")
    try:
        return fit(table, form, bootstrap=bootstrap, seed=seed, **view.as_slice)
    except LawError as error:
        return error


def _content(table: Table, view: View, law: Law | LawError, seed: int) -> Content:
    rows = rows_of(table, view)
    known = None if isinstance(law, LawError) else law
    optima = [_optimum_of(table, view, known, kind, seed) for kind in (None, "any")]
    return content_of(rows, view.axis, optima[0], optima[1], law, pareto(rows, view.axis, "bits_per_byte"))


def _optimum_of(table: Table, view: View, law: Law | None, kind: str | None, seed: int) -> Optimum | LawError:
    try:
        return find_optimum(table, view.axis, law, view.as_slice, kind=kind, seed=seed)
    except LawError as error:
        return error


class _Pool:
    """Figures as JSON, equal ones once, since most do not differ between all views."""

    def __init__(self) -> None:
        self.drawn: list[Any] = []
        self._places: dict[str, int] = {}

    def place(self, figure: Any) -> int:
        """The index of a figure, which is added where it is new."""
        value = _plain(figure)
        text = json.dumps(value, sort_keys=True)
        if text not in self._places:
            self._places[text] = len(self.drawn)
            self.drawn.append(value)
        return self._places[text]


def _as_json(content: Content, figures: _Pool) -> dict[str, Any]:
    return {
        "headline": content.headline, "lead": content.lead, "ruler": content.ruler, "tiles": content.tiles,
        "sections": {slug: _section_as_json(section, figures) for slug, section in content.sections.items()},
    }  # fmt: skip


def _section_as_json(section: Section, figures: _Pool) -> dict[str, Any]:
    return {
        "finding": section.missing or section.finding, "note": section.note, "tables": list(section.tables),
        "formula": pieces(section.formula),
        "figures": [figures.place(figure) for figure in section.figures],
    }  # fmt: skip


def _switches(shown: Sequence[View]) -> list[dict[str, Any]]:
    found = []
    for place, (name, text) in enumerate(SWITCHES.items()):
        values = list(dict.fromkeys(view.key.split("\n")[place] for view in shown))
        options = [{"value": value, "text": AXIS_NAMES.get(value, value) if name == "axis" else value} for value in values]
        found.append({"name": name, "text": text, "options": options})
    return found


def _plain(value: Any) -> Any:
    """JSON's own types: arrays as lists, numbers to DIGITS digits, what is not finite as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value


def _fill(title: str, date: datetime, content: Content, told: Provenance, data: Mapping[str, Any]) -> str:
    parts = files("kbit.report")
    style, script, table = ((parts / name).read_text(encoding="utf-8") for name in ("style.css", "script.js", "table.js"))
    plotly, script = _in_script(get_plotlyjs()), _in_script(f"{script}\n{table}")
    allowed = " ".join(f"'sha256-{_digest(text)}'" for text in (plotly, script))
    policy = (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    return Template((parts / "page.html").read_text(encoding="utf-8")).substitute(
        title=escape(title),
        date=f'<time datetime="{date.isoformat(timespec="seconds")}">{date:%d %B %Y}</time>',
        version=escape(_version()),
        policy=policy,
        style=style,
        headline=escape(_unbroken(content.headline)),
        lead=escape(_unbroken(content.lead)),
        tiles="".join(_tile(_unbroken(tile)) for tile in content.tiles),
        contents="".join(f'<li><a href="#{slug}">{escape(text.short)}</a></li>' for slug, text in SECTIONS.items())
        + '<li><a href="#runs">Runs</a></li><li><a href="#provenance">How</a></li>',
        sections="\n".join(_section(number, slug, content.sections[slug]) for number, slug in enumerate(SECTIONS, start=1)),
        provenance="".join(_facts(heading, facts) for heading, facts in told.items()),
        data=json.dumps(_plain(data), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        plotly=plotly,
        script=script,
    )


def _unbroken(value: Any) -> Any:
    """Texts in which no line breaks between a number and its unit."""
    if isinstance(value, str):
        return re.sub(r"(?<=\d) (?=(?:[kMG]?bits?|[kMG]?B|min|s|h)\b)", "\N{NO-BREAK SPACE}", value)
    if isinstance(value, Mapping):
        return {key: _unbroken(item) for key, item in value.items()}
    return [_unbroken(item) for item in value] if isinstance(value, list | tuple) else value


def _tile(tile: Mapping[str, str]) -> str:
    note = f'<dd class="note">{escape(tile["note"])}</dd>' if tile["note"] else ""
    return f'<div><dd class="value">{escape(tile["value"])}</dd><dt>{escape(tile["label"])}</dt>{note}</div>'


def _section(number: int, slug: str, section: Section) -> str:
    text = SECTIONS[slug]
    return f"""<section id="{slug}" data-section="{slug}">
  <header>
    <p class="number">{number}</p>
    <h2>{escape(text.title)}</h2>
    <p class="finding" data-finding>{escape(section.missing or section.finding)}</p>
    <p class="how">{escape(text.how)} <span data-note>{escape(section.note)}</span></p>
  </header>
  <div class="shown">
    <p class="formula" data-formula>{as_html(section.formula)}</p>
    <div class="tools" data-tools></div>
    <div class="figures" data-figures></div>
    <div class="tables" data-tables></div>
  </div>
</section>"""


def _facts(heading: str, facts: Mapping[str, str]) -> str:
    pairs = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    return f"<section><h3>{escape(heading)}</h3><dl>{pairs}</dl></section>"


def _in_script(text: str) -> str:
    """JavaScript that HTML cannot take for the end of its element."""
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _version() -> str:
    try:
        return version("kbit")
    except PackageNotFoundError:
        return ""
