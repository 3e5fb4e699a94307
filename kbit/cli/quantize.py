"""`kbit quantize`: a checkpoint in, a kbit checkpoint out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kbit.cli.recipe_options import EmbeddingsOption, FormatOption, HeadOption, KeepOption, RecipeOption, recipe_of


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
    weights: Annotated[int | None, typer.Option(help="Bits of its weights, 2 to 8; or give a --format.")] = None,
    activations: Annotated[int | None, typer.Option(help="Bits of what its layers multiply, 4 to 8; by default 8.")] = None,
    text: Annotated[Path | None, typer.Option(help="UTF-8 text to calibrate it on.")] = None,
    ranges: Annotated[
        str | None,
        typer.Option(
            help="token: each row finds its step as it runs (the default); or static: min-max, percentile, mse, kl, "
            "moving-average."
        ),
    ] = None,
    smooth: Annotated[
        str | None, typer.Option(help="Outliers from activations to weights: auto (the default), or SmoothQuant's 0 to 1.")
    ] = None,
    rotate: Annotated[
        str | None, typer.Option(help="Hadamard transforms: none, down (before the down projections, the default), all.")
    ] = None,
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

    integers = {"activations": activations, "ranges": ranges, "smooth": _strength(smooth), "rotate": rotate}
    settings: dict[str, Any] = {name: value for name, value in integers.items() if value is not None}
    format = _format(format, weights, fixed_point or recipe is not None, bool(settings) or text is not None)
    given = {"weights": format, "method": method, "embeddings": embeddings, "lm_head": lm_head}
    wanted = recipe_of(recipe, keep, example="nf4-b64", **given)
    if fixed_point:
        before = wanted.integers.to_dict() if wanted.integers else {}
        wanted = wanted.with_(fixed_point=before | settings)
    how: dict[str, Any] = {"seed": seed, "trust_remote_code": trust_remote_code}
    with bar("quantizing") as advance:
        if wanted.integers is None:
            result: Any = quantize_checkpoint(model, wanted, out, progress=advance, **how)
        else:
            result = quantize_fixed_point(model, wanted, out, text=_calibration(text), progress=advance, **how)
    show(result, json)


def _format(format: str | None, weights: int | None, fixed_point: bool, more: bool) -> str | None:
    """The format that --format or --weights names. Raises FormatError where an option is one of --fixed-point alone."""
    from kbit.errors import FormatError
    from kbit.recipes import integer_format

    if not fixed_point and (weights is not None or more):
        raise FormatError(
            "--weights, --activations, --text, --ranges, --smooth and --rotate go with --fixed-point. Write it too."
        )
    if weights is None:
        return format
    if format is not None:
        raise FormatError(f"--weights {weights} and --format {format} are two formats. Leave one of them out.")
    return str(integer_format(weights))


def _strength(smooth: str | None) -> str | float | None:
    """A number where it is one."""
    try:
        return smooth if smooth is None else float(smooth)
    except ValueError:
        return smooth


def _calibration(text: Path | None) -> str:
    """The calibration text. Raises KbitError where none is given."""
    from kbit.errors import KbitError
    from kbit.evaluation import read_text

    if text is None:
        raise KbitError("a model of integers is calibrated on a text. Write --text FILE.")
    return read_text(text)
