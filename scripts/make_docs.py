"""Write the generated parts of the documents: help of the commands, levels of the codebooks.

A part stands between `<!-- NAME: begin -->` and `<!-- NAME: end -->`. With --check nothing is written, and the exit code is 1
where a page is not what the program says today.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
WIDTH = 100  # columns of a help text


def help_of(command: str) -> str:
    """What `kbit COMMAND --help` prints, as a fenced block."""
    from kbit.cli import main

    os.environ["COLUMNS"] = str(WIDTH)
    with redirect_stdout(io.StringIO()) as text, suppress(SystemExit):
        main([command, "--help"])
    lines = [line.rstrip() for line in text.getvalue().strip().splitlines()]
    return "\n".join(["```", *lines, "```"])


def first_sentence(command: str) -> str:
    """The first sentence of a command's help."""
    from kbit.cli import COMMANDS, build_app

    assert command in COMMANDS
    (registered,) = build_app([command]).registered_commands
    assert registered.callback is not None
    return " ".join((registered.callback.__doc__ or "").split("\n\n")[0].split())


def commands_table() -> str:
    """Every command, what it does, and its page."""
    from kbit.cli import COMMANDS

    rows = [f"| [`kbit {name}`](howto-{name}.md) | {first_sentence(name)} |" for name in COMMANDS]
    return "\n".join(["| command | what it does |", "| --- | --- |", *rows])


def levels() -> str:
    """The levels of every fixed codebook up to 4 bits."""
    from kbit.formats.describe import levels_tables

    return levels_tables()


def parts() -> dict[str, tuple[str, Callable[[], str]]]:
    """Page -> the name of its part, and what makes it."""
    from kbit.cli import COMMANDS

    found: dict[str, tuple[str, Callable[[], str]]] = {
        f"howto-{name}.md": ("help", lambda name=name: help_of(name))  # type: ignore[misc]
        for name in COMMANDS
    }
    return {**found, "cli.md": ("commands", commands_table), "formats.md": ("levels", levels)}


def with_part(text: str, name: str, part: str, page: str) -> str:
    """`text` with the part between its marks replaced."""
    marks = re.compile(rf"(<!-- {name}: begin -->\n).*?(<!-- {name}: end -->)", re.DOTALL)
    assert marks.search(text), f"docs/{page} lacks <!-- {name}: begin --> and <!-- {name}: end -->"
    return marks.sub(lambda match: f"{match[1]}\n{part.strip()}\n\n{match[2]}", text)


def pages() -> dict[Path, str]:
    """Every page with a generated part -> what it should hold."""
    found = {}
    for page, (name, make) in parts().items():
        path = DOCS / page
        found[path] = with_part(path.read_text(encoding="utf-8"), name, make(), page)
    return found


def main() -> None:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say which pages are out of date")
    check = parser.parse_args().check
    stale = {path: text for path, text in pages().items() if path.read_text(encoding="utf-8") != text}
    for path, text in stale.items():
        print(path.relative_to(ROOT), "is out of date" if check else "written")
        if not check:
            path.write_text(text, encoding="utf-8")
    sys.exit(1 if check and stale else 0)


if __name__ == "__main__":
    main()
