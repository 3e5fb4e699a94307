"""The walker finds every matrix of every kind of model, once, with rows as outputs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kbit.errors import ModelError
from kbit.models import check_finite, parameters, rest, walk, walkable
from tests.tiny_models import HIDDEN, LAYERS, TINY, VOCABULARY, tiny_model

# Linear layers in one block, written down from each architecture's paper or code, not from kbit: (n_out, n_in) by name.
BLOCKS = {
    "llama": {"q_proj": (32, 32), "k_proj": (16, 32), "v_proj": (16, 32), "o_proj": (32, 32)}
    | {"gate_proj": (48, 32), "up_proj": (48, 32), "down_proj": (32, 48)},
    "gpt2": {"attn.c_attn": (96, 32), "attn.c_proj": (32, 32), "mlp.c_fc": (128, 32), "mlp.c_proj": (32, 128)},
    "gpt_neox": {"query_key_value": (96, 32), "attention.dense": (32, 32)}
    | {"dense_h_to_4h": (48, 32), "dense_4h_to_h": (32, 48)},
    "opt": {"k_proj": (32, 32), "v_proj": (32, 32), "q_proj": (32, 32), "out_proj": (32, 32), "fc1": (48, 32), "fc2": (32, 48)},
    "bloom": {"query_key_value": (96, 32), "self_attention.dense": (32, 32)}
    | {"dense_h_to_4h": (128, 32), "dense_4h_to_h": (32, 128)},
    "qwen3": {"q_proj": (64, 32), "k_proj": (32, 32), "v_proj": (32, 32), "o_proj": (32, 64)}
    | {"gate_proj": (48, 32), "up_proj": (48, 32), "down_proj": (32, 48)},
    "phi3": {"qkv_proj": (64, 32), "o_proj": (32, 32), "gate_up_proj": (96, 32), "down_proj": (32, 48)},
    "mixtral": {"q_proj": (32, 32), "k_proj": (16, 32), "v_proj": (16, 32), "o_proj": (32, 32)}
    | {f"experts.gate_up_proj.{expert}": (96, 32) for expert in range(4)}
    | {f"experts.down_proj.{expert}": (32, 48) for expert in range(4)},
    "gpt_oss": {"q_proj": (32, 32), "k_proj": (16, 32), "v_proj": (16, 32), "o_proj": (32, 32)}
    | {f"experts.gate_up_proj.{expert}": (96, 32) for expert in range(4)}
    | {f"experts.down_proj.{expert}": (32, 48) for expert in range(4)},
}
TIED = {"llama-tied", "gpt2", "opt", "bloom", "falcon", "qwen2", "gemma2", "gemma3"}


@pytest.mark.parametrize("name", BLOCKS)
def test_the_linear_layers_of_a_block_are_those_of_the_architecture(name):
    linear = [site for site in walk(tiny_model(name)) if site.role == "linear"]
    for layer in range(LAYERS):
        block = {site.key: site.shape for site in linear if f".{layer}." in site.key.split("experts")[0]}
        assert len(block) == len(BLOCKS[name])
        for suffix, shape in BLOCKS[name].items():
            assert [found for key, found in block.items() if key.endswith(suffix)] == [shape]
    assert len(linear) == LAYERS * len(BLOCKS[name])


@pytest.mark.parametrize("name", TINY)
def test_every_parameter_is_a_matrix_or_the_rest_once(name):
    model = tiny_model(name)
    sites = walk(model)
    assert len({site.key for site in sites}) == len(sites)
    in_sites = sum(site.count for site in sites)
    in_rest = sum(tensor.numel() for _, tensor in rest(model, sites) if isinstance(tensor, nn.Parameter))
    assert in_sites + in_rest == parameters(model)


@pytest.mark.parametrize("name", TINY)
def test_the_meta_device_shows_the_same_sites(name):
    model = tiny_model(name)
    with torch.device("meta"):
        empty = type(model)(model.config)
    assert walk(empty) == walk(model)


@pytest.mark.parametrize("name", TINY)
def test_a_tied_head_is_one_site_with_its_other_name(name):
    ends = [site for site in walk(tiny_model(name)) if site.role in ("embedding", "lm_head")]
    hidden = 36 if name == "llama-ragged" else HIDDEN
    assert [site.shape for site in ends] == [(VOCABULARY, hidden)] * len(ends)
    assert [site.role for site in ends] == (["embedding"] if name in TIED else ["embedding", "lm_head"])
    assert len(ends[0].aliases) == (name in TIED)


@pytest.mark.parametrize("name", TINY)
def test_what_is_written_is_read_and_is_what_the_layer_multiplies_by(name):
    model = tiny_model(name)
    for site in walk(model):
        w = torch.randn(site.shape)
        site.write(model, w)
        assert torch.equal(site.read(model), w)
        module = model.get_submodule(site.module)
        if site.role in ("linear", "router") and site.expert is None:
            x = torch.randn(3, site.shape[1])
            bias = 0 if module.bias is None else module.bias
            torch.testing.assert_close(module(x), x @ w.T + bias, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe", "gpt_oss"])
def test_an_expert_is_the_matrix_that_its_tokens_meet(name):
    """All tokens to one expert: zeroing down_proj of the others changes nothing, zeroing its own leaves the bias alone."""
    model = tiny_model(name)
    sites = [site for site in walk(model) if site.name.endswith("layers.0.mlp.experts.down_proj")]
    experts = model.get_submodule(sites[0].module)
    x = torch.randn(5, HIDDEN)
    choice, weight = torch.full((5, 1), 2), torch.ones(5, 1)
    before = experts(x, choice, weight)
    for site in sites:
        if site.expert != 2:
            site.write(model, torch.zeros(site.shape))
    torch.testing.assert_close(experts(x, choice, weight), before)
    sites[2].write(model, torch.zeros(site.shape))
    bias = experts.down_proj_bias[2] if hasattr(experts, "down_proj_bias") else torch.zeros(HIDDEN)
    torch.testing.assert_close(experts(x, choice, weight), bias.expand(5, -1))


def test_a_gate_beside_experts_is_a_router():
    roles = {site.key: site.role for site in walk(tiny_model("qwen2_moe"))}
    assert roles["model.layers.0.mlp.shared_expert_gate"] == "router"
    assert roles["model.layers.0.mlp.shared_expert.gate_proj"] == "linear"


def test_a_large_bare_parameter_is_refused_by_name():
    model = tiny_model("llama")
    model.model.layers[1].mlp.mixing = nn.Parameter(torch.zeros(4, 32, 32))
    with pytest.raises(ModelError) as error:
        walk(model)
    assert str(error.value) == (
        "LlamaForCausalLM, model.layers.1.mlp.mixing: a bare parameter of shape (4, 32, 32); kbit cannot tell its rows from "
        "its columns. Keep it in 16 bits by a recipe."
    )
    assert walkable(model)[1] == {"model.layers.1.mlp.mixing": (4, 32, 32)}


def test_small_bare_parameters_such_as_routers_are_left():
    model = tiny_model("llama")
    model.model.layers[1].mlp.router = nn.Parameter(torch.zeros(4, 32))
    assert "model.layers.1.mlp.router" in dict(rest(model, walk(model)))


def test_a_layer_of_a_subclass_of_linear_is_found():
    class Scaled(nn.Linear):
        pass

    model = tiny_model("llama")
    model.model.layers[0].mlp.up_proj = Scaled(32, 48, bias=False)
    assert "model.layers.0.mlp.up_proj" in {site.key for site in walk(model)}


def test_weights_that_are_not_finite_are_named_counted_and_placed():
    w = torch.zeros(20, 500)
    w[17, 402], w[19, 3] = float("nan"), float("-inf")
    with pytest.raises(ModelError) as error:
        check_finite(w, "pythia-70m, layers.3.mlp.down")
    assert str(error.value) == (
        "pythia-70m, layers.3.mlp.down: 2 of 10000 weights are not finite (first at [17, 402]). Mend the checkpoint, or keep "
        "this layer in 16 bits."
    )
