"""How many runs an hour: a study against the naive loop, which measures each run in a fresh process.

The naive loop loads the model, quantizes it, and evaluates it and the 16-bit model, once for every run. Both measure the same
models under the same protocol, on the same cores, and take turns: a whole study, then naive runs of every model.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

FAMILY = Path(__file__).parents[1] / "family"
FORMATS = ["int{2..8}-b64", "nf{2..8}-b64", "fp{3..8}-b64", "dyn{3..8}-b64", "log{3..8}-b64"]
NAIVE = """
import sys, kbit
model = kbit.load(sys.argv[1])
small = kbit.quantize(model, sys.argv[2])
protocol = kbit.Protocol(window=256, max_windows=int(sys.argv[4]))
print(kbit.evaluate(small, open(sys.argv[3], newline="").read(), reference=model, protocol=protocol).loss)
"""


def main() -> None:
    """Parse, take turns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, nargs="+", help="Folders of models. Default: the sizes of the bundled family.")
    parser.add_argument("--text", type=Path, default=FAMILY / "texts" / "books.txt", help="The text of the protocol.")
    parser.add_argument("--windows", type=int, default=48, help="Windows of 256 tokens.")
    parser.add_argument("--formats", nargs="+", default=FORMATS, help="Formats, with braces.")
    parser.add_argument("--rounds", type=int, default=2, help="Turns of each.")
    parser.add_argument("--json", action="store_true", help="Print one JSON object.")
    options = parser.parse_args()
    models = options.models or [folder for folder in sorted(FAMILY.glob("prose-*")) if folder.name.count("-") == 1]
    study: list[float] = []  # runs per hour of each round
    naive: dict[str, list[float]] = {str(model): [] for model in models}  # seconds of a run
    for turn in range(options.rounds):
        study.append(study_runs_per_hour(models, options))
        for model in models:
            naive[str(model)].append(naive_seconds(model, f"int{3 + turn % 4}-b64", options))
    mean = sum(median(seconds) for seconds in naive.values()) / len(naive)  # every model has as many runs in the study
    result = {
        "study_runs_per_hour": median(study),
        "naive_runs_per_hour": 3600 / mean,
        "ratio": median(study) * mean / 3600,
        "rounds": {"study_runs_per_hour": study, "naive_seconds_per_run": naive},
        "models": [model.name for model in models],
        "windows": options.windows,
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.processor() or platform.machine(),
        "command": " ".join(sys.argv),
    }
    print(json.dumps(result, indent=2) if options.json else "\n".join(table(result)))


def study_runs_per_hour(models: list[Path], options: argparse.Namespace) -> float:
    """Of `kbit study` from nothing, start of the program included."""
    with tempfile.TemporaryDirectory() as folder:
        grid = Path(folder) / "grid.yaml"
        protocol = {"text": str(options.text.resolve()), "window": 256, "max_windows": options.windows}
        grid.write_text(
            json.dumps(
                {"models": [str(model.resolve()) for model in models], "formats": options.formats, "protocols": {"p": protocol}}
            )
        )
        start = time.perf_counter()
        done = run(["-m", "kbit", "study", str(grid), "--store", f"{folder}/runs.db", "--json"])
        return 3600 * json.loads(done)["done"] / (time.perf_counter() - start)


def naive_seconds(model: Path, fmt: str, options: argparse.Namespace) -> float:
    """Of one run in a process of its own."""
    start = time.perf_counter()
    run(["-c", NAIVE, str(model), fmt, str(options.text), str(options.windows)])
    return time.perf_counter() - start


def run(arguments: list[str]) -> str:
    """What a fresh Python prints."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def table(result: dict) -> list[str]:
    """The result in lines."""
    per_run = {Path(model).name: median(seconds) for model, seconds in result["rounds"]["naive_seconds_per_run"].items()}
    return [
        f"{result['windows']} windows of 256 tokens, {result['cores']} cores, {result['machine']}",
        f"study       {result['study_runs_per_hour']:8.0f} runs per hour, start of the program included",
        f"naive loop  {result['naive_runs_per_hour']:8.0f} runs per hour: "
        + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in per_run.items()),
        f"ratio       {result['ratio']:8.1f}",
    ]


if __name__ == "__main__":
    main()
