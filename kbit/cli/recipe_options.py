"""The options that say a recipe, the same in every command that has them, and the recipe that they say."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from kbit.recipes import Recipe

FormatOption = Annotated[str | None, typer.Option(help="Format of the linear layers, such as nf4-b64.")]
RecipeOption = Annotated[
    Path | None, typer.Option(help="YAML or JSON file with a format for each layer; the other options go before it.")
]
EmbeddingsOption = Annotated[str | None, typer.Option(help="Format of the embeddings; int8-row by default, bf16 keeps them.")]
HeadOption = Annotated[
    str | None, typer.Option(help="Format of the output layer where it is not tied to the embeddings; int8-row by default.")
]
WeightsOption = Annotated[int | None, typer.Option(help="Bits of its weights, 2 to 8; or give a --format.")]
ActivationsOption = Annotated[int | None, typer.Option(help="Bits of what its layers multiply, 4 to 8; by default 8.")]
RangesOption = Annotated[
    str | None,
    typer.Option(
        help="token: each row finds its step as it runs (the default); or static: min-max, percentile, mse, kl, moving-average."
    ),
]
SmoothOption = Annotated[
    str | None, typer.Option(help="Outliers from activations to weights: auto (the default), or SmoothQuant's 0 to 1.")
]
RotateOption = Annotated[
    str | None, typer.Option(help="Hadamard transforms: none, down, inputs (before all matrices, the default), all.")
]
KeepOption = Annotated[list[str] | None, typer.Option(help="Layers that stay in 16 bits, as a glob: '*.layers.0.*'; repeat it.")]


def recipe_of(
    recipe: Path | None, keep: list[str] | None, *, example: str, usual_method: str | None = None, **given: str | None
) -> Recipe:
    """The recipe of a file with what is `given` put before it, or of what is given alone.

    given: settings of a recipe by name; None where an option was left out. usual_method: the method where nothing names one.
    Raises FormatError, with `example`, where there is neither a file nor a format.
    """
    from kbit.errors import FormatError
    from kbit.recipes import Recipe

    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if recipe is not None:
        wanted = Recipe.from_file(recipe)
        return wanted.with_(**changes, keep=(*wanted.keep, *(keep or ())))
    if "weights" not in changes:
        raise FormatError(f"no format is given. Write --format {example}, or --recipe FILE for a format per layer.")
    usual = {} if usual_method is None else {"method": usual_method}
    return Recipe(**(usual | changes), keep=tuple(keep or ()))


def integers_of(
    activations: int | None, ranges: str | None, smooth: str | None, rotate: str | None
) -> dict[str, int | str | float]:
    """The settings of a FixedPoint that options name."""
    given = {"activations": activations, "ranges": ranges, "smooth": _strength(smooth), "rotate": rotate}
    return {name: value for name, value in given.items() if value is not None}


def format_of(format: str | None, weights: int | None) -> str | None:
    """The format that --format or --weights names. Raises FormatError where both do."""
    from kbit.errors import FormatError
    from kbit.recipes import integer_format

    if weights is None:
        return format
    if format is not None:
        raise FormatError(f"--weights {weights} and --format {format} are two formats. Leave one of them out.")
    return str(integer_format(weights))


def with_integers(
    recipe: Recipe, settings: dict[str, int | str | float], *, fixed_point: bool, more: bool, options: str
) -> Recipe:
    """The recipe, where it or --fixed-point says a model of integers: with these settings before its own.

    more: whether an option of integers beside the settings is given; options: the names of all. Raises FormatError where one is
    given for a model of floats.
    """
    from kbit.errors import FormatError

    if not fixed_point and recipe.integers is None:
        if settings or more:
            raise FormatError(f"{options} go with --fixed-point. Write it too.")
        return recipe
    before = recipe.integers.to_dict() if recipe.integers else {}
    return recipe.with_(fixed_point=before | settings)


def _strength(smooth: str | None) -> str | float | None:
    """A number where it is one."""
    try:
        return smooth if smooth is None else float(smooth)
    except ValueError:
        return smooth
