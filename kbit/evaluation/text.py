"""Reads the text that a model is measured on."""

from __future__ import annotations

from pathlib import Path

from kbit.errors import TextError


def read_text(path: str | Path) -> str:
    """The file's text, every character as it stands (line ends too). Raises TextError where it is missing, empty or not UTF-8."""
    try:
        raw = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise TextError(f"{path}: cannot be read ({error.strerror}). Name a text file.") from None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TextError(f"{path}: byte {error.start} is not UTF-8. Convert it: iconv -f latin1 -t utf-8.") from None
    if not text.strip():
        raise TextError(f"{path}: the text is empty. Give one with something to read.")
    return text
