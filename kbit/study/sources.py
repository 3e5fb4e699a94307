"""The files that a grid names: models and texts, by path, by glob, or by hub id."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from kbit.errors import StoreError, TextError
from kbit.study.braces import expand_braces

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def find_models(entries: Sequence[str], grid: Path) -> list[str]:
    """Folders, GGUF files and hub ids that `entries` name, each once; relative paths start in the folder of the file `grid`.

    A glob finds folders that hold a config.json, and GGUF files. A path that is not there but reads as owner/name is a hub id.
    """
    found: dict[str, None] = {}
    for entry in (word for written in entries for word in expand_braces(written)):
        if glob.has_magic(entry) and not (grid.parent / entry).exists():
            models = [path for path in _glob(entry, grid) if (path / "config.json").is_file() or path.suffix == ".gguf"]
            if not models:
                raise StoreError(
                    f"grid {grid}: models: '{entry}' finds no folder with a config.json and no GGUF file. Check the path."
                )
            found.update(dict.fromkeys(map(str, models)))
        elif (grid.parent / entry).exists():
            found[str((grid.parent / entry).absolute())] = None
        elif _HUB_ID.fullmatch(entry) and not entry.startswith("."):
            found[entry] = None
        else:
            raise StoreError(
                f"grid {grid}: models: there is no {grid.parent / entry}. Check the path; it starts in the grid's folder."
            )
    return list(found)


def find_texts(entries: Sequence[str], grid: Path) -> tuple[str, ...]:
    """The files of a text, in the order that its entries name them, those of a glob sorted."""
    files: list[str] = []
    for word in (word for entry in entries for word in expand_braces(entry)):
        here = (grid.parent / word).absolute()
        at = [here] if here.exists() else _glob(word, grid) if glob.has_magic(word) else []
        if not at:
            raise StoreError(
                f"grid {grid}: text: there is no {grid.parent / word}. Check the path; it starts in the grid's folder."
            )
        files += map(str, at)
    return tuple(files)


def read_texts(files: Sequence[str]) -> str:
    """The text of `files`, joined by an empty line; TextError where one cannot be read, or is no UTF-8."""
    parts = []
    for file in files:
        try:
            parts.append(Path(file).read_bytes().decode())  # line ends as they are: they count in bits per byte
        except UnicodeDecodeError as error:
            raise TextError(f"{file}: byte {error.start} is no UTF-8. Convert the text to UTF-8.") from None
        except OSError as error:
            raise TextError(f"{file}: cannot be read ({error.strerror}). Name a text file.") from None
    return "\n\n".join(parts)


def _glob(entry: str, grid: Path) -> list[Path]:
    return [Path(path) for path in sorted(glob.glob(str(Path(glob.escape(str(grid.parent.absolute()))) / entry), recursive=True))]
