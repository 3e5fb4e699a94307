"""How many runs an hour: a study against the naive loop, which measures each run in a fresh process.

The naive loop loads the model, quantizes it, and evaluates it and the 16-bit model, once for every run. Both measure the same
models under the same protocol, on the same cores, and take turns: a whole study, then a naive run of every model. Processor
seconds (user and system, of all processes) are told beside the clock's, since they hardly change when the machine is busy.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

FAMILY = Path(__file__).parents[1] / "family"
FORMATS = ["int{2..8}-b64", "nf{2..8}-b64", "fp{3..8}-b64", "dyn{3..8}-b64", "log{3..8}-b64"]
NAIVE = """
import sys, kbit
model = kbit.load(sys.argv[1])
small = kbit.quantize(model, sys.argv[2])
protocol = kbit.Protocol(window=256, max_windows=int(sys.argv[4]))
print(kbit.evaluate(small, open(sys.argv[3], newline="").read(), reference=model, protocol=protocol))
"""


class Cost(NamedTuple):
    """Seconds of one run: by the clock, and of all processors."""

    wall: float
    processor: float


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
    study: list[Cost] = []
    naive: dict[str, list[Cost]] = {model.name: [] for model in models}
    for turn in range(options.rounds):
        study.append(study_cost(models, options))
        for model in models:
            naive[model.name].append(naive_cost(model, f"int{3 + turn % 4}-b64", options))
    result = {
        "study": [cost._asdict() for cost in study],
        "naive": {name: [cost._asdict() for cost in costs] for name, costs in naive.items()},
        **compare(study, naive),
        "windows": options.windows,
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "machine": machine(),
        "versions": {package: version(package) for package in ("kbit", "torch", "transformers")},
        "command": " ".join(sys.argv),
    }
    print(json.dumps(result, indent=2) if options.json else "\n".join(table(result)))


def compare(study: list[Cost], naive: dict[str, list[Cost]]) -> dict[str, float]:
    """Runs per hour of both, and how many times faster the study is. Every model has as many runs, so models weigh alike."""
    found = {}
    for kind in ("wall", "processor"):
        ours = median(getattr(cost, kind) for cost in study)
        theirs = mean(median(getattr(cost, kind) for cost in costs) for costs in naive.values())
        found |= {f"study_{kind}_seconds": ours, f"naive_{kind}_seconds": theirs, f"{kind}_ratio": theirs / ours}
    return found | {
        "study_runs_per_hour": 3600 / found["study_wall_seconds"],
        "naive_runs_per_hour": 3600 / found["naive_wall_seconds"],
    }


def study_cost(models: list[Path], options: argparse.Namespace) -> Cost:
    """A run of `kbit study` from nothing, its share of the start of the program included."""
    with tempfile.TemporaryDirectory() as folder:
        protocol = {"text": str(options.text.resolve()), "window": 256, "max_windows": options.windows}
        grid = {"models": [str(model.resolve()) for model in models], "formats": options.formats, "protocols": {"p": protocol}}
        file = Path(folder) / "grid.yaml"
        file.write_text(json.dumps(grid))
        cost, printed = timed(["-m", "kbit", "study", str(file), "--store", f"{folder}/runs.db", "--json"])
        runs = json.loads(printed)["done"]
        return Cost(cost.wall / runs, cost.processor / runs)


def naive_cost(model: Path, fmt: str, options: argparse.Namespace) -> Cost:
    """A run in a process of its own."""
    return timed(["-c", NAIVE, str(model), fmt, str(options.text), str(options.windows)])[0]


def timed(arguments: list[str]) -> tuple[Cost, str]:
    """What a fresh Python costs, and what it prints."""
    start, before = time.perf_counter(), processor_seconds()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return Cost(time.perf_counter() - start, processor_seconds() - before), done.stdout


def processor_seconds() -> float:
    """Of all processes that this one started and that have ended, and theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def machine() -> str:
    """The processor's name, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def table(result: dict[str, Any]) -> list[str]:
    """The result in lines."""
    per_model = {name: median(cost["wall"] for cost in costs) for name, costs in result["naive"].items()}
    return [
        f"{result['windows']} windows of 256 tokens, {result['cores']} cores, {result['machine']}, load {result['load']:.1f}; "
        + ", ".join(f"{package} {number}" for package, number in result["versions"].items()),
        "            runs per hour  seconds per run  processor seconds per run",
        *(
            f"{name:<12}{result[f'{key}_runs_per_hour']:13.0f}{result[f'{key}_wall_seconds']:17.2f}"
            f"{result[f'{key}_processor_seconds']:27.2f}"
            for name, key in (("study", "study"), ("naive loop", "naive"))
        ),
        f"{'ratio':<12}{'':13}{result['wall_ratio']:17.1f}{result['processor_ratio']:27.1f}",
        "naive, by model: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in per_model.items()),
    ]


if __name__ == "__main__":
    main()
