"""`kbit quantize`: a checkpoint in, a kbit checkpoint out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def quantize(
    model: Annotated[str, typer.Argument(help="A Hugging Face folder, a hub id or a GGUF file.")],
    out: Annotated[Path, typer.Option(help="The new folder for the checkpoint.")],
    format: Annotated[str | None, typer.Option(help="Format of the linear layers, such as nf4-b64.")] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="YAML or JSON file with a format for each layer; the other options go before it.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="How codes are chosen: rtn (the default), rtn-mse, rtn-percentile, rtn-kl.")
    ] = None,
    embeddings: Annotated[
        str | None, typer.Option(help="Format of the embeddings; int8-row by default, bf16 keeps them.")
    ] = None,
    lm_head: Annotated[
        str | None, typer.Option(help="Format of the output layer where it is not tied to the embeddings; int8-row by default.")
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="Layers that stay in 16 bits, as a glob: '*.layers.0.*'; repeat it.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of methods that draw at random.")] = 0,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Quantize MODEL and write a kbit checkpoint to the folder OUT.

    The model is read layer by layer, so it need not fit in memory. Prints layers, bits per weight, sizes and errors.

    Example: kbit quantize family/prose-754k --format nf4-b64 --out prose-nf4
    """
    from kbit.cli.progress import bar
    from kbit.cli.show import show
    from kbit.errors import FormatError
    from kbit.recipes import Recipe, quantize_checkpoint

    given = {"weights": format, "method": method, "embeddings": embeddings, "lm_head": lm_head}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if recipe is not None:
        wanted = Recipe.from_file(recipe)
        wanted = wanted.with_(**changes, keep=(*wanted.keep, *(keep or ())))
    elif format is None:
        raise FormatError("no format is given. Write --format nf4-b64, or --recipe FILE for a format per layer.")
    else:
        wanted = Recipe(**changes, keep=tuple(keep or ()))
    with bar("quantizing") as advance:
        result = quantize_checkpoint(model, wanted, out, seed=seed, trust_remote_code=trust_remote_code, progress=advance)
    show(result, json)
