"""Write a trained model as a kbit checkpoint: the codes and scales that it was trained with, in the format of its recipe."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from kbit.checkpoints.checkpoint import Checkpoint
from kbit.checkpoints.companions import copy_companions
from kbit.checkpoints.writer import CheckpointWriter, write_json
from kbit.models import rest
from kbit.qat.prepare import Prepared, converted_weights
from kbit.recipes.bits import experts_of, rest_format
from kbit.recipes.on_disk import declare_site, lasting_name, written_config

TRAINING = "training.json"


@torch.no_grad()
def write_checkpoint(
    model: PreTrainedModel, source: Checkpoint, out: Path, training: dict[str, Any], *, name: str | Path | None = None
) -> None:
    """Write `model`, which prepare_qat made, to the new folder `out`, with the tokenizer of `source` and a training.json.

    name: of the 16-bit model, as the checkpoint will name what it was made from; by default the path of `source`.
    """
    prepared: Prepared = vars(model)["kbit_qat"]
    plain = deepcopy(model).cpu()
    packed = dict(converted_weights(plain))
    sites = list(prepared.sites)
    recipe, origin = prepared.recipe, lasting_name(name or source.path)
    with CheckpointWriter(out, written_config(source, plain), recipe=recipe.to_dict(), source=origin) as writer:
        floats = {}
        for group in experts_of(sites):
            formats = {packed[site].fmt for site in group}
            parameter = plain.get_parameter(group[0].name)
            if len(formats) == 1 and (fmt := next(iter(formats))).is_float:
                floats[group[0].name] = parameter.to(fmt.dtype)
                continue
            for site in group:
                declare_site(writer, site, packed[site].fmt)
        for other, tensor in rest(plain, sites):
            rounded = rest_format(tensor, recipe)
            floats[other] = tensor if rounded is None else tensor.to(rounded.dtype)
        for other, tensor in floats.items():
            writer.declare(other, tensor.dtype, tuple(tensor.shape))
        for group in experts_of(sites):
            for site in group:
                if group[0].name not in floats:
                    writer.add_packed(site.key, packed[site])
        for other, tensor in floats.items():
            writer.add(other, tensor)
        copy_companions(source, writer.folder)
        write_json(writer.folder / TRAINING, training)
