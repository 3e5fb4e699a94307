"""Sizes of models under every name that configurations have for them."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig

from kbit.errors import ModelError
from kbit.models import architecture, parameters, parameters_linear
from tests.tiny_models import TINY, tiny_model

# layers, hidden, intermediate, heads, kv_heads, head_dim, vocabulary, context: from the models' published descriptions.
PUBLISHED = {
    "gpt2": (12, 768, 3072, 12, 12, 64, 50257, 1024),
    "gpt_neox": (44, 6144, 24576, 64, 64, 96, 50432, 2048),  # GPT-NeoX-20B
    "opt": (12, 768, 3072, 12, 12, 64, 50272, 2048),  # OPT-125M
    "falcon": (32, 4544, 18176, 71, 1, 64, 65024, 2048),  # Falcon-7B
    "mistral": (32, 4096, 14336, 32, 8, 128, 32000, 131072),  # Mistral-7B
    "gemma2": (26, 2304, 9216, 8, 4, 256, 256000, 8192),  # Gemma-2-2B
}


@pytest.mark.parametrize("model_type", PUBLISHED)
def test_sizes_of_published_models(model_type):
    found = architecture(AutoConfig.for_model(model_type))
    assert tuple(found.values())[:8] == PUBLISHED[model_type]


@pytest.mark.parametrize("name", TINY)
def test_kv_bytes_are_those_of_the_cache(name):
    model = tiny_model(name)
    cache = model(torch.arange(7)[None], use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert 7 * architecture(model.config)["kv_bytes_per_token"] == held / 2  # float32 there, 16 bits here


@pytest.mark.parametrize(
    ("name", "linear", "total"),
    [
        # 2 blocks of (32 + 16 + 16 + 32) * 32 + 3 * 48 * 32; two tables of 258 * 32; 5 norms of 32
        ("llama", 2 * (96 * 32 + 3 * 48 * 32), 2 * (96 * 32 + 3 * 48 * 32) + 2 * 258 * 32 + 5 * 32),
        ("llama-tied", 2 * (96 * 32 + 3 * 48 * 32), 2 * (96 * 32 + 3 * 48 * 32) + 258 * 32 + 5 * 32),
    ],
)
def test_parameters_count_tied_ones_once(name, linear, total):
    assert (parameters_linear(tiny_model(name)), parameters(tiny_model(name))) == (linear, total)


def test_a_configuration_without_layers_is_refused():
    with pytest.raises(ModelError, match="it states no num_hidden_layers"):
        architecture(AutoConfig.for_model("timm_backbone"))
