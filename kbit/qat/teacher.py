"""A teacher that many trainings share: what it says to each batch is kept in a file, and asked for once."""

from __future__ import annotations

import os
import shutil
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from kbit.qat.plan import TrainPlan

MOST_BYTES = 2**32  # of the logits of one training; larger ones are computed each time
SPARE = 2  # times as much must be free on the disk


class KeptTeacher(nn.Module):
    """Gives the logits of `teacher`, and writes them into `folder` by a hash of the batch: the next training on it reads them.

    They are bit for bit what the teacher said to the same batch, in the dtype in which it said it. Trainings of several processes
    may share a folder: a file appears when it is whole.
    """

    def __init__(self, teacher: PreTrainedModel, folder: Path) -> None:
        super().__init__()
        self.teacher, self.folder = teacher, folder
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def config(self) -> Any:
        """The teacher's."""
        return self.teacher.config

    def forward(self, input_ids: Tensor, use_cache: bool = False) -> SimpleNamespace:
        """`logits` (n, window, vocabulary) of input_ids (n, window)."""
        file = self.folder / f"{sha256(input_ids.cpu().numpy().tobytes()).hexdigest()}-{len(input_ids)}.safetensors"
        if file.exists():
            return SimpleNamespace(logits=load_file(file)["logits"].to(input_ids.device))
        logits = self.teacher(input_ids=input_ids, use_cache=use_cache).logits
        temporary = file.with_suffix(f".writing-{os.getpid()}")
        save_file({"logits": logits.cpu().contiguous()}, temporary)
        os.replace(temporary, file)
        return SimpleNamespace(logits=logits)


def worth_keeping(plan: TrainPlan, vocabulary: int, folder: Path) -> bool:
    """Whether the logits of a training are few enough for a file each, and the disk of `folder`, which exists, has the room."""
    assert plan.window is not None, "a plan without a window"
    width = torch.finfo(torch.bfloat16 if plan.precision == "bf16" else torch.float32).bits // 8
    need = plan.steps * plan.batch * plan.window * vocabulary * width
    return plan.cross_entropy < 1 and need <= MOST_BYTES and SPARE * need <= shutil.disk_usage(folder).free
