"""prepare_qat and convert: from a model to one that trains under its quantizers, and from there to packed weights."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from kbit.errors import FormatError, ModelError
from kbit.formats import Format
from kbit.methods import choose
from kbit.models import Site, check_finite, dequantized, packed_layers, rest
from kbit.packed import PackedTensor
from kbit.packed.packed_tensor import keep, pack
from kbit.qat.activations import carry_over, quantize_inputs
from kbit.qat.weights import ExpertsQuantizer, Rounded, WeightQuantizer
from kbit.recipes import Recipe, hold, total_bits
from kbit.recipes.bits import rest_format, sites_of
from kbit.recipes.outliers import Outliers

METHOD = "rtn-mse"  # what the scales start from: the least squared error
QAT = "qat"  # what stands for training among the methods of a study
AnyModule = TypeVar("AnyModule", bound=nn.Module)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Prepared:
    """What `prepare_qat` did to a model: its recipe, and the sites that have a quantizer."""

    recipe: Recipe
    sites: tuple[Site, ...]
    rest: tuple[str, ...] = field(default=())  # parameters that are rounded to 16 bits


def prepare_qat(
    model: AnyModule, recipe: Recipe | Format | str, *, activations: Format | str | None = None, learning: str = "pact"
) -> AnyModule:
    """A new model that computes with the weights that `recipe` will store, and trains through them; the first is untouched.

    model: a causal language model, whose matrices are found as `quantize` finds them, and whose other parameters are rounded to
    16 bits as a checkpoint stores them; or any other module, whose linear layers, convolutions and embeddings are quantized.
    recipe: a format stands for a recipe with the scales of least squared error (rtn-mse). Scales are parameters, and learn.
    activations: a format for the inputs of the quantized linear layers, int of granularity tensor (whose range learns as
    `learning` says, pact or lsq) or token.
    Raises FormatError where nothing is quantized, or the recipe does not fit the model.
    """
    wanted = recipe if isinstance(recipe, Recipe) else Recipe.of(recipe, METHOD)
    if wanted.integers is not None:
        raise FormatError("recipe: a model of integers alone is trained by qat_fixed_point, or kbit qat --fixed-point. Use that.")
    model = dequantized(deepcopy(model)) if packed_layers(model) else deepcopy(model)
    sites = find_sites(model, wanted)
    if all(wanted.choice_for(site)[0].is_float for site in sites):
        raise FormatError(
            f"recipe: it quantizes no layer of {type(model).__name__}, so there is nothing to train. Name a k-bit format."
        )
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(True)
    others = []
    if isinstance(model, PreTrainedModel):
        vars(model).update(kbit_recipe=wanted, kbit_bits=total_bits(model, wanted))
        for name, tensor in list(rest(model, sites)):
            fmt = rest_format(tensor, wanted)
            if fmt is not None and isinstance(tensor, nn.Parameter):
                others.append((name, fmt))
    quantizers = list(make_quantizers(model, sites, wanted))
    for names, quantizer in quantizers:
        for name in names:
            attach(model, name, quantizer)
    for name, fmt in others:
        attach(model, name, Rounded(fmt))
    if activations is not None:
        layers = [site for site in sites if site.role == "linear" and not wanted.choice_for(site)[0].is_float]
        holders = [name.rpartition(".")[0] for site in layers if site.expert is None for name in (site.name, *site.aliases)]
        fmt = Format.parse(activations) if isinstance(activations, str) else activations
        quantize_inputs(model, list(dict.fromkeys(holders)), fmt, learning)
    vars(model)["kbit_qat"] = Prepared(wanted, tuple(sites), tuple(name for name, _ in others))
    return model


def find_sites(model: nn.Module, recipe: Recipe) -> list[Site]:
    """The matrices of a causal language model, or of any other module: its linear layers, convolutions and embeddings."""
    if isinstance(model, PreTrainedModel) and model.get_input_embeddings() is not None:
        return sites_of(model, recipe)
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    sites = []
    for name, parameter in model.named_parameters():
        module_name, _, leaf = name.rpartition(".")
        module = model.get_submodule(module_name)
        if leaf != "weight" or not isinstance(module, nn.Linear | nn.Embedding | Conv1D | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            continue
        role = "embedding" if isinstance(module, nn.Embedding) else "linear"
        transposed = isinstance(module, Conv1D)
        n_out, n_in = (parameter.T if transposed else parameter.flatten(1)).shape
        aliases = tuple(alias for alias in names[id(parameter)] if alias != name)
        sites.append(Site(name, module_name, role, (n_out, n_in), transposed, aliases=aliases))
    if not sites:
        raise ModelError(f"{type(model).__name__}: it has no linear layer, convolution or embedding to quantize.")
    recipe.check(sites)
    return sites


def make_quantizers(model: nn.Module, sites: list[Site], recipe: Recipe) -> Iterator[tuple[list[str], nn.Module]]:
    """The names of each parameter that is quantized, or rounded, and what does it."""
    outliers = Outliers(model, sites, lambda name: model.get_parameter(name).detach())  # type: ignore[arg-type]
    by_name: dict[str, list[Site]] = {}
    for site in sites:
        by_name.setdefault(site.name, []).append(site)
    for name, group in by_name.items():
        parameter = model.get_parameter(name).detach()
        made: list[nn.Module] = []
        for site in group:
            fmt, method = recipe.choice_for(site)
            w = (
                (site.of(parameter) if parameter.ndim == 3 and site.expert is not None else _matrix(site, parameter))
                .float()
                .cpu()
            )
            check_finite(w, f"{type(model).__name__}, {site.key}")
            if fmt.is_float:
                made.append(Rounded(fmt))
            else:
                start = choose(method, w, fmt, kept_columns=outliers.kept_columns(site, fmt))
                made.append(WeightQuantizer(start, transposed=site.transposed).to(parameter.device))
        quantizer = made[0] if group[0].expert is None else ExpertsQuantizer(made)  # type: ignore[arg-type]
        yield [name, *group[0].aliases], quantizer


def _matrix(site: Site, parameter: Tensor) -> Tensor:
    return parameter.T if site.transposed else parameter.flatten(1)


def attach(model: nn.Module, name: str, quantizer: nn.Module) -> None:
    """Let the parameter `name` be seen through `quantizer`."""
    module_name, _, leaf = name.rpartition(".")
    parametrize.register_parametrization(model.get_submodule(module_name), leaf, quantizer, unsafe=True)


def detach(model: nn.Module, name: str) -> tuple[nn.Module, nn.Parameter]:
    """Undo `attach`: the quantizer, and the parameter that it stood before."""
    module_name, _, leaf = name.rpartition(".")
    module: Any = model.get_submodule(module_name)
    kind = type(module)  # made by torch for this module, and shared by its copies: take nothing from those
    module.__class__ = type(kind.__name__, kind.__bases__, dict(vars(kind)))
    quantizer = module.parametrizations[leaf][0]
    parametrize.remove_parametrizations(module, leaf, leave_parametrized=False)
    return quantizer, getattr(module, leaf)


@torch.no_grad()
def convert(model: AnyModule) -> AnyModule:
    """A new model that holds the packed bits; its outputs are those of `model` in evaluation mode, to float32 rounding.

    Linear layers and embeddings become kbit's modules; convolutions, and experts that share a parameter, hold the dequantized
    weights. Raises ModelError where the model was not prepared.
    """
    prepared: Prepared | None = vars(model).get("kbit_qat")
    if prepared is None:
        raise ModelError(f"{type(model).__name__}: it was not prepared for training. Call prepare_qat first.")
    small = deepcopy(model)
    for site, packed in converted_weights(small):
        target = small.get_parameter(site.name)
        names = [name.rpartition(".")[0] for name in (site.name, *site.aliases)]
        layers = [small.get_submodule(name) for name in names]
        if site.expert is None and target.ndim > 2:  # a convolution: nothing multiplies its bits yet
            target.copy_(packed.dequantize().view_as(target))
        else:
            hold(small, site, packed)  # type: ignore[arg-type]
        for name, layer in zip(names, layers, strict=True):
            carry_over(layer, small.get_submodule(name))
    del vars(small)["kbit_qat"]
    for parameter in small.parameters():
        parameter.requires_grad_(False)
    return small.eval()


def converted_weights(model: nn.Module) -> Iterator[tuple[Site, PackedTensor]]:
    """Take the quantizers off `model`, and give each matrix as it is stored; what stays in 16 bits is rounded in its place."""
    prepared: Prepared = vars(model)["kbit_qat"]
    for name in prepared.rest:
        rounding, parameter = detach(model, name)
        parameter.copy_(rounding(parameter))
    by_name: dict[str, list[Site]] = {}
    for site in prepared.sites:
        by_name.setdefault(site.name, []).append(site)
    for name, group in by_name.items():
        for alias in group[0].aliases:
            detach(model, alias)
        quantizer, parameter = detach(model, name)
        for site in group:
            own: Any = quantizer.experts[site.expert] if isinstance(quantizer, ExpertsQuantizer) else quantizer  # type: ignore[index]
            part = parameter if site.expert is None else parameter[site.expert]
            if isinstance(own, Rounded):
                yield site, keep(_matrix(site, own(part)), own.fmt)
            else:
                yield site, pack(own.encode(part))
