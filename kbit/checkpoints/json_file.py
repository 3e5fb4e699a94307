"""JSON read with suspicion: no repeated keys, no NaN, no depth that exhausts the stack, no file beyond its limit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kbit.errors import CheckpointError

JSON_LIMIT = 512 * 2**20  # bytes; the largest honest ones, tokenizers, have some 30 MB
DAMAGED = "Download or copy it again."


def parse_json(text: bytes, where: str) -> dict[str, Any]:
    """The JSON object in `text` (UTF-8); `where` opens the text of a CheckpointError."""
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_without_repetition, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # ValueError: syntax, UTF-8, numbers of thousands of digits
        raise CheckpointError(f"{where}: not readable as JSON ({one_line(error)}). {DAMAGED}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: holds {type(value).__name__} where a JSON object is needed. {DAMAGED}")
    return value


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in the file `path`."""
    try:
        if path.stat().st_size > JSON_LIMIT:
            raise CheckpointError(f"{path}: longer than {JSON_LIMIT >> 20} MiB, too long for a file of settings. {DAMAGED}")
        text = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}). Check the path and its permissions.") from None
    return parse_json(text, str(path))


def one_line(error: object, limit: int = 160) -> str:
    """The text of `error` on one line, no longer than `limit`."""
    text = " ".join(str(error).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {repeated[:80]!r} stands twice")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
