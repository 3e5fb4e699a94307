"""`kbit plan`: the best model and format to run in so much memory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def plan(
    memory: Annotated[str, typer.Option(help="What may be used, such as 2GiB, 500MB, 512KiB, or bytes.")],
    store: Annotated[Path, typer.Option(help="The store that kbit study filled.")],
    context: Annotated[int, typer.Option(min=1, help="Tokens that the KV cache holds, at most the model's own longest.")] = 4096,
    batch: Annotated[int, typer.Option(min=1, help="Sequences at once, each with a KV cache.")] = 1,
    kv_bits: Annotated[int, typer.Option(min=1, max=32, help="Bits of a number in the KV cache.")] = 16,
    family: Annotated[str | None, typer.Option(help="Choose within one family. Default: all of the store.")] = None,
    protocol: Annotated[str | None, typer.Option(help="Protocol that judges quality. Default: the one with most runs.")] = None,
    all: Annotated[bool, typer.Option("--all", help="Show dominated choices too.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Rank the choices of model and format that run in MEMORY: weights, KV cache and activations counted.

    Example: kbit plan --memory 2GiB --store runs.db --context 4096
    """
    from kbit.cli.show import show
    from kbit.planner import parse_size, plan
    from kbit.study import read_table

    budget = parse_size(memory)
    found = plan(read_table(store), budget, context=context, batch=batch, kv_bits=kv_bits, family=family, protocol=protocol)
    show(found.with_all() if all else found, json)
