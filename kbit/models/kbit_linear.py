"""Linear layers and embeddings over packed weights, in the place of those that transformers built."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from kbit.errors import CheckpointError, ModelError
from kbit.models.walk import Site
from kbit.packed import COMPUTE, PackedTensor, PackedWeight, part_sizes
from kbit.packed.packed_weight import look_up

AnyModule = TypeVar("AnyModule", bound=nn.Module)
LINEARS = ("Linear", "KbitLinear", "FalconLinear")  # Falcon's writes x @ w.T + bias out; other subclasses do things of their own


class Packed(nn.Module):
    """What both have in common: `weight`, a PackedWeight parameter, and a state that is the stored parts themselves.

    The state of a layer is named as in a checkpoint: weight (the codes, bytes of one dimension), weight_scale, ... So what reads
    a state without kbit meets bytes of another shape and fails, and never takes them for weights.
    """

    weight: Any  # an nn.Parameter that is a PackedWeight; torch's modules call it a Tensor
    packed: PackedTensor

    def hold(self, weight: PackedWeight) -> None:
        """Take `weight` as this layer's; two layers that hold one are tied."""
        self.weight = weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight, requires_grad=False)
        self.packed = weight.packed

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        moved = super()._apply(fn, recurse)
        self.packed = self.weight.packed
        return moved

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        del destination[prefix + "weight"]
        destination.update({f"{prefix}weight{suffix}": part for suffix, part in self.packed.parts().items()})

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *how: Any) -> None:
        """Take the parts from `state` where it has them all, of the right sizes and with numbers that a packer writes."""
        fmt, shape = self.packed.fmt, self.packed.shape
        metadata, strict, missing, surplus, errors = how
        names = {suffix: f"{prefix}weight{suffix}" for suffix in part_sizes(fmt, shape)}
        absent = [name for name in names.values() if name not in state]
        if not absent:
            try:
                packed = PackedTensor.from_parts(fmt, shape, {suffix: state[name] for suffix, name in names.items()})
                packed.check_numbers()
                self.hold(PackedWeight(packed, self.weight.dtype))
            except CheckpointError as error:
                errors.append(f"{prefix}weight: {error}")
        others = {name: value for name, value in state.items() if name not in names.values()}
        lacking: list[str] = []
        super()._load_from_state_dict(others, prefix, metadata, strict, lacking, surplus, errors)
        missing += absent + [name for name in lacking if name != f"{prefix}weight"]


class KbitLinear(Packed, nn.Linear):
    """y = x w^T + bias with a packed w (n_out, n_in).

    compute: "exact" or "int8", as PackedTensor.matmul has them. replaced: the class of the module in whose place it stands.
    """

    def __init__(
        self, weight: PackedWeight, bias: Any = None, *, compute: str = "exact", replaced: type[nn.Module] = nn.Linear
    ) -> None:
        nn.Module.__init__(self)  # nn.Linear's own would make a float matrix first
        self.hold(weight)
        self.out_features, self.in_features = weight.packed.shape
        self.bias = nn.Parameter(bias) if isinstance(bias, Tensor) and not isinstance(bias, nn.Parameter) else bias
        self.compute = compute
        self.replaced = replaced

    def forward(self, x: Tensor) -> Tensor:
        """x (..., n_in): (..., n_out), in the dtype of x."""
        y = self.packed.matmul(x, self.compute)
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        """Sizes, format and arithmetic."""
        return f"{super().extra_repr()}, format={self.packed.fmt}, compute={self.compute}"


class KbitEmbedding(Packed, nn.Embedding):
    """Rows of a packed table (n, n_in): those asked for are dequantized, and no others."""

    def __init__(self, weight: PackedWeight, padding_idx: int | None = None) -> None:
        nn.Module.__init__(self)
        self.hold(weight)
        self.num_embeddings, self.embedding_dim = weight.packed.shape
        self.padding_idx, self.max_norm, self.norm_type = padding_idx, None, 2.0
        self.scale_grad_by_freq = self.sparse = False

    def forward(self, ids: Tensor) -> Tensor:
        """ids (...): (..., n_in), in the dtype of the weight."""
        return look_up(self.packed, ids).to(self.weight.dtype)

    def extra_repr(self) -> str:
        """Sizes and format."""
        return f"{super().extra_repr()}, format={self.packed.fmt}"


def packable(site: Site) -> bool:
    """Whether `site` can hold packed weights: a weight of its own can, an expert, which is a part of a parameter, cannot."""
    return site.expert is None


def install(model: nn.Module, site: Site, packed: PackedTensor) -> None:
    """Let `model` hold `packed` at `site` and wherever that is tied, in modules of kbit's."""
    weight: Any = None
    for name in _holders(site):
        if weight is None:
            dtype = model.get_parameter(site.name).dtype
            weight = nn.Parameter(PackedWeight(packed, dtype), requires_grad=False)
        replace(model, name, weight)


