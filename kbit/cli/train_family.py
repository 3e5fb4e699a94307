"""`kbit train-family`: train the family of small models whose runs are the points of a law."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train_family(
    text: Annotated[Path, typer.Argument(help="Folder of *.jsonl or *.jsonl.xz files with a 'text' on each line.")],
    out: Annotated[Path, typer.Option(help="Where the finished models go.")] = Path("family"),
    state: Annotated[Path, typer.Option(help="Where the state of training is kept until it is done.")] = Path("training-state"),
    size: Annotated[
        list[str] | None, typer.Option(help="A size of the family, such as prose-94k; repeat it. Default: all.")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="A seed; repeat it for several trainings of each size.")] = None,
    steps: Annotated[int, typer.Option(help="Steps of 4096 tokens; a multiple of 16.")] = 2048,
    precision: Annotated[str, typer.Option(help="f32, or bf16 on a CPU that multiplies bfloat16.")] = "f32",
    threads: Annotated[int | None, typer.Option(help="Threads of torch. The same number gives the same bytes.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train the bundled family from scratch: five sizes on one token stream, resumable after any interruption.

    Example: kbit train-family texts/ --size prose-94k --size prose-276k --out family
    """
    import torch

    from kbit.cli.progress import bar
    from kbit.cli.show import show
    from kbit.training import MEMBERS, FamilyPlan, train_family

    plan = FamilyPlan(
        members=tuple(size or MEMBERS),
        seeds=tuple(seed or (0,)),
        steps=steps,
        precision=precision,
        threads=threads or torch.get_num_threads(),
    )
    with bar("training") as advance:
        result = train_family(
            plan, text, out, state, progress=lambda name, end, step, loss: advance(step, end, f"{name} loss {loss:.3f}")
        )
    show(result, json)
