"""Inspect a model: where and why a format hurts, layer by layer, and what would help most for the bits it costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from kbit.checkpoints.open import open_checkpoint
from kbit.errors import FormatError, ModelError
from kbit.formats import Format
from kbit.formats.theory import predicted_mse
from kbit.methods import choose
from kbit.models import Site, check_finite, walk
from kbit.models.assembly import Assembly
from kbit.models.skeleton import skeleton
from kbit.recipes.advice import Advice, Tried, advise, try_changes
from kbit.recipes.facts import Facts, facts_of, squared_error
from kbit.recipes.recipe import Recipe

if TYPE_CHECKING:
    from rich.console import Group

Progress = Callable[[int, int, str], None]  # matrices done, in all, the one that is next


@dataclass(frozen=True)
class Layer:
    """One matrix in its format. Errors are relative: root of the mean squared error over the root of the mean w^2.

    predicted_error is what theory says for the grid that the method chose (s^2 / 12 for even steps, clipping counted), and
    ratio the measured over the predicted squared error: near 1, theory explains all.
    """

    name: str
    role: str
    shape: tuple[int, int]
    format: str
    method: str
    bits_per_weight: float
    facts: Facts
    relative_error: float
    predicted_error: float
    ratio: float
    advice: tuple[Advice, ...]

    def to_json(self) -> dict[str, Any]:
        """Flat figures, and the advice best first."""
        plain = asdict(self)
        figures = plain.pop("facts")
        figures.pop("power")
        return {**plain, **figures, "advice": [_advice_json(advice) for advice in self.advice]}


@dataclass(frozen=True)
class Inspection:
    """All matrices of a model in a format, and the advice over all linear layers, best first."""

    model: str
    format: str
    method: str
    layers: tuple[Layer, ...]
    advice: tuple[Advice, ...]

    @property
    def linear(self) -> list[Layer]:
        """The layers that the format is asked for; embeddings and a head of their own have the recipe's default."""
        return [layer for layer in self.layers if layer.advice]

    @property
    def relative_error(self) -> float:
        """Root of the mean over the linear layers of the squared relative error."""
        return float((sum(layer.relative_error**2 for layer in self.linear) / len(self.linear)) ** 0.5)

    @property
    def predicted_error(self) -> float:
        """The same of the predicted errors."""
        return float((sum(layer.predicted_error**2 for layer in self.linear) / len(self.linear)) ** 0.5)

    def to_json(self) -> dict[str, Any]:
        """What the table shows, by name."""
        from kbit.recipes.inspection_text import sentences

        return {
            "model": self.model,
            "format": self.format,
            "method": self.method,
            "relative_error": self.relative_error,
            "predicted_error": self.predicted_error,
            "summary": sentences(self),
            "advice": [_advice_json(advice) for advice in self.advice],
            "layers": [layer.to_json() for layer in self.layers],
        }

    def __rich__(self) -> Group:
        from kbit.recipes.inspection_text import tables

        return tables(self)


def inspect_model(
    source: str | Path,
    fmt: Format | str,
    *,
    method: str = "rtn",
    seed: int = 0,
    progress: Progress = lambda done, total, name: None,
    trust_remote_code: bool = False,
) -> Inspection:
    """Quantize each matrix of `source` (folder, hub id or GGUF file) to `fmt` in turn, and look at what it does.

    Weights are read layer by layer. Errors are measured on all weights of a layer; the changes of the advice are tried on evenly
    spaced rows of about 10^6 weights (see `advice`). Raises FormatError for a format that keeps floats, ModelError for a model
    without linear layers or with weights that are not finite.
    """
    recipe = Recipe(weights=str(fmt), method=method)
    if Format.parse(recipe.weights).is_float:
        raise FormatError(
            f"format '{fmt}' keeps weights as they are, so there is nothing to inspect. Use a k-bit format, such as nf4-b64."
        )
    checkpoint = open_checkpoint(source, trust_remote_code=trust_remote_code)
    model = skeleton(checkpoint, trust_remote_code=trust_remote_code)
    assembly = Assembly(model, checkpoint)
    sites = [site for site in walk(model) if not recipe.choice_for(site)[0].is_float]
    if not any(site.role == "linear" for site in sites):
        raise ModelError(f"{source}: it has no linear layers, so there is nothing to inspect. Check that it is a language model.")
    layers, tried = [], []
    for done, site in enumerate(sites):
        progress(done, len(sites), site.key)
        w = site.of(assembly.read(site.name)).float().contiguous()
        check_finite(w, f"{source}, {site.key}")
        changes = try_changes(site.key, w, *recipe.choice_for(site), seed=seed) if site.role == "linear" else None
        layers.append(inspect_layer(site, w, *recipe.choice_for(site), tried=changes, seed=seed))
        tried += [changes] if changes else []
    progress(len(sites), len(sites), "")
    return Inspection(str(source), recipe.weights, recipe.method, tuple(layers), tuple(advise(tried)))


def inspect_layer(site: Site, w: Tensor, fmt: Format, method: str, *, tried: Tried | None = None, seed: int = 0) -> Layer:
    """The figures of one matrix w (n_out, n_in), with the advice that follows from the changes `tried` on it."""
    facts = facts_of(w)
    encoded = choose(method, w, fmt, seed=seed)
    measured = squared_error(w, encoded.dequantize())
    predicted = predicted_mse(fmt, w, grid=encoded.grid)
    return Layer(
        name=site.key,
        role=site.role,
        shape=site.shape,
        format=str(fmt),
        method=method,
        bits_per_weight=fmt.stored_bits(site.shape) / site.count,
        facts=facts,
        relative_error=(measured / facts.power) ** 0.5 if facts.power else 0.0,
        predicted_error=(predicted / facts.power) ** 0.5 if facts.power else 0.0,
        ratio=measured / predicted if predicted else 1.0,
        advice=tuple(advise([tried])) if tried else (),
    )


def _advice_json(advice: Advice) -> dict[str, Any]:
    return {**asdict(advice), "net": advice.net}
