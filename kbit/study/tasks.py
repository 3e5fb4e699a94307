"""Tasks: runs of one model that are best measured together, and how long they may take."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from kbit.study.specs import RunSpec

LOGITS_BYTES = 2**30  # 16-bit logits that a worker keeps for its runs to share; a longer text is scored in chunks of that
RUNS_AT_ONCE = 16  # that share the logits of each chunk of a long text: the 16-bit model then costs each a 16th more
PASSES_OF_TRAINING = 4  # the teacher forward, the student forward and twice that backward
WEIGHTS_PER_LOGIT = 500  # scoring a token costs as much for each logit as multiplying so many weights (measured, vocabulary 1024)


@dataclass(frozen=True)
class Task:
    """Runs of one model that are measured together."""

    specs: tuple[RunSpec, ...]

    @property
    def key(self) -> str:
        """Which model a worker must have loaded."""
        return model_key(self.specs[0])

    @property
    def work(self) -> float:
        """Roughly proportional to the seconds that the task takes."""
        return sum(work_of(spec) for spec in self.specs)


def work_of(spec: RunSpec) -> float:
    """Roughly proportional to the seconds of a run: multiplications of its forward passes, and scoring in like measure.

    A token of training counts as PASSES_OF_TRAINING.
    """
    tokens = spec.about["tokens"] + PASSES_OF_TRAINING * spec.about.get("qat_tokens", 0)
    return tokens * (spec.about["parameters"] + WEIGHTS_PER_LOGIT * _vocabulary(spec))


def model_key(spec: RunSpec) -> str:
    """Tells models apart: two of the same weights and another configuration are two."""
    return f"{spec.fingerprint} {spec.config}"


def make_tasks(specs: Iterable[RunSpec]) -> list[Task]:
    """Every run in one task.

    Runs whose 16-bit logits fit in LOGITS_BYTES go by format and method, so that those which differ in the embeddings or the
    protocol alone share the linear layers. The others go up to RUNS_AT_ONCE of a protocol together, so that each chunk of
    16-bit logits serves many.
    """
    tasks: list[Task] = []
    for of_model in grouped(specs, model_key):
        short = [spec for spec in of_model if _logits_bytes(spec) <= LOGITS_BYTES]
        tasks += [Task(tuple(group)) for group in grouped(short, lambda spec: (spec.about["format"], spec.about["method"]))]
        for long in grouped((spec for spec in of_model if _logits_bytes(spec) > LOGITS_BYTES), lambda spec: spec.protocol):
            tasks += [Task(tuple(long[start : start + RUNS_AT_ONCE])) for start in range(0, len(long), RUNS_AT_ONCE)]
    return tasks


Item = TypeVar("Item")


def grouped(items: Iterable[Item], key: Callable[[Item], object]) -> list[list[Item]]:
    """The items of each key, groups and items in the order of first appearance."""
    groups: dict[object, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def _logits_bytes(spec: RunSpec) -> int:
    """Of all 16-bit logits of the run's text, in float32."""
    return 4 * spec.about["tokens"] * _vocabulary(spec)


def _vocabulary(spec: RunSpec) -> int:
    size: int = spec.about["architecture"]["vocabulary"]
    return size
