"""A skeleton has every module and shape of a model, and no memory."""

from __future__ import annotations

import pytest
import torch

from kbit.checkpoints.open import open_checkpoint
from kbit.models import configuration, parameters, skeleton
from tests.tiny_models import TINY, tiny_model


@pytest.mark.parametrize("name", TINY)
def test_it_has_the_shapes_of_the_model_and_no_memory(name, written):
    empty, model = skeleton(open_checkpoint(written(name))), tiny_model(name)
    assert {key: tensor.shape for key, tensor in empty.state_dict().items()} == {
        key: tensor.shape for key, tensor in model.state_dict().items()
    }
    assert all(parameter.is_meta for parameter in empty.parameters())
    assert parameters(empty) == parameters(model)
    assert type(empty) is type(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_its_dtype_is_what_was_asked_for(dtype, written):
    empty = skeleton(open_checkpoint(written("llama")), dtype=dtype)
    assert {parameter.dtype for parameter in empty.parameters()} == {dtype}


def test_the_configuration_is_transformers_own(written):
    config = configuration(open_checkpoint(written("qwen3")))
    assert config.to_diff_dict() == type(config).from_pretrained(written("qwen3")).to_diff_dict()
