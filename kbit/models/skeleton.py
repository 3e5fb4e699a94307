"""A model without weights: its configuration from a checkpoint, and its modules on the meta device."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from kbit.checkpoints import json_file
from kbit.checkpoints.checkpoint import Checkpoint
from kbit.errors import ModelError
from kbit.models.assembly import Assembly


def configuration(checkpoint: Checkpoint, *, trust_remote_code: bool = False) -> PretrainedConfig:
    """The transformers configuration that `checkpoint` states, without a quantization_config.

    trust_remote_code: run the configuration class that comes with the checkpoint, where its config.json names one.
    Raises ModelError where transformers does not know the model_type or refuses the values.
    """
    if trust_remote_code and "auto_map" in checkpoint.config:
        return _of_own_code(checkpoint)
    settings = {key: value for key, value in checkpoint.config.items() if key not in ("quantization_config", "auto_map")}
    model_type = str(settings.get("model_type"))
    if model_type not in CONFIG_MAPPING:
        raise ModelError(
            f"{checkpoint.path}: transformers knows no model_type {model_type!r}. Upgrade transformers, or, where the model "
            f"brings its own code and you trust its maker, allow trust_remote_code."
        )
    try:
        return CONFIG_MAPPING[model_type].from_dict(settings)
    except Exception as error:  # transformers validates with errors of many kinds
        raise ModelError(f"{checkpoint.path}: transformers refuses its config.json: {one_line(error)}. Mend it.") from error


def skeleton(checkpoint: Checkpoint, *, dtype: torch.dtype = torch.float32, trust_remote_code: bool = False) -> PreTrainedModel:
    """The causal language model of `checkpoint` in `dtype` on the meta device: modules and shapes without memory.

    An output head that the configuration ties to the embedding, but that the checkpoint holds with weights of its own, is not
    tied. Raises ModelError where the model is no causal language model.
    """
    config = configuration(checkpoint, trust_remote_code=trust_remote_code)
    model = _on_meta(checkpoint, config, dtype, trust_remote_code)
    if _unties(model, checkpoint):
        config.tie_word_embeddings = False
        model = _on_meta(checkpoint, config, dtype, trust_remote_code)
    return model


def _of_own_code(checkpoint: Checkpoint) -> PretrainedConfig:
    try:
        return AutoConfig.from_pretrained(str(checkpoint.path), trust_remote_code=True)
    except Exception as error:  # code of the model's own fails in its own ways
        raise ModelError(
            f"{checkpoint.path}: the code that comes with the model is not there or fails: {one_line(error)}. "
            f"Download the whole repository, its *.py files too, and name that folder."
        ) from error


def one_line(error: Exception) -> str:
    """What `error` says, on one line and without a stop."""
    return json_file.one_line(error).rstrip(".")


def _on_meta(checkpoint: Checkpoint, config: PretrainedConfig, dtype: torch.dtype, trust_remote_code: bool) -> PreTrainedModel:
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code).eval()
    except Exception as error:  # an unfit configuration fails anywhere inside transformers
        raise ModelError(
            f"{checkpoint.path}: transformers cannot make a causal language model from its config.json: {one_line(error)}."
        ) from error


def _unties(model: PreTrainedModel, checkpoint: Checkpoint) -> bool:
    """Whether a tied output head lies in the checkpoint with other weights than the embedding."""
    if checkpoint.kind == "kbit":  # written from a model that was untied before, where it had to be
        return False
    assembly = Assembly(model, checkpoint)
    names = [name for name, parameter in model.named_parameters(remove_duplicate=False) if parameter is _head(model)]
    held = [name for name in names if name in assembly]
    return len(held) > 1 and not all(torch.equal(assembly.read(held[0]), assembly.read(name)) for name in held[1:])


def _head(model: PreTrainedModel) -> torch.Tensor | None:
    head = model.get_output_embeddings()
    return None if head is None else head.weight
