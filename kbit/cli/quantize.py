"""`kbit quantize`: a checkpoint in, a kbit checkpoint out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kbit.cli.recipe_options import (
    ActivationsOption,
    EmbeddingsOption,
    FormatOption,
    HeadOption,
    KeepOption,
    RangesOption,
    RecipeOption,
    RotateOption,
    SmoothOption,
    WeightsOption,
    format_of,
    integers_of,
    recipe_of,
    with_integers,
)

OPTIONS = "--weights, --activations, --text, --ranges, --smooth and --rotate"


def quantize(
    model: Annotated[str, typer.Argument(help="A Hugging Face folder, a hub id or a GGUF file.")],
    out: Annotated[Path, typer.Option(help="The new folder for the checkpoint.")],
    format: FormatOption = None,
    recipe: RecipeOption = None,
    method: Annotated[
        str | None, typer.Option(help="How codes are chosen: rtn (the default), rtn-mse, rtn-percentile, rtn-kl.")
    ] = None,
    embeddings: EmbeddingsOption = None,
    lm_head: HeadOption = None,
    keep: KeepOption = None,
    fixed_point: Annotated[
        bool, typer.Option("--fixed-point", help="Make a model that runs on integers alone; the next six options say how.")
    ] = False,
    weights: WeightsOption = None,
    activations: ActivationsOption = None,
    text: Annotated[Path | None, typer.Option(help="UTF-8 text to calibrate it on.")] = None,
    ranges: RangesOption = None,
    smooth: SmoothOption = None,
    rotate: RotateOption = None,
    seed: Annotated[int, typer.Option(help="Seed of methods that draw at random.")] = 0,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Quantize MODEL and write a kbit checkpoint to the folder OUT.

    The model is read layer by layer, so it need not fit in memory, except with --fixed-point. Prints layers, bits per weight,
    sizes and errors.

    Example: kbit quantize family/prose-754k --format nf4-b64 --out prose-nf4
    """
    from kbit.cli.progress import bar
    from kbit.cli.show import show
    from kbit.recipes import quantize_checkpoint, quantize_fixed_point

    given = {"weights": format_of(format, weights), "method": method, "embeddings": embeddings, "lm_head": lm_head}
    wanted = recipe_of(recipe, keep, example="nf4-b64", **given)
    settings, more = integers_of(activations, ranges, smooth, rotate), weights is not None or text is not None
    wanted = with_integers(wanted, settings, fixed_point=fixed_point, more=more, options=OPTIONS)
    how: dict[str, Any] = {"seed": seed, "trust_remote_code": trust_remote_code}
    with bar("quantizing") as advance:
        if wanted.integers is None:
            result: Any = quantize_checkpoint(model, wanted, out, progress=advance, **how)
        else:
            result = quantize_fixed_point(model, wanted, out, text=_calibration(text), progress=advance, **how)
    show(result, json)


def _calibration(text: Path | None) -> str:
    """The calibration text. Raises KbitError where none is given."""
    from kbit.errors import KbitError
    from kbit.evaluation import read_text

    if text is None:
        raise KbitError("a model of integers is calibrated on a text. Write --text FILE.")
    return read_text(text)
