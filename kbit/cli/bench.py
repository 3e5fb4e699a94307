"""`kbit bench`: how fast this machine is at each k, and with a model."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from kbit.models.bench_table import Bench


class Output(StrEnum):
    """How the result is printed."""

    table = "table"
    md = "md"
    csv = "csv"
    json = "json"


def bench(
    model: Annotated[
        str | None, typer.Argument(help="A kbit checkpoint, a Hugging Face folder, a hub id or a GGUF file.")
    ] = None,
    format: Annotated[
        list[str] | None, typer.Option(help="Format of the weight; repeat it. Default: int1-b64 to int8-b64.")
    ] = None,
    shape: Annotated[str, typer.Option(help="Rows and columns of the weight.")] = "4096x4096",
    batch: Annotated[int, typer.Option(min=1, help="Tokens that are multiplied at once.")] = 1,
    compute: Annotated[
        str | None, typer.Option(help="int8 or exact; by default int8, and exact for a MODEL that is not packed.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; by default as torch has them.")] = None,
    seconds: Annotated[float, typer.Option(min=0, help="For the products in all; five rounds at least.")] = 6.0,
    n_prompt: Annotated[
        int | None, typer.Option("-p", "--n-prompt", min=0, help="Tokens of MODEL's pp test; 512, or its context; 0: none.")
    ] = None,
    n_gen: Annotated[
        int | None, typer.Option("-n", "--n-gen", min=0, help="Tokens of MODEL's tg test; 128, or its context; 0: none.")
    ] = None,
    repetitions: Annotated[int, typer.Option("-r", "--repetitions", min=1, help="Of each test.")] = 5,
    output: Annotated[Output, typer.Option("-o", "--output", help="How the result is printed.")] = Output.table,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object: -o json.")] = False,
) -> None:
    """Measure this machine: the bandwidth of its memory, then the product of a packed weight at each k.

    Formats take turns, their weights lie beyond the last-level cache, and memory is read in the same rounds; times are medians.
    With MODEL, also the tokens per second of reading a prompt and of generating, as llama-bench's pp512 and tg128.

    Example: kbit bench --format int3-b64 --format int4-b64
    """
    from kbit.cli.progress import bar
    from kbit.cli.show import show
    from kbit.cli.threads import use_threads
    from kbit.models import load
    from kbit.models.bench import FORMATS, bench_model, bench_products, measure_machine
    from kbit.models.bench_table import Bench

    use_threads(threads)
    sides = shape_of(shape)
    loaded = load(model, trust_remote_code=trust_remote_code) if model else None
    with bar("measuring", percent=True) as advance:
        speed = None
        if loaded is not None:
            speed = bench_model(loaded, prompt=n_prompt, answer=n_gen, repetitions=repetitions, compute=compute, progress=advance)
        how = compute or "int8"
        found = bench_products(format or FORMATS, shape=sides, batch=batch, compute=how, seconds=seconds, progress=advance)
        result = Bench(measure_machine(), sides, batch, how, found, speed)
    wanted = Output.json if json else output
    show({Output.md: Bench.to_markdown, Output.csv: Bench.to_csv}.get(wanted, itself)(result), wanted is Output.json)


def itself(result: Bench) -> Bench:
    """What `show` prints as a table or as JSON."""
    return result


def shape_of(text: str) -> tuple[int, int]:
    """4096x4096 as numbers."""
    from kbit.errors import KbitError

    rows, x, columns = text.partition("x")
    if not (x and rows.isdecimal() and columns.isdecimal()):
        raise KbitError(f"shape '{text}' is none. Write rows and columns, such as 4096x4096.")
    return int(rows), int(columns)
