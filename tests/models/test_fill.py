"""A model on the meta device is filled whole, or not at all."""

from __future__ import annotations

import pytest
import torch

from kbit.checkpoints.open import open_checkpoint
from kbit.errors import ModelError
from kbit.models import Assembly, skeleton
from kbit.models.fill import fill


def test_a_parameter_that_nobody_gives_is_an_error(written):
    checkpoint = open_checkpoint(written("llama"))
    model = skeleton(checkpoint)
    assembly = Assembly(model, checkpoint)
    names = [name for name in assembly.names if name != "model.norm.weight"]
    with pytest.raises(ModelError, match=r"missing keys while loading: \['model\.norm\.weight'\]"):
        fill(model, assembly.read, names)


def test_reading_takes_no_second_copy_of_what_is_filled(written):
    """In the dtype of the file, the parameter is the very tensor that was read."""
    checkpoint = open_checkpoint(written("llama"))
    model = skeleton(checkpoint)
    assembly = Assembly(model, checkpoint)
    read = {name: assembly.read(name) for name in assembly.names}
    fill(model, read.__getitem__, list(read))
    assert all(parameter.data_ptr() == read[name].data_ptr() for name, parameter in model.named_parameters())


def test_an_error_while_reading_is_not_swallowed(written):
    checkpoint = open_checkpoint(written("llama"))
    model = skeleton(checkpoint)

    def read(name: str) -> torch.Tensor:
        raise ModelError(f"{name} cannot be read")

    with pytest.raises(ModelError, match="cannot be read"):
        fill(model, read, Assembly(model, checkpoint).names)
