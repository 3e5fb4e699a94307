"""What a step of quantization-aware training costs beside a plain step of the same model: time and memory.

plain: AdamW on the cross-entropy, as any training. qat: the fake quantizers, the teacher's forward pass and the KL divergence.
qat without a teacher: the same on the cross-entropy alone. Steps take turns, so that heat and neighbours fall on all alike.
Memory is the peak of a process of its own for each, less what it held before its model was loaded.

    python benchmarks/qat_speed.py family/prose-94k family/prose-1.9m --format int2-b64 --json
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from copy import deepcopy

import torch
from torch.nn.functional import cross_entropy

ROUNDS = 15
KINDS = ("plain", "qat", "qat without a teacher")


def steps(name: str, fmt: str, batch: int, window: int, precision: str, kinds: tuple[str, ...]) -> dict[str, Callable[[], None]]:
    """One training step of each kind, on its own copy of the model `name`."""
    from kbit.models import load
    from kbit.qat import TrainPlan, prepare_qat
    from kbit.qat.loss import distillation
    from kbit.qat.train import BETAS, parameter_groups

    teacher = load(name)
    plan = TrainPlan(steps=1, rate=1e-5)
    windows = torch.randint(0, teacher.config.vocab_size, (batch, window + 1), generator=torch.Generator().manual_seed(0))
    ids, tokens = windows[:, :-1], windows[:, 1:]

    def step_of(kind: str) -> Callable[[], None]:
        model = (deepcopy(teacher) if kind == "plain" else prepare_qat(teacher, fmt)).train().requires_grad_(True)
        groups = [{"params": list(model.parameters()), "lr": 1e-5}] if kind == "plain" else parameter_groups(model, plan)
        optimizer = torch.optim.AdamW(groups, betas=BETAS, fused=True)

        def step() -> None:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
                said = None
                if kind == "qat":
                    with torch.no_grad():
                        said = teacher(input_ids=ids, use_cache=False).logits
                logits = model(input_ids=ids, use_cache=False).logits
            if kind == "plain":
                loss = cross_entropy(logits.float().flatten(0, 1), tokens.flatten())
            else:
                loss = distillation(logits, said, tokens, 0.0 if kind == "qat" else 1.0)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    return {kind: step_of(kind) for kind in kinds}


def alternate(calls: dict[str, Callable[[], None]], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Seconds per call; candidates take turns, and the first turn is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def peak(arguments: argparse.Namespace, name: str, kind: str) -> int:
    """Most bytes that three steps of this kind hold, in a process of their own, above those it has without a model."""
    command = [sys.executable, __file__, name, "--only", kind, "--format", arguments.format, "--batch", str(arguments.batch)]
    command += ["--window", str(arguments.window), "--precision", arguments.precision]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="folders or hub ids")
    parser.add_argument("--format", default="int2-b64")
    parser.add_argument("--batch", type=int, default=8, help="windows of a step")
    parser.add_argument("--window", type=int, default=256, help="tokens of a window")
    parser.add_argument("--precision", choices=("f32", "bf16"), default="f32")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=KINDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    how = (arguments.format, arguments.batch, arguments.window, arguments.precision)
    if arguments.only:
        import kbit.qat.train  # libraries are no memory of the model
        from kbit.recipes.peak import peak_bytes, restart_peak

        assert kbit.qat.train
        restart_peak()
        before = peak_bytes()
        (call,) = steps(arguments.models[0], *how, (arguments.only,)).values()
        for _ in range(3):
            call()
        print(peak_bytes() - before)
        return
    rows = []
    for name in arguments.models:
        seconds = alternate(steps(name, *how, KINDS), arguments.rounds)
        for kind in KINDS:
            row = {"model": name, "format": arguments.format, "precision": arguments.precision, "step": kind}
            row |= {"seconds": min(seconds[kind]), "seconds_median": statistics.median(seconds[kind])}
            rows.append(row | {"tokens": arguments.batch * arguments.window, "bytes": peak(arguments, name, kind)})
    for row in rows:
        plain = next(other for other in rows if other["model"] == row["model"] and other["step"] == "plain")
        row["times_plain"] = row["seconds"] / plain["seconds"]
        row["times_bytes"] = row["bytes"] / plain["bytes"]
    if arguments.json:
        print(
            json.dumps(
                {"machine": platform.processor() or platform.machine(), "torch": torch.__version__, "rows": rows}, indent=2
            )
        )
        return
    print(f"{'model':24} {'step':22} {'ms':>9} {'of plain':>9} {'MB':>8} {'of plain':>9}")
    for row in rows:
        print(
            f"{row['model']:24} {row['step']:22} {1e3 * row['seconds']:9.1f} {row['times_plain']:9.2f} "
            f"{row['bytes'] / 1e6:8.1f} {row['times_bytes']:9.2f}"
        )


if __name__ == "__main__":
    main()
