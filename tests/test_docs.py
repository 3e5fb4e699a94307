"""The documents say what the program does today: generated parts, links, paths and commands in them."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from kbit.cli import COMMANDS, build_app
from kbit.formats import Format
from kbit.laws.forms import FORMS

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("family/*.md")])
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
MADE_BY_COMMANDS = ("runs.db", "report", "small", "integers", "my-family", "texts", "recipe.yaml", "build", "dist")
IN_BACKQUOTES = re.compile(r"`((?:kbit|tests|docs|scripts|benchmarks|examples|family)/[\w./*-]+)`")
PLANNED = ("kbit/kernels/triton", "kbit/server")


def names(path: Path) -> str:
    return str(path.relative_to(ROOT))


def make_docs():
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "scripts" / "make_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def should_be() -> dict[Path, str]:
    return make_docs().pages()


def test_generated_parts_are_what_the_program_says_today():
    stale = [names(path) for path, text in should_be().items() if path.read_text(encoding="utf-8") != text]
    assert not stale, f"run `make docs`: {stale}"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_has_an_example_and_a_page(command):
    (registered,) = build_app([command]).registered_commands
    assert registered.callback is not None
    example = re.search(r"^    Example: (kbit .+)$", registered.callback.__doc__ or "", re.MULTILINE)
    assert example, "the docstring lacks a line 'Example: kbit ...'"
    assert shlex.split(example[1])[1] == command
    assert f"[`kbit {command}`](howto-{command}.md)" in (ROOT / "docs" / "cli.md").read_text()
    assert f"(howto-{command}.md)" in (ROOT / "docs" / "index.md").read_text()


@pytest.mark.parametrize("form", FORMS)
def test_the_page_of_the_law_has_every_form_with_its_formula(form):
    assert f"| `{form}` | {FORMS[form].formula} |" in (ROOT / "docs" / "law.md").read_text()


@pytest.mark.parametrize("command", COMMANDS)
def test_the_first_sentence_of_a_help_fits_a_line(command):
    assert len(make_docs().first_sentence(command)) <= 120


def anchors_of(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_links_lead_somewhere(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        place, _, anchor = target.partition("#")
        path = page.parent / place if place else page
        assert path.exists(), f"{target} is not there"
        if anchor:
            assert anchor in anchors_of(path.read_text(encoding="utf-8")), f"{target} has no such heading"


def test_every_page_can_be_reached_from_the_readme():
    found, open_pages = set(), [ROOT / "README.md"]
    while open_pages:
        page = open_pages.pop().resolve()
        if page not in found and page.suffix == ".md" and page.exists():
            found.add(page)
            links = LINK.findall(page.read_text(encoding="utf-8"))
            open_pages += [page.parent / target.partition("#")[0] for target in links if target.partition("#")[0]]
    assert not [names(page) for page in PAGES if page.resolve() not in found]


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_paths_in_backquotes_exist(page):
    for path in IN_BACKQUOTES.findall(page.read_text(encoding="utf-8")):
        if not path.startswith(PLANNED):
            assert list(ROOT.glob(path.rstrip("/"))), f"`{path}` is not there"


def command_lines() -> list[tuple[str, str]]:
    """(page, line) of every line that a reader may paste into a shell and that calls kbit or make."""
    lines = []
    for page in PAGES:
        for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
            if language == "sh":
                whole = block.replace("\\\n", " ").splitlines()
                lines += [(names(page), line) for line in whole if line.split(" ")[0] in ("kbit", "make")]
    return lines


@pytest.mark.parametrize(("page", "line"), command_lines())
def test_a_quoted_command_exists_with_its_options_and_files(page, line):
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in words[1:] if "=" not in word} <= set(targets)
        return
    assert words[1] in COMMANDS, f"{page}: kbit has no command {words[1]}"
    help_text = make_docs().help_of(words[1])
    for option in (word for word in words[2:] if word.startswith("--")):
        assert re.search(rf"{option}\b", help_text), f"{page}: kbit {words[1]} has no option {option}"
    for word in words[2:]:
        if "/" in word and not word.startswith(("--", "http")) and word.split("/")[0] not in MADE_BY_COMMANDS:
            looks_like_hub = word.count("/") == 1 and not (ROOT / word.split("/")[0]).exists() and "." not in word.split("/")[0]
            assert looks_like_hub or (ROOT / word).exists(), f"{page}: {word} is not there"
    for option, value in pairwise(words):
        if option == "--format":
            Format.parse(value)


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_python_in_a_page_parses_and_uses_names_that_exist(page):
    import kbit

    for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
        if language != "python":
            continue
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kbit"):
                module = importlib.import_module(str(node.module))
                assert not [alias.name for alias in node.names if not hasattr(module, alias.name)], ast.unparse(node)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "kbit":
                assert hasattr(kbit, node.attr), f"kbit.{node.attr} is not public"
