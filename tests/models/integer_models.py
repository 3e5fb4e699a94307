"""Tiny models of integers, of every kind that has integers, and what they are held against in floating point."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from typing import Any

import torch
from torch import Tensor

from kbit.models.integer_blueprint import Blueprint
from kbit.recipes import Converted, FixedPoint, convert, fixed_point_recipe
from tests.tiny_models import VOCABULARY, tiny_model, tiny_tokenizer

# name -> (the tiny model, what is changed about it)
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-tied": ("llama-tied", {}),
    "llama-ragged": ("llama-ragged", {}),  # biases; nothing divides anything
    "mistral": ("mistral", {}),
    "qwen2": ("qwen2", {}),  # biases of q, k and v
    "qwen3": ("qwen3", {}),  # norms of heads
    "llama-yarn": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
    ),
    "gpt2": ("gpt2", {}),
    "gpt2-quick": ("gpt2", {"activation_function": "quick_gelu", "scale_attn_by_inverse_layer_idx": True}),
    "gpt_neox": ("gpt_neox", {}),
    "gpt_neox-serial": ("gpt_neox", {"use_parallel_residual": False, "hidden_act": "gelu_new"}),
}
TEXT = "The morning was bright, and the people of the town went down to the river to see the boats come in. " * 4


def tiny_of(kind: str, **changes: Any) -> Any:
    """The transformers model of a kind of KINDS."""
    name, settings = KINDS[kind]
    return tiny_model(name, **{**settings, **changes})


@cache
def converted(kind: str, weights: int = 8, activations: int = 8, **settings: Any) -> Converted:
    """A tiny model as integers, without migration unless asked for; made once for all tests, not to be changed."""
    recipe = fixed_point_recipe(weights, FixedPoint(activations, **{"smooth": 0.0, **settings}))
    return convert(tiny_of(kind), recipe, TEXT, tokenizer=tiny_tokenizer())


def ids_of(batch: int = 2, n: int = 40, seed: int = 0) -> Tensor:
    """Token ids (batch, n)."""
    return torch.randint(VOCABULARY, (batch, n), generator=torch.Generator().manual_seed(seed))


def doubled(blueprint: Blueprint) -> Blueprint:
    """The blueprint in float64."""
    copy = deepcopy(blueprint)
    norms = [copy.norm]
    for layer in copy.layers:
        norms += [layer.attention_norm, layer.mlp_norm]
        norms += [norm for norm in (layer.attention.q_norm, layer.attention.k_norm) if norm]
    for part in (*norms, *copy.linears(), copy.embedding, copy.head):
        part.weight = part.weight.double()
        part.bias = None if part.bias is None else part.bias.double()
    copy.table = None if copy.table is None else copy.table.double()
    return copy


def rounding(k: int) -> Callable[[str, Tensor], Tensor]:
    """What quantization is defined to do to the values of each place: codes of k bits with a step a row, of 8 in attention."""

    def see(place: str, values: Tensor) -> Tensor:
        name = place.rpartition(".")[2]
        if name in ("attention", "mixed", "mlp", "inner"):
            return rounded(values, k)
        return rounded(values, 8) if name in ("queries", "keys", "values", "head") else values

    return see


def rounded(x: Tensor, k: int) -> Tensor:
    """Nearest of the 2^k - 1 levels between -max and max of each row."""
    steps = 2 ** (k - 1) - 1
    peak = x.abs().amax(-1, keepdim=True)
    return (x / torch.where(peak > 0, peak, 1) * steps).round() / steps * peak


def distance(a: Tensor, b: Tensor) -> float:
    """Root mean square of a - b over the standard deviation of b."""
    return float((a.double() - b.double()).square().mean().sqrt() / b.double().std())
