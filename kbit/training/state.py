"""The state of a training on disk: tensors and AdamW's moments in safetensors, a record in JSON, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

MOMENTS = ("exp_avg", "exp_avg_sq")


def write_state(folder: Path, record: dict[str, Any], named: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    """`named` tensors, the moments of those that train, and `record`, in `folder`, which appears when it is whole.

    Then other states beside it go. The name of a state ends with step- and a number; a record has "step", how many were done.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    older = list(folder.parent.glob("*step-*"))
    temporary = folder.with_name("writing-" + folder.name)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    names = {id(tensor): name for name, tensor in named.items()}
    moments = {f"{kind}:{names[id(tensor)]}": values[kind] for tensor, values in optimizer.state.items() for kind in MOMENTS}
    write_tensors(temporary / "state.safetensors", {**named, **moments})
    write_text(temporary / "state.json", json.dumps(record))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)
    for path in older:
        if path != folder:
            shutil.rmtree(path, ignore_errors=True)


def read_state(folder: Path, named: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Inverse of `write_state`: fills the `named` tensors and the optimizer; the record."""
    record: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    tensors = read_tensors(folder / "state.safetensors", named)
    for name, tensor in named.items():
        if f"exp_avg:{name}" in tensors:
            moments = {kind: tensors[f"{kind}:{name}"].to(tensor.device) for kind in MOMENTS}
            optimizer.state[tensor] = {"step": torch.tensor(float(record["step"]), device=tensor.device), **moments}
    return record


def write_tensors(path: Path, named: Mapping[str, Tensor]) -> None:
    """Tensors by name, in a file that appears when it is whole."""
    temporary = path.with_name(path.name + ".writing")
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}, temporary)
    os.replace(temporary, path)


@torch.no_grad()
def read_tensors(path: Path, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Inverse of `write_tensors`: fills the `named` tensors; all that the file holds."""
    tensors = load_file(path)
    for name, tensor in named.items():
        tensor.copy_(tensors[name])
    return tensors


def write_text(path: Path, text: str) -> None:
    """`text` in a file that appears when it is whole."""
    temporary = path.with_name(path.name + ".writing")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
