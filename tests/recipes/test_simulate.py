"""quantize gives a new model with a decoder's weights, and leaves the first as it was."""

from __future__ import annotations

import pytest
import torch

from kbit.errors import ModelError
from kbit.formats import Format
from kbit.methods import choose
from kbit.models import rest, walk
from kbit.recipes import Recipe, quantize, quantized_weights, rest_values, total_bits
from tests.tiny_models import TINY, tiny_model


@pytest.mark.parametrize("name", TINY)
def test_the_first_model_is_untouched(name):
    model = tiny_model(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    small = quantize(model, "int2-b64")
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert type(small) is type(model)
    assert not hasattr(model, "kbit_recipe")


@pytest.mark.parametrize("name", TINY)
def test_every_matrix_is_what_the_method_makes_of_it_and_the_rest_is_bf16(name):
    model = tiny_model(name)
    small = quantize(model, "nf4-b32", method="rtn-mse")
    sites = walk(model)
    for site in sites:
        w = site.read(model)
        if site.role == "router":
            expected = w.bfloat16().float()
        else:
            fmt = Format.parse("nf4-b32" if site.role == "linear" else "int8-row")
            expected = choose("rtn-mse", w, fmt).dequantize()
        assert torch.equal(site.read(small), expected), site.key
    for name_of, tensor in rest(model, sites):
        stored = tensor.detach().bfloat16().float() if isinstance(tensor, torch.nn.Parameter) else tensor
        assert torch.equal(small.state_dict()[name_of], stored), name_of


def test_it_says_what_it_was_made_by():
    small = quantize(tiny_model("llama"), "int4-b64", method="rtn-kl")
    assert small.kbit_recipe == Recipe("int4-b64", method="rtn-kl")
    assert small.kbit_bits == total_bits(tiny_model("llama"), Recipe("int4-b64", method="rtn-kl"))


def test_tied_layers_stay_tied():
    small = quantize(tiny_model("gpt2"), "int4-b64")
    assert small.lm_head.weight is small.transformer.wte.weight


def test_gpt2s_rows_are_outputs():
    """Conv1D stores (n_in, n_out): with one scale a row, every output channel has at most 2^3 - 1 values."""
    small = quantize(tiny_model("gpt2"), "int3-row")
    stored = small.transformer.h[0].mlp.c_fc.weight  # (32 inputs, 128 outputs)
    assert all(len(column.unique()) <= 7 for column in stored.T)
    assert max(len(row.unique()) for row in stored) > 7


def test_experts_have_levels_of_their_own():
    small = quantize(tiny_model("mixtral"), "kmeans2-tensor")
    for expert in small.model.layers[0].mlp.experts.down_proj:
        assert len(expert.unique()) <= 4
    assert len(small.model.layers[0].mlp.experts.down_proj.unique()) > 4


@pytest.mark.parametrize("fmt", ["f32", "bf16", "f16"])
def test_float_formats_are_casts(fmt):
    model = tiny_model("llama")
    small = quantize(model, Recipe(fmt, embeddings=fmt, lm_head=fmt))
    dtype = Format.parse(fmt).dtype
    for one, other in zip(small.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other.to(dtype).float())


def test_a_part_of_the_sites_can_be_asked_for():
    model = tiny_model("llama")
    some = walk(model)[2:4]
    found = list(quantized_weights(model, "int3-b16-o5", sites=some))
    everything = {site.key: w for site, w in quantized_weights(model, "int3-b16-o5")}
    assert [site for site, _ in found] == some
    assert all(torch.equal(w, everything[site.key]) for site, w in found)


def test_columns_that_are_kept_are_float16():
    model = tiny_model("llama")
    site = next(site for site in walk(model) if site.key.endswith("0.mlp.down_proj"))
    ((_, w),) = quantized_weights(model, "int2-b64-o10", sites=[site])
    exact = (w == site.read(model).half().float()).all(0)
    assert exact.sum() == 5  # 10% of 48


def test_weights_that_are_not_finite_name_model_layer_and_place():
    model = tiny_model("llama")
    model.model.layers[1].mlp.up_proj.weight.data[2, 3] = float("inf")
    with pytest.raises(ModelError) as error:
        quantize(model, "nf4-b64")
    assert str(error.value) == (
        "LlamaForCausalLM, model.layers.1.mlp.up_proj: 1 of 1536 weights are not finite (first at [2, 3]). "
        "Mend the checkpoint, or keep this layer in 16 bits."
    )


def test_a_weight_beyond_float16_is_not_made_infinite():
    model = tiny_model("llama")
    model.model.layers[1].mlp.up_proj.weight.data[2, 3] = 1e6
    with pytest.raises(ModelError, match=r"up_proj: a weight of 1e\+06 is beyond float16 \(65504\)\. Keep it in bf16\."):
        quantize(model, Recipe("f16"))


def test_a_model_in_bf16_stays_in_bf16():
    small = quantize(tiny_model("llama").bfloat16(), "nf4-b64")
    assert {parameter.dtype for parameter in small.parameters()} == {torch.bfloat16}


def test_rest_values_are_those_that_a_checkpoint_stores():
    model = tiny_model("gpt2")
    found = dict(rest_values(model, Recipe("nf4-b64")))
    assert torch.equal(found["transformer.wpe.weight"], model.transformer.wpe.weight.detach().bfloat16().float())
    assert "transformer.h.0.mlp.c_fc.weight" not in found
