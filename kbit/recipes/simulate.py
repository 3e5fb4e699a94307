"""Quantize a model in memory: its layers with the weights that a decoder of the format would see, or the bits themselves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kbit.formats import Format
from kbit.models import Site, dequantized, install, packable, packed_layers, rest, set_floats
from kbit.packed import PackedTensor
from kbit.recipes.bits import rest_format, sites_of, total_bits
from kbit.recipes.encoding import decoded_weight, packed_weight, rounded
from kbit.recipes.outliers import Outliers
from kbit.recipes.recipe import Recipe


def quantize(
    model: PreTrainedModel, fmt_or_recipe: Recipe | Format | str, *, method: str = "rtn", packed: bool = False, seed: int = 0
) -> PreTrainedModel:
    """A new model whose weights are those of the recipe; the first is untouched.

    packed: False: the modules stay as they are and hold dequantized weights, as fast as the first model. True: quantized layers
    are KbitLinear and KbitEmbedding modules that hold the bits; experts, which share one parameter, are dequantized all the same.
    Norms, biases and positions are rounded to 16 bits, as a checkpoint stores them, so that the model gives the very logits of
    the checkpoint that quantize_checkpoint writes. The new model has .kbit_recipe (a Recipe) and .kbit_bits (a BitCount).
    Raises ModelError where weights are not finite, FormatError where the recipe does not fit the model.
    """
    recipe = Recipe.of(fmt_or_recipe, method)
    original = dequantized(deepcopy(model)) if packed_layers(model) else model
    bits = total_bits(original, recipe)
    small = deepcopy(original)
    if packed:
        for site, weight in packed_weights(original, recipe, seed=seed):
            hold(small, site, weight)
    else:
        for site, w in quantized_weights(original, recipe, seed=seed):
            site.write(small, w)
    for name, values in rest_values(original, recipe):
        small.get_parameter(name).data.copy_(values)
    vars(small).update(kbit_recipe=recipe, kbit_bits=bits)
    return small


def hold(model: PreTrainedModel, site: Site, weight: PackedTensor) -> None:
    """Let `model` hold the bits of `weight` at `site`; its floats where it is not quantized, or the module cannot hold bits."""
    if weight.fmt.is_float or not packable(site):
        set_floats(model, site, weight.dequantize())
    else:
        install(model, site, weight)


def quantized_weights(
    model: PreTrainedModel, recipe: Recipe | Format | str, *, sites: Iterable[Site] | None = None, seed: int = 0
) -> Iterator[tuple[Site, Tensor]]:
    """Every matrix of `model` (or those of `sites`) with its dequantized weights, (n_out, n_in) float32, one after another."""
    for site, how in _choices(model, Recipe.of(recipe), sites):
        yield site, decoded_weight(site.read(model), seed=seed, **how)


def packed_weights(
    model: PreTrainedModel, recipe: Recipe | Format | str, *, sites: Iterable[Site] | None = None, seed: int = 0
) -> Iterator[tuple[Site, PackedTensor]]:
    """Every matrix of `model` (or those of `sites`) as it is stored, one after another."""
    for site, how in _choices(model, Recipe.of(recipe), sites):
        yield site, packed_weight(site.read(model), seed=seed, **how)


def _choices(model: PreTrainedModel, recipe: Recipe, sites: Iterable[Site] | None) -> Iterator[tuple[Site, dict[str, Any]]]:
    """What the recipe says of each matrix: format, method, kept columns, and where it is."""
    every = sites_of(model, recipe)
    outliers = Outliers(model, every, lambda name: model.get_parameter(name).detach())
    for site in every if sites is None else sites:
        fmt, method = recipe.choice_for(site)
        kept = outliers.kept_columns(site, fmt)
        where = f"{model.name_or_path or type(model).__name__}, {site.key}"
        yield site, {"fmt": fmt, "method": method, "where": where, "kept_columns": kept}


def rest_values(model: PreTrainedModel, recipe: Recipe) -> Iterator[tuple[str, Tensor]]:
    """Name and values of every parameter that is no matrix, rounded as a checkpoint stores it, in the dtype of the model."""
    for name, tensor in rest(model, sites_of(model, recipe)):
        fmt = rest_format(tensor, recipe)
        if fmt is not None and isinstance(tensor, torch.nn.Parameter):
            yield name, rounded(tensor.detach(), fmt, name).to(tensor.dtype)
