"""How large a model is: its parameters, and the sizes in its configuration that decide memory at run time."""

from __future__ import annotations

from typing import TypedDict

from transformers import PretrainedConfig, PreTrainedModel

from kbit.errors import ModelError
from kbit.models.walk import walkable

BYTES_OF_16_BITS = 2


class Architecture(TypedDict):
    """Sizes of a model. kv_bytes_per_token: keys and values of one token in all layers, at 16 bits."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int
    kv_bytes_per_token: int


def parameters(model: PreTrainedModel) -> int:
    """The number of all parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def parameters_linear(model: PreTrainedModel) -> int:
    """The number of weights in the quantizable linear layers: neither embeddings, output head nor routers."""
    return sum(site.count for site in walkable(model)[0] if site.role == "linear")


def architecture(config: PretrainedConfig) -> Architecture:
    """The sizes that `config` states, under whichever name its kind of model has for them.

    intermediate defaults to 4 * hidden, as GPT-2, GPT-J, BLOOM and Falcon have it where they state none; context to 2048
    for models without a limit (BLOOM).
    """
    text = config.get_text_config(decoder=True)

    def size(default: int | None, *names: str) -> int:
        for name in names:
            if isinstance(value := getattr(text, name, None), int) and not isinstance(value, bool):
                return value
        if default is None:
            raise ModelError(f"{type(text).__name__}: it states no {names[0]}, so this is no language model that kbit can size.")
        return default

    layers = size(None, "num_hidden_layers", "n_layer", "num_layers")
    hidden = size(None, "hidden_size", "n_embd", "d_model")
    heads = size(1, "num_attention_heads", "n_head", "num_heads")
    kv_heads = size(heads, "num_key_value_heads", "num_kv_heads")
    if getattr(text, "multi_query", False) and not getattr(text, "new_decoder_architecture", False):
        kv_heads = 1  # Falcon and GPT-BigCode
    head_dim = size(hidden // heads, "head_dim")
    return Architecture(
        layers=layers,
        hidden=hidden,
        intermediate=size(4 * hidden, "intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=size(None, "vocab_size"),
        context=size(2048, "max_position_embeddings", "n_positions", "n_ctx", "seq_length"),
        kv_bytes_per_token=2 * layers * kv_heads * head_dim * BYTES_OF_16_BITS,
    )
