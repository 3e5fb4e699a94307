"""Quantize a model in memory: the same modules, with the weights that a decoder of the format would see."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import deepcopy

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kbit.formats import Format
from kbit.models import Site, rest
from kbit.recipes.bits import rest_format, sites_of, total_bits
from kbit.recipes.encoding import decoded_weight, rounded
from kbit.recipes.outliers import Outliers
from kbit.recipes.recipe import Recipe


def quantize(
    model: PreTrainedModel, fmt_or_recipe: Recipe | Format | str, *, method: str = "rtn", seed: int = 0
) -> PreTrainedModel:
    """A new model whose weights are those of the recipe, dequantized; the first is untouched.

    Norms, biases and positions are rounded to 16 bits, as a checkpoint stores them, so that the model gives the very logits of
    the checkpoint that quantize_checkpoint writes. The new model has .kbit_recipe (a Recipe) and .kbit_bits (a BitCount).
    Raises ModelError where weights are not finite, FormatError where the recipe does not fit the model.
    """
    recipe = Recipe.of(fmt_or_recipe, method)
    bits = total_bits(model, recipe)
    small = deepcopy(model)
    for site, w in quantized_weights(model, recipe, seed=seed):
        site.write(small, w)
    for name, values in rest_values(model, recipe):
        small.get_parameter(name).data.copy_(values)
    vars(small).update(kbit_recipe=recipe, kbit_bits=bits)
    return small


def quantized_weights(
    model: PreTrainedModel, recipe: Recipe | Format | str, *, sites: Iterable[Site] | None = None, seed: int = 0
) -> Iterator[tuple[Site, Tensor]]:
    """Every matrix of `model` (or those of `sites`) with its dequantized weights, (n_out, n_in) float32, one after another."""
    recipe = Recipe.of(recipe)
    every = sites_of(model, recipe)
    outliers = Outliers(model, every, lambda name: model.get_parameter(name).detach())
    for site in every if sites is None else sites:
        fmt, method = recipe.choice_for(site)
        kept = outliers.kept_columns(site, fmt)
        where = f"{model.name_or_path or type(model).__name__}, {site.key}"
        yield site, decoded_weight(site.read(model), fmt, method, where=where, seed=seed, kept_columns=kept)


def rest_values(model: PreTrainedModel, recipe: Recipe) -> Iterator[tuple[str, Tensor]]:
    """Name and values of every parameter that is no matrix, rounded as a checkpoint stores it, in the dtype of the model."""
    for name, tensor in rest(model, sites_of(model, recipe)):
        fmt = rest_format(tensor, recipe)
        if fmt is not None and isinstance(tensor, torch.nn.Parameter):
            yield name, rounded(tensor.detach(), fmt, name).to(tensor.dtype)
