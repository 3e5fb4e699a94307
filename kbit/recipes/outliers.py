"""The outlier proxy of the k-bit paper: which input features of a layer stay in 16 bits under -oN.

A feature is kept where the weights that *produce* it have the largest standard deviation (Dettmers and Zettlemoyer 2023). The
rows of up (times gate) produce the input of an MLP's second layer, the rows of v that of an attention's output layer, a row of v
once for each query head that shares it. Everything else is fed by a norm or by the residual stream, where no single row stands
for a feature: there the standard deviation of the layer's own columns decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kbit.formats import Format
from kbit.models import Site, architecture

Read = Callable[[str], Tensor]  # a parameter, by its name

# Attention is told by these names, since its layers have no order of their own. Fused: rows of q, k and v in one matrix.
QUERY_KEY = ("q_proj", "k_proj", "query", "key", "q", "k")
VALUE = ("v_proj", "value", "v")
FUSED = ("c_attn", "qkv_proj", "Wqkv")  # all of q, then k, then v
FUSED_BY_HEAD = ("query_key_value",)  # for each key-value head its queries, its key, its value
MOST_FACTORS = 2  # an MLP multiplies at most a gate with an up projection


@dataclass(frozen=True)
class Producer:
    """Rows of another layer that make the input features of this one: feature j comes from row rows[j]."""

    site: Site
    rows: Tensor


class Outliers:
    """Chooses the kept columns of a model's layers. Deviations are kept, so that each parameter is read once more at most."""

    def __init__(self, model: PreTrainedModel, sites: Iterable[Site], read: Read) -> None:
        """model: may be on the meta device; the weights come from `read`."""
        self._model, self._sites, self._read = model, list(sites), read
        self._deviations: dict[str, Tensor] = {}

    def kept_columns(self, site: Site, fmt: Format) -> Tensor | None:
        """The columns of `site` that fmt keeps in 16 bits, int32 ascending; None where its own decide, or none is kept.

        Of equal deviations the first columns are kept.
        """
        if not fmt.kept_percent or not (found := producers(site, self._model, self._sites)):
            return None
        deviation = torch.stack([self._of_rows(producer.site)[producer.rows] for producer in found]).prod(0)
        order = deviation.sort(descending=True, stable=True).indices
        return order[: fmt.n_kept(site.shape[1])].sort().values.int()

    def _of_rows(self, site: Site) -> Tensor:
        """The standard deviation of each row of `site`; all experts of a parameter at once, since they are read at once."""
        if site.key not in self._deviations:
            parameter = self._read(site.name)
            for each in self._sites:
                if each.name == site.name:
                    self._deviations[each.key] = each.of(parameter).float().std(1, correction=0)
        return self._deviations[site.key]


def producers(site: Site, model: PreTrainedModel, sites: Iterable[Site]) -> list[Producer]:
    """The layers whose rows make the input features of `site`, with the rows; several are multiplied."""
    parent, leaf = _place(site)
    if site.role != "linear" or _norm_between(model.get_submodule(parent), site.shape[1]):
        return []
    beside = {
        _place(other)[1]: other
        for other in sites
        if other.role == "linear" and other.expert == site.expert and _place(other)[0] == parent
    }
    values = [name for name in beside if name in (*VALUE, *FUSED, *FUSED_BY_HEAD)]
    if not values:
        return _mlp_rows(site, list(beside.values()), model, model.get_submodule(parent))
    return [] if leaf in (*values, *QUERY_KEY) else _value_rows(site, beside[values[0]], values[0], model)


def _place(site: Site) -> tuple[str, str]:
    """The module around a layer and the layer's name in it; for an expert, the module of all experts and the parameter's name."""
    parent, _, leaf = (site.module if site.expert is None else site.name).rpartition(".")
    return parent, leaf


def _value_rows(site: Site, value: Site, name: str, model: PreTrainedModel) -> list[Producer]:
    """Feature (head, d) of the output layer comes from row (key-value head of that head, d) of v."""
    sizes = architecture(model.config)
    heads, kv_heads, head_dim = sizes["heads"], sizes["kv_heads"], sizes["head_dim"]
    group = heads // kv_heads
    rows = torch.arange(value.shape[0])
    if name in FUSED:
        rows = rows[-kv_heads * head_dim :]
    elif name in FUSED_BY_HEAD and len(rows) == kv_heads * (group + 2) * head_dim:
        rows = rows.view(kv_heads, group + 2, head_dim)[:, -1].flatten()
    if len(rows) != kv_heads * head_dim or site.shape[1] != kv_heads * group * head_dim:
        return []
    return [Producer(value, rows.view(kv_heads, 1, head_dim).expand(-1, group, -1).flatten())]


def _mlp_rows(site: Site, beside: list[Site], model: PreTrainedModel, module: nn.Module) -> list[Producer]:
    """For the layer back to the hidden size: those beside it from there to what it takes, or to twice that (gate and up)."""
    n_out, n_in = site.shape
    if n_out != architecture(model.config)["hidden"]:
        return []
    rows = torch.arange(n_in)
    if n_in == n_out:  # the shapes do not tell which comes first, so the order of the modules must
        beside = beside[: beside.index(site)] if beside[-1] == site else []
    whole = [other for other in beside if other != site and other.shape == (n_in, n_out)]
    if whole:
        return [Producer(other, rows) for other in whole] if len(whole) <= MOST_FACTORS else []
    fused = [other for other in beside if other.shape == (2 * n_in, n_out)]
    if len(fused) != 1:
        return []
    if getattr(module, "is_concatenated", True):
        return [Producer(fused[0], rows), Producer(fused[0], n_in + rows)]
    return [Producer(fused[0], 2 * rows), Producer(fused[0], 2 * rows + 1)]


def _norm_between(module: nn.Module, n_in: int) -> bool:
    """Whether a norm over this layer's input stands beside it (BitNet's); those of q and k alone do not count."""
    return any(
        "norm" in name and not name.startswith(("q_", "k_")) and weight.shape == (n_in,)
        for name, child in module.named_children()
        for weight in child.parameters(recurse=False)
    )
