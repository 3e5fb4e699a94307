"""The state of a training on disk: safetensors and JSON, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kbit.errors import CheckpointError

PLAN = "plan.json"
MOMENTS = ("exp_avg", "exp_avg_sq")


def claim(folder: Path, asked: dict[str, Any]) -> None:
    """Note in `folder` what is trained there. Raises CheckpointError where it was begun with something else."""
    path = folder / PLAN
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        for name in sorted(asked.keys() | found.keys()):
            if asked.get(name) != found.get(name):
                raise CheckpointError(
                    f"{folder}: this training was begun with {name} {found.get(name)}, and is now asked for {asked.get(name)}. "
                    "Ask for the same again, or name another --state folder."
                )
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(asked, indent=2) + "\n")


def save_weights(path: Path, model: nn.Module) -> None:
    """Parameters and buffers of `model`, each once, in one file that appears when it is whole."""
    temporary = path.with_name(path.name + ".writing")
    save_file(tensors_of(model), temporary)
    os.replace(temporary, path)


def load_weights(path: Path, model: nn.Module) -> None:
    """Inverse of `save_weights`."""
    put(model, load_file(path))


def save_state(folder: Path, step: int, record: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Weights, moments and `record` after `step` steps; then what came before goes."""
    older = list(folder.glob("*-step-*"))
    temporary, final = folder / f"writing-step-{step:08d}", folder / f"state-step-{step:08d}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    moments = {
        f"{kind}:{names[id(parameter)]}": values[kind].cpu() for parameter, values in optimizer.state.items() for kind in MOMENTS
    }
    save_file(tensors_of(model) | moments, temporary / "state.safetensors")
    write_text(temporary / "state.json", json.dumps(record | {"step": step}))
    shutil.rmtree(final, ignore_errors=True)
    os.replace(temporary, final)
    for path in older:
        if path != final:
            shutil.rmtree(path, ignore_errors=True)


def load_state(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
    """Put the last state of `folder` into model and optimizer; its record with "step", or None where there is none."""
    last = max(folder.glob("state-step-*"), default=None)
    if last is None:
        return None
    record: dict[str, Any] = json.loads((last / "state.json").read_text(encoding="utf-8"))
    tensors = load_file(last / "state.safetensors")
    put(model, tensors)
    for name, parameter in model.named_parameters():
        if f"exp_avg:{name}" in tensors:
            moments = {kind: tensors[f"{kind}:{name}"].to(parameter.device) for kind in MOMENTS}
            optimizer.state[parameter] = {"step": torch.tensor(float(record["step"]), device=parameter.device), **moments}
    return record


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, tied ones once, on the CPU."""
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}


@torch.no_grad()
def put(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copy `tensors` into the parameters and buffers of their names."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        tensor.copy_(tensors[name])


def write_text(path: Path, text: str) -> None:
    """`text` in a file that appears when it is whole."""
    temporary = path.with_name(path.name + ".writing")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
