"""Count every bit that a model takes under a recipe: what its checkpoint holds on disk, less the headers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from kbit.checkpoints.checkpoint import Checkpoint
from kbit.errors import ModelError
from kbit.formats import Format
from kbit.models import Site, parameters, rest, skeleton, walkable
from kbit.recipes.recipe import Recipe


@dataclass(frozen=True)
class BitCount:
    """total_bits: all that is stored, padding included. linear_bits: of the quantizable linear layers.

    bits_per_weight: linear_bits over parameters_linear. parameters: all, tied ones once.
    """

    total_bits: int
    linear_bits: int
    parameters: int
    parameters_linear: int

    @property
    def bits_per_weight(self) -> float:
        """Stored bits for each weight of the linear layers."""
        return self.linear_bits / self.parameters_linear

    @property
    def total_bytes(self) -> int:
        """total_bits / 8: the bytes of the checkpoint on disk, less its headers."""
        return self.total_bits // 8

    def to_json(self) -> dict[str, Any]:
        """All figures by name."""
        return {**asdict(self), "bits_per_weight": self.bits_per_weight, "total_bytes": self.total_bytes}


def total_bits(model_or_checkpoint: PreTrainedModel | Checkpoint, recipe: Recipe | Format | str) -> BitCount:
    """The exact count, from shapes alone: no weight is read. Raises FormatError where a glob of the recipe matches nothing."""
    wanted = Recipe.of(recipe)
    model = skeleton(model_or_checkpoint) if isinstance(model_or_checkpoint, Checkpoint) else model_or_checkpoint
    sites = sites_of(model, wanted)
    bits = {site.key: wanted.choice_for(site)[0].stored_bits(site.shape) for site in sites}
    linear = [site for site in sites if site.role == "linear"]
    return BitCount(
        total_bits=sum(bits.values()) + sum(_rest_bits(tensor, wanted) for _, tensor in rest(model, sites)),
        linear_bits=sum(bits[site.key] for site in linear),
        parameters=parameters(model),
        parameters_linear=sum(site.count for site in linear),
    )


def sites_of(model: PreTrainedModel, recipe: Recipe) -> list[Site]:
    """The matrices of `model`, checked against the recipe: every glob matches, and what is large and unknown is kept."""
    sites, unknown = walkable(model)
    recipe.check(sites, unknown)
    for name, shape in unknown.items():
        if not recipe.keeps(name):
            raise ModelError(
                f"{type(model).__name__}, {name}: a bare parameter of shape {shape}; kbit cannot tell its rows from its columns. "
                f"Keep it in 16 bits: --keep '{name}'."
            )
    return sites


def rest_format(tensor: Tensor, recipe: Recipe) -> Format | None:
    """The float format of a tensor that is no matrix, f32 for buffers; None for whole numbers, which stay."""
    if not tensor.is_floating_point():
        return None
    return Format.parse(recipe.rest if isinstance(tensor, nn.Parameter) else "f32")


def experts_of(sites: list[Site]) -> Iterator[list[Site]]:
    """Sites by the parameter that they lie in: one, or all experts of a 3-D parameter, in order."""
    groups: dict[str, list[Site]] = {}
    for site in sites:
        groups.setdefault(site.name, []).append(site)
    yield from groups.values()


def _rest_bits(tensor: Tensor, recipe: Recipe) -> int:
    fmt = rest_format(tensor, recipe)
    return tensor.numel() * (8 * tensor.element_size() if fmt is None else fmt.k)
