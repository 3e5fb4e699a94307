"""The page: one file, closed to the network and to hostile names, whole or not there; what is missing has a reason."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from kbit.errors import StoreError
from kbit.report import make_report, write_report
from kbit.report.html import in_script
from kbit.report.sections import SECTIONS
from tests.laws.simulate import SIZES, simulate_table
from tests.report.conftest import DATE, HOSTILE


class Outline(HTMLParser):
    """Every tag with its attributes, and the text of scripts and of what a reader sees."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.scripts, self.text, self.inside = [], [], [], ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = tag
        if tag == "script":
            self.scripts.append((dict(attributes), ""))

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = (attributes, text + data)
        elif self.inside != "style":
            self.text.append(data)


@pytest.fixture(scope="module")
def outline(report):
    return Outline(report.html)


def data_of(report):
    return json.loads(Outline(report.html).scripts[0][1])


def test_nothing_is_loaded_from_elsewhere(outline):
    for tag, attributes in outline.tags:
        for name in ("src", "srcset", "action", "data", "poster"):
            assert name not in attributes, tag
        if tag in ("a", "link"):
            assert attributes["href"].startswith(("#", "data:")), attributes
    assert not [tag for tag, _ in outline.tags if tag in ("img", "iframe", "object", "embed", "base")]


def test_only_the_scripts_of_the_page_may_run(outline):
    (policy,) = [a["content"] for tag, a in outline.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    allowed = re.search(r"script-src ([^;]*)", policy)[1].split()
    run = [text for attributes, text in outline.scripts if "type" not in attributes]
    digests = [f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in run]
    assert allowed == digests
    assert "unsafe" not in re.search(r"script-src ([^;]*)", policy)[1]
    assert "font-src" not in policy
    assert "connect-src" not in policy  # so that default-src 'none' holds for both


def test_the_verdict_stands_on_top_and_in_the_report(report, outline):
    assert re.fullmatch(r"\d bits? (is|are) best .*\(.*%\).*\.", report.verdict)
    assert report.verdict in "".join(outline.text).replace("\N{NO-BREAK SPACE}", " ")


def test_what_was_run_where_and_how_is_told(outline):
    text = " ".join(outline.text)
    for part in (
        "A study",
        "2 January 2026",
        "kbit report --store runs.db",
        "simulated",
        "books and textbooks",
        "torch",
        "python",
    ):
        assert part in text


def test_every_section_is_there_in_every_view(report, outline):
    slugs = [attributes["data-section"] for tag, attributes in outline.tags if "data-section" in attributes]
    assert slugs == list(SECTIONS)
    views = data_of(report)["views"]
    assert len(views) == 6
    for view in views.values():
        assert list(view["sections"]) == list(SECTIONS)
        for section in view["sections"].values():
            assert section["finding"]
    assert all(section["figures"] for section in views[data_of(report)["initial"]]["sections"].values())


def test_every_run_is_in_the_table_with_what_it_adds(report, table):
    runs = data_of(report)["runs"]
    columns = [column["name"] for column in runs["columns"]]
    assert len(runs["rows"]) == len(table["run"])
    for i in (0, len(table["run"]) - 1):
        row = dict(zip(columns, runs["rows"][i], strict=True))
        assert row["run"] == table["run"][i]
        assert row["bits_per_byte"] == pytest.approx(table["bits_per_byte"][i], rel=1e-6)
        assert row["added"] is not None


def test_hostile_names_change_neither_the_tags_nor_the_scripts(report, hostile, outline):
    assert HOSTILE not in hostile.html
    broken = Outline(hostile.html)
    assert {tag for tag, _ in broken.tags} == {tag for tag, _ in outline.tags}
    assert len(broken.scripts) == len(outline.scripts) == 3
    assert broken.scripts[1:] == outline.scripts[1:]
    assert "alert('model')" in "".join(broken.text)  # it is there, as text


def test_hostile_names_reach_figures_escaped(hostile):
    data = data_of(hostile)
    assert HOSTILE in json.dumps(data["runs"]).replace("\\", "")
    for figure in data["figures"]:
        assert "<script" not in json.dumps(figure)


@pytest.mark.parametrize("text", ["a</script>b", "a</SCRIPT >b", "<!-- <script>"])
def test_a_script_cannot_end_its_own_element(text):
    assert not re.search(r"</script|<!--", in_script(text), re.I)


def test_the_file_is_written_whole_and_its_folder_made(table, tmp_path):
    path = write_report(simulate_table(windows=8), tmp_path / "a" / "b", bootstrap=3, date=DATE)
    assert path == tmp_path / "a" / "b" / "index.html"
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert [file.name for file in path.parent.iterdir()] == ["index.html"]


def test_a_failed_write_leaves_the_old_page_and_no_other_file(report, tmp_path, monkeypatch):
    (tmp_path / "index.html").write_text("old")

    def refuse(*_):
        raise OSError(28, "No space left on device", "index.html")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OSError, match="No space"):
        report.write(tmp_path)
    assert (tmp_path / "index.html").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_the_same_runs_give_the_same_page():
    small = simulate_table(windows=8)
    pages = [make_report(small, bootstrap=3, date=DATE).html for _ in range(2)]
    assert pages[0] == pages[1]


