"""Results on stdout: a readable table, or one JSON object."""

from __future__ import annotations

import json as json_text
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any


def show(result: Any, json: bool = False) -> None:
    """Print `result` on stdout.

    json: one JSON value: what `result.to_json()` gives (a string is taken as JSON already), else the result itself;
    NaN and infinity, which JSON lacks, become null. Otherwise the table that `result.__rich__()` gives, else its text;
    a list is printed an item a line.
    """
    if json:
        value = result.to_json() if hasattr(result, "to_json") else result
        print(
            value
            if isinstance(value, str) and hasattr(result, "to_json")
            else json_text.dumps(_plain(value), indent=2, allow_nan=False)
        )
    elif hasattr(result, "__rich__") or hasattr(result, "__rich_console__"):
        from rich.console import Console

        # In a pipe nothing is known of the reader's width, and a table cut to 80 columns would lose figures.
        console = Console(file=sys.stdout) if sys.stdout.isatty() else Console(file=sys.stdout, width=160)
        console.print(result)
    elif isinstance(result, list | tuple):
        for item in result:
            print(item)
    else:
        print(result)


def _plain(value: Any) -> Any:
    """The value in what JSON knows: dict, list, str, int, float, bool, None."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if hasattr(value, "tolist"):  # arrays, tensors and their scalars
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, int | str | None) else str(value)
