"""Find the matrices of any transformers causal language model: its linear layers, embeddings and output head."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from kbit.errors import ModelError
from kbit.packed import PackedWeight
from kbit.packed.parts import PART_DTYPES

ROLES = ("linear", "embedding", "lm_head", "router")

# Another table of embeddings is one of tokens (Gemma 3n has two) where it is about as long as the first; else it holds positions.
SHARE_OF_VOCABULARY = 0.9


@dataclass(frozen=True)
class Site:
    """One matrix of a model: where it lies and how. Its weights are read and written as w (n_out, n_in), in float32.

    name: the parameter, such as model.layers.0.mlp.down_proj.weight. module: what holds it, such as model.layers.0.mlp.down_proj.
    role: linear, embedding, lm_head (where it is not tied to the embedding), or router (chooses a layer's experts).
    transposed: the parameter is stored as (n_in, n_out): transformers' Conv1D, and the experts of some models.
    expert: its place in a 3-D parameter of n_experts matrices, each of which is a site. aliases: other names of a tied parameter.
    """

    name: str
    module: str
    role: str
    shape: tuple[int, int]
    transposed: bool = False
    expert: int | None = None
    n_experts: int | None = None
    aliases: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The site's own name, under which a checkpoint keeps it: the module, or parameter and number of an expert."""
        return self.module if self.expert is None else f"{self.name}.{self.expert}"

    @property
    def count(self) -> int:
        """The number of weights."""
        return self.shape[0] * self.shape[1]

    def of(self, parameter: Tensor) -> Tensor:
        """This site's (n_out, n_in) view of the whole parameter, in the parameter's dtype."""
        matrix = parameter if self.expert is None else parameter[self.expert]
        return matrix.T if self.transposed else matrix

    def read(self, model: nn.Module) -> Tensor:
        """The weights of `model` here: a float32 copy, (n_out, n_in)."""
        parameter = model.get_parameter(self.name)
        if isinstance(parameter, PackedWeight):
            return self.of(parameter.floats()).float().contiguous()
        return self.of(parameter.detach()).to(torch.float32, copy=True).contiguous()

    def write(self, model: nn.Module, w: Tensor) -> None:
        """Set the weights of `model` here to w (n_out, n_in), rounded to the parameter's dtype; tied layers change alike."""
        assert tuple(w.shape) == self.shape, (self.key, tuple(w.shape), self.shape)
        with torch.no_grad():
            self.of(model.get_parameter(self.name)).copy_(w)


def walk(model: PreTrainedModel) -> list[Site]:
    """Every matrix of `model` that can be quantized, in the order of its parameters, a tied one once; also on the meta device.

    Linear layers are all nn.Linear and transformers' Conv1D modules, and the 3-D parameters of experts. Nothing is known of
    single architectures. Raises ModelError for a large bare parameter whose meaning is not known (see `unknown`).
    """
    sites = [site for site in _sites(model) if site is not None]
    if strange := unknown(model, sites):
        name, shape = next(iter(strange.items()))
        raise ModelError(
            f"{type(model).__name__}, {name}: a bare parameter of shape {shape}; kbit cannot tell its rows from its columns. "
            f"Keep it in 16 bits by a recipe."
        )
    return sites


def walkable(model: PreTrainedModel) -> tuple[list[Site], dict[str, tuple[int, ...]]]:
    """What `walk` finds, and the large bare parameters that it refuses, by name with their shapes: a recipe may keep them."""
    sites = [site for site in _sites(model) if site is not None]
    return sites, unknown(model, sites)


def unknown(model: PreTrainedModel, sites: list[Site]) -> dict[str, tuple[int, ...]]:
    """Bare parameters that are as large as a linear layer and are no site: name -> shape.

    Bare: of two or more dimensions, and in a module of no known kind (embedding, convolution, ...). As large: at least
    hidden size squared weights, which leaves out routers and the decays of state-space models.
    """
    known = {site.name for site in sites}
    least = _table(model).shape[-1] ** 2
    strange = {}
    for name, parameter in model.named_parameters():
        module = model.get_submodule(name.rpartition(".")[0])
        ordinary = type(module).__module__.startswith("torch.nn") or isinstance(module, nn.Embedding | Conv1D)
        if name not in known and not ordinary and parameter.ndim >= 2 and parameter.numel() >= least:
            strange[name] = tuple(parameter.shape)
    return strange


def rest(model: PreTrainedModel, sites: list[Site]) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of all else that a checkpoint stores: norms, biases, positions, buffers that persist; tied ones once."""
    taken = {name + suffix for site in sites for name in (site.name, *site.aliases) for suffix in PART_DTYPES}  # packed or not
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name not in taken and id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, tensor


def check_finite(w: Tensor, where: str) -> None:
    """Raise ModelError where a weight of w (n_out, n_in) is NaN or infinite; `where` names the model and the layer."""
    finite = torch.isfinite(w)
    if not finite.all():
        bad = (~finite).nonzero()
        raise ModelError(
            f"{where}: {len(bad)} of {w.numel()} weights are not finite (first at {bad[0].tolist()}). "
            f"Mend the checkpoint, or keep this layer in 16 bits."
        )


def _sites(model: PreTrainedModel) -> Iterator[Site | None]:
    names = _names_of_parameters(model)
    embedding, head, n_tokens = model.get_input_embeddings(), model.get_output_embeddings(), len(_table(model))
    for name, parameter in model.named_parameters():  # tied ones once, under the first name
        module_name, _, leaf = name.rpartition(".")
        module = model.get_submodule(module_name)
        aliases = tuple(alias for alias in names[id(parameter)] if alias != name)
        holders = [model.get_submodule(alias.rpartition(".")[0]) for alias in (name, *aliases)]
        if leaf == "weight" and parameter.ndim == 2:
            if embedding in holders:
                yield Site(name, module_name, "embedding", _shape(parameter), aliases=aliases)
            elif head is not None and head in holders:
                yield Site(name, module_name, "lm_head", _shape(parameter), aliases=aliases)
            elif isinstance(module, nn.Embedding):
                if len(parameter) >= SHARE_OF_VOCABULARY * n_tokens:
                    yield Site(name, module_name, "embedding", _shape(parameter), aliases=aliases)
            elif isinstance(module, Conv1D):
                yield Site(name, module_name, "linear", _shape(parameter.T), transposed=True, aliases=aliases)
            elif isinstance(module, nn.Linear):
                yield Site(name, module_name, _role(model, module_name, module), _shape(parameter), aliases=aliases)
        elif parameter.ndim == 3 and isinstance(transposed := getattr(module, "is_transposed", None), bool):
            n_experts = len(parameter)
            shape = _shape(parameter[0].T if transposed else parameter[0])
            for expert in range(n_experts):
                yield Site(name, module_name, "linear", shape, transposed, expert, n_experts)


def _role(model: PreTrainedModel, name: str, module: nn.Linear) -> str:
    """A linear layer beside experts with an output for each of them, or with one output, is a router."""
    parent = model.get_submodule(name.rpartition(".")[0])
    sizes = {
        len(parameter)
        for child in parent.children()
        for parameter in child.parameters(recurse=False)
        if parameter.ndim == 3 and hasattr(child, "is_transposed")
    } | {len(child) for child in parent.children() if isinstance(child, nn.ModuleList)}
    return "router" if sizes and module.out_features in sizes | {1} else "linear"


def _table(model: PreTrainedModel) -> Tensor:
    """The embedding of the tokens, (vocabulary, hidden)."""
    try:
        table = model.get_input_embeddings().weight
    except (AttributeError, NotImplementedError):  # what transformers' own method raises where a model has none
        raise ModelError(f"{type(model).__name__}: it has no table of token embeddings, so kbit cannot quantize it.") from None
    assert isinstance(table, Tensor)
    return table


def _shape(matrix: Tensor) -> tuple[int, int]:
    n_out, n_in = matrix.shape
    return n_out, n_in


def _names_of_parameters(model: nn.Module) -> Mapping[int, list[str]]:
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return names
