"""The parts of a model are the model: run in floats they give transformers' logits, and what has no integer form is named."""

import pytest
import torch

from kbit.errors import FixedPointError
from kbit.models.integer_blueprint import KINDS as CLASSES
from kbit.models.integer_blueprint import blueprint_of, with_weights
from kbit.models.integer_float import hadamard, run
from tests.models.integer_models import KINDS, ids_of, tiny_of
from tests.tiny_models import tiny_model


@pytest.mark.parametrize("kind", KINDS)
def test_the_parts_give_the_logits_of_transformers(kind):
    model, ids = tiny_of(kind), ids_of()
    with torch.no_grad():
        expected = model(input_ids=ids).logits
    torch.testing.assert_close(run(blueprint_of(model), ids), expected, rtol=0, atol=2e-5)


def test_every_class_is_tried():
    assert {type(tiny_of(kind)).__name__ for kind in KINDS} == set(CLASSES)


@pytest.mark.parametrize("kind", ["llama-tied", "qwen2", "gpt2"])
def test_a_tied_head_stays_tied_with_other_weights(kind):
    blueprint = blueprint_of(tiny_of(kind))
    assert blueprint.tied
    assert with_weights(blueprint, lambda name: torch.zeros(3, 3)).tied
    assert blueprint.embedding.weight.any()


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("bloom", {}, "transformer.h.0.self_attention: BloomAttention of BloomForCausalLM has no fixed-point form. "),
        ("mixtral", {}, "model.layers.0.self_attn: MixtralAttention of MixtralForCausalLM has no fixed-point form. "),
        ("gemma2", {}, "Gemma2Attention of Gemma2ForCausalLM has no fixed-point form. Models that have one: LlamaForCausalLM, "),
        ("llama", {"hidden_act": "relu2"}, "model.layers.0.mlp.act_fn: the activation relu2 has no fixed-point form. "),
        ("gpt2", {"activation_function": "mish"}, "transformer.h.0.mlp.act: the activation mish has no fixed-point form. "),
        ("gpt2", {"add_cross_attention": True}, "transformer.h.0.crossattention: cross attention has no fixed-point form."),
        (
            "llama",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "rotary_emb: dynamic positions depend on the length of the text, so they have no fixed-point form.",
        ),
    ],
)
def test_what_has_no_integer_form_is_named_with_its_module(name, changes, said):
    with pytest.raises(FixedPointError) as caught:
        blueprint_of(tiny_model(name, **changes))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_positions_end_with_the_sliding_window():
    assert blueprint_of(tiny_model("mistral", sliding_window=40)).positions == 40
    assert blueprint_of(tiny_model("qwen2", sliding_window=40, use_sliding_window=False)).positions == 128


def test_hadamard_is_its_definition():
    """H of 2n is [[H, H], [H, -H]]."""
    matrix = torch.ones(1, 1)
    for _ in range(3):
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    x = torch.randn(5, 24, generator=torch.Generator().manual_seed(0))
    expected = (x.view(5, 3, 8) @ matrix).view(5, 24)
    torch.testing.assert_close(hadamard(x, 8), expected)
