"""Carries out what a grid asks and its store lacks: resumable, since every finished run is written at once."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil

from kbit.errors import StoreError
from kbit.study.bench import Bench, Run, one_line
from kbit.study.executors import EXECUTORS, carry_out, cores
from kbit.study.grid import Grid, read_grid
from kbit.study.result import StudyResult
from kbit.study.specs import RunSpec, expand
from kbit.study.store import Outcome, Store, read_outcomes
from kbit.study.tasks import LOGITS_BYTES, Task, make_tasks, work_of
from kbit.study.trainings import drop_teachers, state_of

WORKER_BYTES = 2**30  # of a worker beside its models and the logits that it keeps: libraries, one batch, one quantized layer

Advance = Callable[[float, float, str], None]


def run_study(
    grid: Grid | Path,
    store: Path,
    *,
    executor: str = "local",
    workers: int | None = None,
    progress: Advance | None = None,
    dry_run: bool = False,
) -> StudyResult:
    """Carry out every run of `grid` that `store` does not hold yet, and write each to it as it ends.

    Killed at any moment and started again, the study loses no finished run and repeats none. A run that fails is recorded
    with its reason, the others go on, and the next start tries it again.
    executor: a name of EXECUTORS. workers: by default one per core, fewer where so many copies of the largest model would not
    fit in half of the memory; each gets its share of the cores as threads.
    progress: called with the percent of the work that is done, 100, and the runs that is; work is the time that runs of
    larger models and longer texts take, so that a time to go can be told from it.
    dry_run: only say what would be done; the store need not exist, and nothing is written.
    Raises StoreError for a grid or a store that cannot be used, and what opening the models and texts raises.
    """
    if executor not in EXECUTORS:
        raise StoreError(f"there is no executor '{executor}'. There are {', '.join(EXECUTORS)}.")
    if workers is not None and workers < 1:
        raise StoreError(f"{workers} workers do no work. Take 1 or more, or leave it out.")
    if progress:
        progress(0.0, 100.0, "opening models and texts")
    specs = expand(grid if isinstance(grid, Grid) else read_grid(grid))
    specs = [replace(spec, state=f"{store}.training") if spec.training else spec for spec in specs]
    if dry_run:
        finished = {run.hash for run in read_outcomes(store) if run.error is None} if Path(store).exists() else set()
        return StudyResult(str(store), specs, finished, {}, 0.0)
    start = time.perf_counter()
    with Store.writing(store) as writer:
        finished = writer.finished()
        outcomes: dict[str, Outcome] = {}
        good = set(finished)
        tasks = make_tasks(spec for spec in specs if spec.hash not in finished)
        if tasks:
            share = workers or default_workers(specs, executor)
            threads = max(1, cores(executor) // share)
            for task, result in carry_out(Bench, tasks, executor=executor, workers=share, threads=threads):
                for outcome in _outcomes(task, result):
                    writer.record(outcome)
                    outcomes[outcome.hash] = outcome
                    if outcome.error is None:
                        good.add(outcome.hash)
                _drop_states(task, specs, good)
                if progress:
                    progress(*_done(specs, finished, outcomes, task))
            if all(spec.hash in good for spec in specs if spec.training):
                drop_teachers(Path(f"{store}.training"))
        return StudyResult(str(store), specs, finished, outcomes, time.perf_counter() - start)


def default_workers(specs: list[RunSpec], executor: str) -> int:
    """One per core of the executor, as long as half of this machine's memory holds them all with the largest model."""
    if executor == "serial":
        return 1
    largest = max(spec.about["parameters"] for spec in specs)
    need = 2 * 4 * largest + LOGITS_BYTES + WORKER_BYTES  # the model and the copy that takes a run's weights, in float32
    return max(1, min(cores(executor), psutil.virtual_memory().total // 2 // need))


def _outcomes(task: Task, result: list[Outcome] | BaseException) -> list[Outcome]:
    if isinstance(result, BaseException):
        reason = f"the worker died ({one_line(result)}). Memory may have run out: use fewer workers."
        return [Run(spec, error=reason).failure() for spec in task.specs]
    return result


def _drop_states(task: Task, specs: list[RunSpec], finished: set[str]) -> None:
    """Remove what trainings of a task have kept, where every run that shares it is finished."""
    for state in {state_of(spec) for spec in task.specs if spec.training}:
        if all(spec.hash in finished for spec in specs if spec.training and state_of(spec) == state):
            shutil.rmtree(state, ignore_errors=True)
            with suppress(OSError):  # others keep theirs there
                state.parent.rmdir()


def _done(specs: list[RunSpec], finished: set[str], outcomes: dict[str, Outcome], last: Task) -> tuple[float, float, str]:
    """Percent of this start's work that is done, 100, and a word on the runs."""
    to_do = [spec for spec in specs if spec.hash not in finished]
    done = sum(work_of(spec) for spec in to_do if spec.hash in outcomes)
    percent = 100 * done / sum(work_of(spec) for spec in to_do)
    return round(percent, 1), 100.0, f"{len(outcomes)} of {len(to_do)} runs, {last.specs[-1].name}"
