"""What a quantized model in training leaves on disk: what is trained, the best weights, the last state."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kbit.errors import CheckpointError
from kbit.training.state import read_state, read_tensors, write_state, write_tensors, write_text

PLAN = "plan.json"


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
    write_tensors(path, tensors_of(model))


def load_weights(path: Path, model: nn.Module) -> None:
    """Inverse of `save_weights`."""
    read_tensors(path, tensors_of(model))


def save_state(folder: Path, step: int, record: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Weights, moments and `record` after `step` steps; then what came before goes."""
    write_state(folder / f"state-step-{step:08d}", record | {"step": step}, tensors_of(model), optimizer)


def load_state(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
    """Put the last state of `folder` into model and optimizer; its record with "step", or None where there is none."""
    last = max(folder.glob("state-step-*"), default=None)
    return None if last is None else read_state(last, tensors_of(model), optimizer)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, tied ones once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
