"""Runs of the method qat: how a grid names them, and how a worker trains them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kbit.checkpoints import open_checkpoint
from kbit.errors import ModelError, StoreError
from kbit.evaluation.forward import tokenizer_of
from kbit.models import Site
from kbit.packed import PackedTensor
from kbit.qat import QAT, TrainPlan, prepare_qat, read_training_text, train_qat
from kbit.qat.checkpoint import load_teacher, with_window
from kbit.qat.prepare import Prepared, converted_weights
from kbit.qat.teacher import KeptTeacher, worth_keeping
from kbit.study.grid import Product
from kbit.study.sources import find_models

if TYPE_CHECKING:
    from kbit.study.specs import RunSpec

AT_ONCE = 2**20  # bytes of a file that are hashed at a time
TEACHER = "teacher-"  # folders of what teachers have said, beside the states
THOUSANDS = ("", "k", "M", "G", "T")


@dataclass(frozen=True)
class Training:
    """The text of a grid's trainings: a file or a folder, and the hash of what is in it; and the teacher's place and fingerprint,
    where that is not the model itself.
    """

    text: str
    sha256: str
    teacher: str = ""
    teacher_fingerprint: str = ""

    @classmethod
    def of(cls, product: Product, grid: Path) -> Training:
        """That of a product of the file `grid`. Raises StoreError where there is no such text."""
        assert product.training is not None
        path = (grid.parent / product.training.text).absolute()
        if not path.exists():
            raise StoreError(f"grid {grid}: training: there is no {path}. Check the path; it starts in the grid's folder.")
        digest = sha256_of(path)
        if product.training.teacher is None:
            return cls(str(path), digest)
        teachers = find_models([product.training.teacher], grid)
        if len(teachers) != 1:
            raise StoreError(
                f"grid {grid}: training: the teacher '{product.training.teacher}' is {len(teachers)} models. Name one."
            )
        return cls(str(path), digest, teachers[0], open_checkpoint(teachers[0]).fingerprint())

    def applied(self, spec: RunSpec, plan: TrainPlan, model: PreTrainedModel) -> RunSpec:
        """The run `spec`, trained as `plan` says; its method is named after the tokens, and a teacher: qat-839k-prose-5.1m."""
        plan = with_window(plan, model)
        assert plan.window is not None
        tokens = plan.steps * plan.batch * plan.window
        settings = {name: value for name, value in plan.to_dict().items() if value is not None}
        decided = {"plan": settings, "text_sha256": self.sha256}
        method = f"{QAT}-{short(tokens)}"
        teacher = "" if self.teacher_fingerprint == spec.fingerprint else self.teacher  # every model teaches itself anyway
        if self.teacher:
            method += f"-{Path(self.teacher).name}"
        if teacher:
            decided["teacher"] = self.teacher_fingerprint
        training = json.dumps(decided, sort_keys=True, separators=(",", ":"))
        about = spec.about | {"method": method, "qat_tokens": tokens}
        return replace(spec, about=about, training=training, training_text=self.text, teacher=teacher)


@dataclass(frozen=True)
class TrainedWeights:
    """What a training gave: each matrix as it is stored, and the other parameters as they are stored."""

    packed: list[tuple[Site, PackedTensor]]
    rest: dict[str, Tensor]


def train(original: PreTrainedModel, spec: RunSpec) -> TrainedWeights:
    """Train `original` as `spec` says, from where an earlier start left off. Raises ModelError where a loss was not finite."""
    plan, path = spec.plan, Path(spec.training_text)
    if sha256_of(path) != json.loads(spec.training)["text_sha256"]:
        raise StoreError(f"{path}: the training text changed while the study ran. Start it again.")
    text = read_training_text(path, tokenizer_of(original), **plan.reading)
    model = prepare_qat(original, spec.parsed_recipe)
    found = train_qat(model, original, text, plan, teacher=teacher_of(spec, original), state=state_of(spec), device="cpu")
    if found.stopped is not None:
        raise ModelError(found.stopped)
    return weights_of(found.model)


def teacher_of(spec: RunSpec, original: PreTrainedModel) -> PreTrainedModel | KeptTeacher:
    """Who teaches a run. What it says is kept beside the states, for all runs that it teaches, where that is not too much."""
    plan, folder = spec.plan, Path(spec.state)
    teacher = load_teacher(spec.teacher, original, plan) if spec.teacher else original
    folder.mkdir(parents=True, exist_ok=True)
    if not worth_keeping(plan, teacher.config.get_text_config().vocab_size, folder):
        return teacher
    who = json.loads(spec.training).get("teacher", spec.fingerprint)
    return KeptTeacher(teacher, folder / f"{TEACHER}{who[:32]}-{plan.precision}")


def drop_teachers(folder: Path) -> None:
    """Remove what teachers have said, when nobody is left to be taught; and the folder of the states, where it is empty."""
    for said in folder.glob(f"{TEACHER}*"):
        shutil.rmtree(said, ignore_errors=True)
    with suppress(OSError):  # other trainings keep their states there
        folder.rmdir()


@torch.no_grad()
def weights_of(model: PreTrainedModel) -> TrainedWeights:
    """The stored weights of a model that prepare_qat made."""
    prepared: Prepared = vars(model)["kbit_qat"]
    plain = deepcopy(model)
    packed = list(converted_weights(plain))
    return TrainedWeights(packed, {name: plain.get_parameter(name).detach() for name in prepared.rest})


def state_of(spec: RunSpec) -> Path:
    """The folder of a training's state: one for all runs that share it."""
    decided = f"{spec.fingerprint}\n{spec.config}\n{spec.recipe}\n{spec.training}"
    return Path(spec.state) / hashlib.sha256(decided.encode()).hexdigest()[:32]


def sha256_of(path: Path) -> str:
    """Of the bytes of a file, or of the names and bytes of the *.jsonl and *.jsonl.xz of a folder."""
    digest = hashlib.sha256()
    for file in sorted(path.glob("*.jsonl*")) if path.is_dir() else [path]:
        digest.update(file.name.encode() if path.is_dir() else b"")
        for part in _parts(file):
            digest.update(part)
    return digest.hexdigest()


def _parts(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while part := opened.read(AT_ONCE):
            yield part


def short(count: int) -> str:
    """A count in three figures: 839k, 8.39M."""
    power = min(len(THOUSANDS) - 1, (len(str(count)) - 1) // 3)
    return f"{count / 1000**power:.3g}{THOUSANDS[power]}"
