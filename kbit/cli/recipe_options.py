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
