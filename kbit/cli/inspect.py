"""`kbit inspect`: where and why a format hurts, and what would help most for the bits it costs."""

from __future__ import annotations

from typing import Annotated

import typer


def inspect(
    model: Annotated[str, typer.Argument(help="A Hugging Face folder, a hub id or a GGUF file.")],
    format: Annotated[str, typer.Option(help="Format of the linear layers, such as int3-b64.")],
    method: Annotated[str, typer.Option(help="How codes are chosen: rtn, rtn-mse, rtn-percentile, rtn-kl.")] = "rtn",
    seed: Annotated[int, typer.Option(help="Seed of methods that draw at random.")] = 0,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show where and why a format hurts, and what would help.

    For each layer of MODEL: range, spread and outliers of its weights, the error that FORMAT makes, the error that theory
    predicts, and the change that would win most for the bits it costs; then the same over all layers.

    Example: kbit inspect family/prose-754k --format int3-b64
    """
    from kbit.cli.progress import bar
    from kbit.cli.show import show
    from kbit.recipes import inspect_model

    with bar("inspecting") as advance:
        found = inspect_model(model, format, method=method, seed=seed, progress=advance, trust_remote_code=trust_remote_code)
    show(found, json)
