"""What measuring costs beside the model itself: the bare forward passes, scoring their logits, and scoring against a reference.

Candidates take turns on the same windows; the ceiling is the bare forward. Processor seconds are told, since they hardly
change when the machine is busy.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from kbit.evaluation import Scorer, batch_size_for, batches, fit_window, logits_of, named_protocol, read_text, tokenize_windows
from kbit.models import load

FAMILY = Path(__file__).parents[1] / "family"


def main() -> None:
    """Parse, take turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, nargs="+", help="Folders of models. Default: the sizes of the bundled family.")
    parser.add_argument("--text", type=Path, default=FAMILY / "texts" / "books.txt", help="The text.")
    parser.add_argument("--windows", type=int, default=32, help="Windows of 2048 tokens, or of the model's context.")
    parser.add_argument("--rounds", type=int, default=5, help="Turns of each.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object.")
    options = parser.parse_args()
    sizes = sorted(FAMILY.glob("prose-*/model.safetensors"), key=lambda file: file.stat().st_size)
    models = options.models or [file.parent for file in sizes if file.parent.name.count("-") == 1]
    rows = {model.name: measure(model, options) for model in models}
    about = f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    if options.json:
        print(json.dumps({"machine": about, "processor_microseconds_per_token": rows}, indent=2))
        return
    print(f"{about}; processor microseconds a token\n\n| model | forward | score | score against a reference | quality() |")
    print("| --- | --- | --- | --- | --- |")
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(f"{value:.2f}" for value in row.values()) + " |")


def measure(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Processor microseconds a token of each part."""
    model = load(folder)
    protocol = fit_window(model, named_protocol(None, max_windows=options.windows))
    windows = tokenize_windows(read_text(options.text), model.kbit_tokenizer, protocol)
    cut = list(batches(windows, batch_size_for(model, protocol)))
    logits = [logits_of(model, ids) for _, ids in cut]
    reference = [batch + 0.01 * torch.randn_like(batch) for batch in logits]
    alone, against = Scorer(windows), Scorer(windows)

    def score(scorer: Scorer, *, compare: bool) -> None:
        for (first, _), ours, theirs in zip(cut, logits, reference, strict=True):
            scorer.update(first, ours, theirs if compare else None)

    calls: dict[str, Callable[[], object]] = {
        "forward": lambda: [logits_of(model, ids) for _, ids in cut],
        "score": lambda: score(alone, compare=False),
        "score_against": lambda: score(against, compare=True),
        "quality": against.quality,
    }
    score(against, compare=True)
    return {name: 1e6 * median(seconds) / windows.ids.numel() for name, seconds in alternate(calls, options.rounds).items()}


def alternate(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Processor seconds per call; candidates take turns, so that heat and noisy neighbours fall on all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            if turn:  # the first turn warms the caches and is not counted
                seconds[name].append(time.process_time() - start)
    return seconds


if __name__ == "__main__":
    main()
