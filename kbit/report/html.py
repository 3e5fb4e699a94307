"""From content to HTML: one file that holds its style, its script, plotly.js and its data, and asks the network for nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from datetime import datetime
from html import escape
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np
from plotly.offline import get_plotlyjs

from kbit.report.chapters import Section
from kbit.report.content import Content
from kbit.report.formula import as_html, pieces
from kbit.report.look import Figure
from kbit.report.provenance import Provenance
from kbit.report.sections import SECTIONS

DIGITS = 7  # significant digits of the numbers in figures
OTHERS = {"runs": "Runs", "provenance": "How"}  # the sections that do not depend on the view
# Nothing is loaded, sent or evaluated; only these very scripts run. plotly.js writes styles, and pictures to be saved.
POLICY = (
    "default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)


def views_as_json(contents: Mapping[str, Content]) -> tuple[dict[str, Any], list[Any]]:
    """The contents as plain values, and the figures that they name by index: equal ones once, since many views share them."""
    figures: list[Any] = []
    places: dict[str, int] = {}

    def place(figure: Figure) -> int:
        value = plain(figure)
        found = places.setdefault(json.dumps(value, sort_keys=True), len(figures))
        if found == len(figures):
            figures.append(value)
        return found

    views = {}
    for name, content in contents.items():
        sections = {}
        for slug, section in content.sections.items():
            sections[slug] = {
                "finding": section.missing or section.finding,
                "note": section.note,
                "formula": pieces(section.formula),
                "tables": list(section.tables),
                "figures": [place(figure) for figure in section.figures],
            }
        shown = {"headline": content.headline, "lead": content.lead, "ruler": content.ruler, "tiles": content.tiles}
        views[name] = unbroken(plain({**shown, "sections": sections}))
    return views, figures


def plain(value: Any) -> Any:
    """JSON's own types: arrays as lists, numbers to DIGITS digits, what is not finite as null."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    return value


def unbroken(value: Any) -> Any:
    """Texts in which no line breaks between a number and its unit."""
    if isinstance(value, str):
        return re.sub(r"(?<=\d) (?=(?:[kMG]?bits?|[kMG]?B|min|s|h)\b)", "\N{NO-BREAK SPACE}", value)
    if isinstance(value, Mapping):
        return {key: unbroken(item) for key, item in value.items()}
    return [unbroken(item) for item in value] if isinstance(value, list | tuple) else value


def fill(title: str, date: datetime, content: Content, told: Provenance, data: Mapping[str, Any]) -> str:
    """The page, opened with `content`; all texts are escaped, since models are named by others."""
    parts = files("kbit.report")
    page, style, script, table = (
        (parts / name).read_text(encoding="utf-8") for name in ("page.html", "style.css", "script.js", "table.js")
    )
    plotly, script = in_script(get_plotlyjs()), in_script(f"{script}\n{table}")
    return Template(page).substitute(
        title=escape(title),
        date=f'<time datetime="{date.isoformat(timespec="seconds")}">{date.day} {date:%B %Y}</time>',
        version=escape(_version()),
        policy=POLICY.format(scripts=" ".join(f"'sha256-{_digest(text)}'" for text in (plotly, script))),
        style=style,
        headline=escape(unbroken(content.headline)),
        lead=escape(unbroken(content.lead)),
        tiles="".join(_tile(unbroken(tile)) for tile in content.tiles),
        contents="".join(_link(slug, text.short) for slug, text in SECTIONS.items())
        + "".join(_link(slug, text) for slug, text in OTHERS.items()),
        sections="\n".join(_section(number, slug, content.sections[slug]) for number, slug in enumerate(SECTIONS, start=1)),
        provenance="".join(_facts(heading, facts) for heading, facts in told.items()),
        data=json.dumps(plain(data), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        plotly=plotly,
        script=script,
    )


def in_script(text: str) -> str:
    """JavaScript that HTML cannot take for the end of its element, nor for a comment."""
    return re.sub(r"</(?=script)", r"<\\/", text, flags=re.IGNORECASE).replace("<!--", "<\\!--")


def _tile(tile: Mapping[str, str]) -> str:
    note = f'<dd class="note">{escape(tile["note"])}</dd>' if tile["note"] else ""
    return f'<div><dd class="value">{escape(tile["value"])}</dd><dt>{escape(tile["label"])}</dt>{note}</div>'


def _link(slug: str, text: str) -> str:
    return f'<li><a href="#{slug}">{escape(text)}</a></li>'


def _section(number: int, slug: str, section: Section) -> str:
    text = SECTIONS[slug]
    return f"""<section id="{slug}" data-section="{slug}">
  <header>
    <p class="number">{number}</p>
    <h2>{escape(text.title)}</h2>
    <p class="finding" data-finding>{escape(unbroken(section.missing or section.finding))}</p>
    <p class="how">{escape(text.how)} <span data-note>{escape(unbroken(section.note))}</span></p>
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


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _version() -> str:
    try:
        return version("kbit")
    except PackageNotFoundError:
        return ""