def test_progress_is_told_view_by_view():
    told = []
    make_report(simulate_table(windows=8), bootstrap=3, date=DATE, progress=lambda *step: told.append(step))
    assert [(done, total) for done, total, _ in told] == [(0, 2), (1, 2), (2, 2)]
    assert "linear layers" in told[1][2]


def test_a_store_without_a_quantized_run_is_refused():
    with pytest.raises(StoreError, match=r"no quantized run, so there is nothing to report\. Add int4-b64 to the grid"):
        make_report(simulate_table(formats=("bf16",), windows=4))


def changed(table, **columns):
    return {**table, **{name: change(table[name]) for name, change in columns.items()}}


@pytest.mark.parametrize(
    ("table", "slug", "reason"),
    [
        (simulate_table(sizes=SIZES[:1], windows=6), "law", "1 size (prose-94k) cannot determine"),
        (simulate_table(sizes=SIZES[:1], windows=6), "optimum", "Measure more sizes"),
        (simulate_table(sizes=SIZES[:1], windows=6), "types", "No bit width was run with more than one data type"),
        (simulate_table(windows=6), "blocks", "No format was run with more than one block size"),
        (simulate_table(windows=6), "tokens", "saw one number of training tokens"),
        (simulate_table(formats=("int3-b64", "nf3-b64"), windows=6), "curve", "Add bf16 to the grid"),
        (changed(simulate_table(windows=6), kld_mean=lambda c: np.full_like(c, np.nan)), "curve", "int-b64 on prose-5.1m"),
        (changed(simulate_table(windows=6), training_tokens=lambda c: np.full_like(c, np.nan)), "tokens", "saw one number"),
        (simulate_table(sizes=SIZES[:1], formats=("int4-b64",), windows=1), "curve", "Add bf16"),
    ],
)  # fmt: skip
def test_where_something_is_missing_the_page_says_why_and_what_to_do(table, slug, reason):
    data = data_of(make_report(table, bootstrap=3, date=DATE))
    assert reason in data["views"][data["initial"]]["sections"][slug]["finding"]


def test_a_run_whose_loss_is_infinite_leaves_the_rest_of_the_page_standing():
    table = simulate_table(windows=6)
    broken = (table["k"] == 2) & (table["model"] == "prose-94k")
    for name in ("loss", "bits_per_byte", "perplexity"):
        table[name] = np.where(broken, np.inf, table[name])
    data = data_of(make_report(table, bootstrap=3, date=DATE))
    sections = data["views"][data["initial"]]["sections"]
    assert "its loss is inf" in sections["law"]["finding"]
    assert sections["curve"]["figures"]
    assert sections["front"]["figures"]


def test_package_data_is_installed():
    import kbit.report

    names = {path.name for path in Path(kbit.report.__file__).parent.iterdir()}
    assert {"page.html", "style.css", "script.js", "table.js"} <= names