def set_floats(model: nn.Module, site: Site, w: Tensor) -> None:
    """Let `model` hold the floats w (n_out, n_in) at `site`, in modules of torch's own where it held packed weights."""
    weight = model.get_parameter(site.name)
    if not isinstance(weight, PackedWeight):
        site.write(model, w)
        return
    parameter = nn.Parameter(w.to(weight.dtype).contiguous(), requires_grad=False)
    for name in _holders(site):
        unpack(model, name, parameter)


def replace(model: nn.Module, name: str, weight: PackedWeight) -> None:
    """Put a module of kbit's that holds `weight` where the module `name` stands, with its bias and its mode.

    A subclass with a forward of its own (an embedding that scales its rows) stays, and holds the weight.
    """
    module: Any = model.get_submodule(name)
    if weight.transposed:
        weight = PackedWeight(weight.packed, weight.dtype)
    kind = _kind(module)
    new: nn.Module
    if kind is KbitLinear:
        replaced = getattr(module, "replaced", type(module))
        new = KbitLinear(weight, module.bias, compute=getattr(module, "compute", "exact"), replaced=replaced)
    elif kind is KbitEmbedding:
        new = KbitEmbedding(weight, module.padding_idx)
    else:
        module.weight = weight
        return
    _put(model, name, new)


def replace_all(model: nn.Module) -> None:
    """Put modules of kbit's wherever `model` holds a PackedWeight; ties stay."""
    for name, module in list(model.named_modules()):
        if isinstance(weight := getattr(module, "weight", None), PackedWeight):
            replace(model, name, weight)


def packed_layers(model: nn.Module) -> list[Packed]:
    """The layers of `model` that hold packed weights."""
    return [module for module in model.modules() if isinstance(module, Packed)]


@contextmanager
def computing(model: nn.Module, compute: str) -> Iterator[None]:
    """Let the packed linear layers of `model` multiply in `compute` for a while.

    Raises ModelError where it is int8 and no layer is packed: 16-bit weights are not multiplied in integers.
    """
    if compute not in COMPUTE:
        raise ModelError(f"compute '{compute}' is not to be had. Write {' or '.join(COMPUTE)}.")
    layers = [module for module in model.modules() if isinstance(module, KbitLinear)]
    if compute != "exact" and not layers:
        name = getattr(model, "name_or_path", "") or type(model).__name__
        raise ModelError(
            f"{name}: no layer is packed, so none can compute in {compute}. Take a kbit checkpoint, or quantize it: --format, or "
            f"packed=True in Python."
        )
    before = [layer.compute for layer in layers]
    for layer in layers:
        layer.compute = compute
    try:
        yield
    finally:
        for layer, word in zip(layers, before, strict=True):
            layer.compute = word


def dequantized(model: AnyModule) -> AnyModule:
    """`model` itself with floats in the place of all packed weights, in the modules that were there before, tied as they were."""
    floats: dict[int, nn.Parameter] = {}
    for name, module in list(model.named_modules()):
        if isinstance(weight := getattr(module, "weight", None), PackedWeight):
            if id(weight) not in floats:
                floats[id(weight)] = nn.Parameter(weight.floats().contiguous(), requires_grad=False)
            unpack(model, name, floats[id(weight)])
    return model


def unpack(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Put back the module that stood at `name` before `replace`, with the floats `parameter` (n_out, n_in)."""
    module = model.get_submodule(name)
    if not isinstance(module, Packed):
        module.weight = parameter
        return
    n_out, n_in = module.packed.shape
    new: Any
    with torch.device("meta"):  # without memory for a weight that is replaced at once
        if isinstance(module, KbitEmbedding):
            new = nn.Embedding(n_out, n_in, padding_idx=module.padding_idx)
        else:
            assert isinstance(module, KbitLinear)
            made: Any = module.replaced
            new = Conv1D(n_out, n_in) if made is Conv1D else made(n_in, n_out, module.bias is not None)
            new.bias = module.bias
    new.weight = nn.Parameter(parameter.T.contiguous(), requires_grad=False) if isinstance(new, Conv1D) else parameter
    _put(model, name, new)


def _put(model: nn.Module, name: str, new: nn.Module) -> None:
    """`new` where the module `name` is, in its mode."""
    new.train(model.get_submodule(name).training)
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, new)


def _holders(site: Site) -> list[str]:
    return [name.rpartition(".")[0] for name in (site.name, *site.aliases)]


def _kind(module: nn.Module) -> type[Packed] | None:
    """What takes the module's place; None where it is one that kbit does not know."""
    if type(module) is Conv1D or (isinstance(module, nn.Linear) and type(module).__name__ in LINEARS):
        return KbitLinear
    return KbitEmbedding if type(module) in (nn.Embedding, KbitEmbedding) and module.max_norm is None else None
