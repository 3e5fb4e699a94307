"""How many bits a model takes as it is stored, beside the quality that it has."""

from __future__ import annotations

from transformers import PreTrainedModel

from kbit.checkpoints.checkpoint import Checkpoint
from kbit.models import parameters, skeleton, walkable
from kbit.models.integer_model import IntegerModel


def stored_sizes(checkpoint: Checkpoint, model: PreTrainedModel) -> dict[str, float]:
    """total_bits, total_bytes, parameters, parameters_linear and bits_per_weight of `model` as it lies in `checkpoint`.

    bits_per_weight is left out where the checkpoint names linear layers otherwise than the model does (fused by
    transformers as it loads), since its tensors then cannot be told apart by role. A model of integers counts all of them:
    multipliers, shifts and tables of positions too.
    """
    total_bytes = sum(checkpoint.nbytes(name) for name in checkpoint.names)
    if isinstance(model, IntegerModel):
        return model.sizes | {"parameters": parameters(skeleton(checkpoint))}
    linear = [site for site in walkable(model)[0] if site.role == "linear"]
    weights = sum(site.count for site in linear)
    sizes: dict[str, float] = {
        "total_bits": 8 * total_bytes,
        "total_bytes": total_bytes,
        "parameters": parameters(model),
        "parameters_linear": weights,
    }
    names = {site.name for site in linear}
    if names <= set(checkpoint.names):
        sizes["bits_per_weight"] = 8 * sum(checkpoint.nbytes(name) for name in names) / weights
    return sizes
