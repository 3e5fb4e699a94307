"""qat_checkpoint: a model on disk in, the trained and packed model on disk out."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedModel

from kbit.checkpoints.writer import check_free
from kbit.errors import ModelError
from kbit.evaluation.forward import context_of, tokenizer_of
from kbit.formats import Format
from kbit.models import load
from kbit.qat.plan import TrainPlan
from kbit.qat.prepare import METHOD, prepare_qat
from kbit.qat.result import QatResult
from kbit.qat.text import read_training_text
from kbit.qat.train import Progress, Trained, check_vocabulary, train_qat
from kbit.qat.write import TRAINING, write_checkpoint
from kbit.recipes import Recipe
from kbit.recipes.on_disk import open_original

LONGEST_WINDOW = 2048


def qat_checkpoint(
    source: str | Path,
    fmt_or_recipe: Recipe | Format | str,
    out: str | Path,
    *,
    text: str | Path,
    plan: TrainPlan,
    teacher: str | Path | None = None,
    state: str | Path | None = None,
    trust_remote_code: bool = False,
    device: str | None = None,
    progress: Progress = lambda step, steps, doing: None,
) -> QatResult:
    """Train the model `source` under the recipe on `text`, and write it to the new folder `out` as a kbit checkpoint.

    teacher: the model whose predictions it learns, of the same tokenizer; by default `source` itself, in 16 bits.
    state: where the state of training is kept until it is done, by default beside `out`, with .training after its name. Killed
    at any moment and called again, it goes on from there.
    Raises what train_qat, read_training_text and prepare_qat raise, and CheckpointError where `out` is taken.
    """
    out, state = Path(out), Path(state or f"{out}.training")
    check_free(out)
    checkpoint = open_original(source, trust_remote_code=trust_remote_code, do="Train")
    recipe = fmt_or_recipe if isinstance(fmt_or_recipe, Recipe) else Recipe.of(fmt_or_recipe, METHOD)
    original = load(source, trust_remote_code=trust_remote_code)
    plan = with_window(plan, original)
    taught = None if teacher is None else load_teacher(teacher, original, plan, trust_remote_code=trust_remote_code)
    words = read_training_text(text, tokenizer_of(original), **plan.reading)
    model = prepare_qat(original, recipe)
    trained = train_qat(model, original, words, plan, teacher=taught, state=state, progress=progress, device=device)
    result = result_of(trained, str(source), str(out), recipe, teacher)
    if trained.main:
        before = checkpoint.path / TRAINING
        known = json.loads(before.read_text(encoding="utf-8")) if before.is_file() else {}
        write_checkpoint(trained.model, checkpoint, out, result.training(known), name=source)
        if trained.stopped is None:
            shutil.rmtree(state, ignore_errors=True)
    return result


def with_window(plan: TrainPlan, model: PreTrainedModel) -> TrainPlan:
    """The plan with a window that the model reads. Raises ModelError where it asks for a longer one."""
    context = context_of(model)
    if plan.window is not None and context is not None and plan.window > context:
        raise ModelError(
            f"the window is {plan.window} tokens, the model's context {context}. Take a window of at most {context}."
        )
    return replace(plan, window=plan.window or min(LONGEST_WINDOW, context or LONGEST_WINDOW))


def load_teacher(
    teacher: str | Path, original: PreTrainedModel, plan: TrainPlan, *, trust_remote_code: bool = False
) -> PreTrainedModel:
    """A model that teaches `original` windows of the plan. Raises ModelError where it reads other tokens, or fewer."""
    found = load(teacher, packed=False, trust_remote_code=trust_remote_code)
    with_window(plan, found)
    check_vocabulary(original, found)
    if tokenizer_of(found).get_vocab() != tokenizer_of(original).get_vocab():
        raise ModelError(f"{teacher}: the teacher has another tokenizer than the model. Take one of the same family.")
    return found


def result_of(trained: Trained, source: str, out: str, recipe: Recipe, teacher: str | Path | None = None) -> QatResult:
    """The figures of a training."""
    history = trained.history
    return QatResult(
        source=source,
        out=out,
        recipe=recipe,
        plan=trained.plan,
        bits=vars(trained.model)["kbit_bits"],
        loss_16_bits=trained.held_out_reference,
        loss_before=history.held_out[0][1],
        loss=trained.held_out,
        step=trained.step,
        steps=len(history.losses),
        tokens=trained.tokens,
        seconds=history.seconds,
        held_out=tuple(history.held_out),
        main=trained.main,
        stopped=trained.stopped,
        teacher=None if teacher is None else str(teacher),
    )
