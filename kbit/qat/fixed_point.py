"""qat_fixed_point: a model on disk in, trained as a model of integers, and the program of the best of it on disk out."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kbit.checkpoints.writer import check_free
from kbit.errors import FormatError, ModelError
from kbit.evaluation.forward import tokenizer_of
from kbit.models import load
from kbit.models.integer_blueprint import blueprint_of
from kbit.qat.checkpoint import load_teacher, result_of, with_window
from kbit.qat.integer_student import integer_student
from kbit.qat.plan import TrainPlan
from kbit.qat.result import QatResult
from kbit.qat.text import cut, documents, read_training_text
from kbit.qat.train import Progress, train_qat
from kbit.qat.write import TRAINING
from kbit.recipes import Recipe, convert
from kbit.recipes.calibration import CHARACTERS_PER_TOKEN
from kbit.recipes.conversion import write_program
from kbit.recipes.on_disk import lasting_name, open_original, written_config


@dataclass(frozen=True)
class FixedPointQatResult(QatResult):
    """A QatResult of a model of integers. fallbacks: what is stored otherwise than asked for, and why."""

    calibration_tokens: int = 0
    fallbacks: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """All of it under names."""
        return super().to_json() | {"calibration_tokens": self.calibration_tokens, "fallbacks": list(self.fallbacks)}

    def _totals(self) -> list[tuple[str, str]]:
        integers = self.recipe.integers
        assert integers is not None
        return [
            ("integers alone", f"activations of {integers.activations} bits, ranges: {integers.ranges}"),
            *super()._totals(),
            *(("otherwise than asked", fallback) for fallback in self.fallbacks),
        ]


def qat_fixed_point(
    source: str | Path,
    recipe: Recipe,
    out: str | Path,
    *,
    text: str | Path,
    plan: TrainPlan,
    teacher: str | Path | None = None,
    calibration: str | None = None,
    state: str | Path | None = None,
    trust_remote_code: bool = False,
    device: str | None = None,
    progress: Progress = lambda step, steps, doing: None,
) -> FixedPointQatResult:
    """Train the model `source` as one that runs on integers alone, and write it to the new folder `out`.

    The model is converted as quantize_fixed_point converts it, and trained from there: each forward pass is the integer program.
    calibration: the text of the conversion; by default passages of `text`. teacher, state: as for qat_checkpoint; it resumes
    likewise.
    It computes on the CPU, and keeps all activations: FormatError where the plan or the device asks otherwise.
    Raises what convert and train_qat raise, and CheckpointError where `out` is taken.
    """
    check(recipe, plan, device)
    assert recipe.integers is not None
    out, state = Path(out), Path(state or f"{out}.training")
    check_free(out)
    checkpoint = open_original(source, trust_remote_code=trust_remote_code, do="Train")
    original = load(source, packed=False, trust_remote_code=trust_remote_code)
    plan = within_reach(with_window(plan, original), blueprint_of(original).positions, given=plan.window is not None)
    taught = None if teacher is None else load_teacher(teacher, original, plan, trust_remote_code=trust_remote_code)
    words = read_training_text(text, tokenizer_of(original), **plan.reading)
    if calibration is None:
        calibration = some_of(text, recipe.integers.tokens * CHARACTERS_PER_TOKEN, plan.seed)
    recipe = recipe.with_(fixed_point=recipe.integers.bind(calibration))
    made = convert(original, recipe, calibration, seed=plan.seed)
    student, fallbacks = integer_student(made, recipe, seed=plan.seed)
    how: dict[str, Any] = {"teacher": taught, "state": state, "progress": progress, "device": "cpu"}
    trained = train_qat(student, original, words, plan, **how)  # type: ignore[arg-type]
    plain = vars(result_of(trained, str(source), str(out), recipe, teacher))
    result = FixedPointQatResult(**plain, calibration_tokens=made.calibration.tokens, fallbacks=fallbacks)
    if trained.main:
        before = checkpoint.path / TRAINING
        known = json.loads(before.read_text(encoding="utf-8")) if before.is_file() else {}
        config = written_config(checkpoint, original)
        records = {TRAINING: result.training(known)}
        write_program(student.program(), out, config, recipe, lasting_name(source), checkpoint, records=records)
        if trained.stopped is None:
            shutil.rmtree(state, ignore_errors=True)
    return result


def check(recipe: Recipe, plan: TrainPlan, device: str | None) -> None:
    """Raise FormatError where integers cannot be trained so."""
    if recipe.integers is None:
        raise FormatError("the recipe has no fixed_point, so there are no integers to train. Take qat_checkpoint, or add it.")
    if plan.recompute:
        raise FormatError("models of integers are trained without --recompute. Leave it out, or take a smaller --micro-batch.")
    if device not in (None, "cpu"):
        raise FormatError(f"models of integers are trained on the CPU, not on '{device}'. Leave --device out.")


def within_reach(plan: TrainPlan, positions: int, *, given: bool) -> TrainPlan:
    """The plan with a window of at most so many positions; ModelError where a longer one was given."""
    assert plan.window is not None
    if given and plan.window > positions:
        raise ModelError(f"the window is {plan.window} tokens, and the integers reach {positions}. Take no more.")
    return replace(plan, window=min(plan.window, positions))


def some_of(path: str | Path, characters: int, seed: int) -> str:
    """So many characters of a text, in passages that `seed` draws; those that are held out of training come last."""
    passages = [passage for document in documents(Path(path)) for passage in cut(document)]
    taken: list[str] = []
    for index in np.random.default_rng(seed).permutation(len(passages))[::-1]:
        taken.append(passages[index])
        characters -= len(passages[index])
        if characters <= 0:
            break
    return "".join(taken)
