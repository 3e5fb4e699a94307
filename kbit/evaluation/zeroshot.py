"""Zero-shot tasks through lm-eval (extra kbit[eval]), on local files: the tasks of the k-bit paper, with standard errors."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kbit.errors import KbitError, TextError

TASKS = {file.stem: file for file in sorted((Path(__file__).parent / "tasks").glob("*.yaml"))}


def run_tasks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[str],
    data_folder: str | Path,
    limit: int | None = None,
    *,
    batch_size: int = 8,
) -> dict[str, dict[str, float | None]]:
    """Accuracies of `model` on `tasks` (keys of TASKS), from the JSON-lines files in `data_folder`.

    limit: only the first so many rows of each. Returns task -> {"acc", "acc_stderr", and where the task has it "acc_norm",
    "acc_norm_stderr", "rows"}: fractions, with lm-eval's standard errors over rows.
    Raises KbitError where lm-eval is not installed, TextError where a task or its file is missing or not as expected.
    """
    files = find_tasks(tasks, data_folder)
    configs = {name: _config(name) for name in tasks}
    evaluator, model_class, task_manager = _lm_eval()
    lm = model_class(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=batch_size)
    with tempfile.TemporaryDirectory(prefix="kbit-tasks-") as cache:
        for name, config in configs.items():
            config["dataset_kwargs"] = {"data_files": {config["test_split"]: str(files[name])}, "cache_dir": cache}
        seeds = dict.fromkeys(("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed"))  # leave them be
        found = evaluator.simple_evaluate(
            model=lm,
            tasks=list(configs.values()),
            num_fewshot=0,
            limit=limit,
            log_samples=False,
            task_manager=task_manager(include_defaults=False),
            **seeds,
        )
    return {
        name: {"rows": found["n-samples"][name]["effective"], **_figures(result)} for name, result in found["results"].items()
    }


def find_tasks(tasks: Sequence[str], data_folder: str | Path) -> dict[str, Path]:
    """The file of each task in the folder, its first row checked. Raises TextError, before any model is read."""
    return {name: _data_file(name, _config(name)["metadata"], Path(data_folder)) for name in tasks}


def _lm_eval() -> tuple[Any, Any, Any]:
    """lm-eval's evaluator module, its class of Hugging Face models and its task manager."""
    try:
        from lm_eval import evaluator
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise KbitError(f"zero-shot tasks need lm-eval ({error}). Install it: pip install 'kbit[eval]'.") from error
    return evaluator, HFLM, TaskManager


def _config(name: str) -> dict[str, Any]:
    if name not in TASKS:
        raise TextError(f"there is no task '{name}'. There are {', '.join(TASKS)}.")
    config: dict[str, Any] = yaml.safe_load(TASKS[name].read_text(encoding="utf-8"))
    return config


def _data_file(name: str, metadata: dict[str, Any], folder: Path) -> Path:
    """The one file in the folder that fits the task's pattern, its first row checked."""
    pattern, fields = metadata["data_file"], metadata["fields"]
    files = sorted(folder.glob(pattern))
    if len(files) != 1:
        what = f"there is no {pattern}" if not files else f"{' and '.join(f.name for f in files)} both fit {pattern}"
        raise TextError(f"{folder}: {what}. Task {name} wants one, a JSON object with {', '.join(fields)} on each line.")
    with files[0].open(encoding="utf-8") as lines:
        try:
            row = json.loads(next(lines, ""))
        except ValueError:
            row = None
    if not isinstance(row, dict) or not set(fields) <= set(row):
        raise TextError(f"{files[0]}, line 1: task {name} wants a JSON object with {', '.join(fields)}.")
    return files[0]


def _figures(result: dict[str, Any]) -> dict[str, float | None]:
    """lm-eval's "acc,none" and "acc_stderr,none" under plain names; what is no number (one row has no error) as None."""
    figures = {key.removesuffix(",none"): value for key, value in result.items() if key.endswith(",none")}
    return {key: float(value) if isinstance(value, int | float) else None for key, value in figures.items()}
