"""Every stored bit is counted: by hand for one model, and against the bytes on disk for all."""

from __future__ import annotations

import pytest

from kbit.checkpoints.open import open_checkpoint
from kbit.errors import FormatError, ModelError
from kbit.recipes import Recipe, total_bits
from tests.recipes.stored import data_bytes
from tests.tiny_models import TINY, tiny_model


def test_bits_of_a_tiny_llama_by_hand():
    """int4-b64: 4 bits a code, columns padded to 32; one float16 a row and block; rows padded to 16, parts to 64 bytes."""
    rows_of_32 = 32 + 16 + 16 + 32 + 48 + 48  # q, k, v, o, gate, up
    layer = rows_of_32 * (32 * 4 + 16) + 32 * (64 * 4 + 16)  # down: 48 columns pad to 64, one block of 48
    table = 272 * (32 * 8 + 16)  # 258 rows pad to 272
    norms = 5 * 32 * 16
    found = total_bits(tiny_model("llama"), "int4-b64")
    padding = 4 * 8 * 32  # k, v, gate, up: 16 or 48 scales of 2 bytes end in the middle of a line
    assert found.linear_bits == 2 * (layer + padding)
    # 272 scales are 544 bytes, which pad to 576
    assert found.total_bits == found.linear_bits + 2 * (table + 8 * 32) + norms
    assert found.bits_per_weight == found.linear_bits / (2 * (96 * 32 + 3 * 48 * 32))
    assert (found.parameters, found.parameters_linear) == (32032, 15360)
    assert found.total_bytes * 8 == found.total_bits


def test_a_model_in_16_bits_takes_16_bits_a_parameter():
    found = total_bits(tiny_model("gpt2"), Recipe("bf16", embeddings="bf16", lm_head="bf16"))
    assert found.total_bits == 16 * found.parameters
    assert found.bits_per_weight == 16


@pytest.mark.parametrize("name", TINY)
def test_in_32_bits_the_count_is_the_source_checkpoints_own(name, written):
    found = total_bits(tiny_model(name), Recipe("f32", embeddings="f32", lm_head="f32"))
    assert found.total_bytes == data_bytes(written(name))


@pytest.mark.parametrize("name", TINY)
def test_a_checkpoint_counts_as_its_model(name, written):
    assert total_bits(open_checkpoint(written(name)), "nf4-b64-s8") == total_bits(tiny_model(name), "nf4-b64-s8")


def test_a_glob_that_matches_nothing_is_refused():
    with pytest.raises(FormatError, match="matches no layer"):
        total_bits(tiny_model("llama"), Recipe("nf4-b64", keep=("*.layers.9.*",)))


def test_a_large_bare_parameter_is_refused_unless_it_is_kept():
    from torch import nn, zeros

    model = tiny_model("llama")
    model.model.layers[1].mlp.mixing = nn.Parameter(zeros(4, 32, 32))
    with pytest.raises(ModelError) as error:
        total_bits(model, "nf4-b64")
    assert str(error.value) == (
        "LlamaForCausalLM, model.layers.1.mlp.mixing: a bare parameter of shape (4, 32, 32); kbit cannot tell its rows from "
        "its columns. Keep it in 16 bits: --keep 'model.layers.1.mlp.mixing'."
    )
    more = total_bits(model, Recipe("nf4-b64", keep=("*.mixing",))).total_bits
    assert more - total_bits(tiny_model("llama"), "nf4-b64").total_bits == 16 * 4 * 32 * 32
