"""Calls that take turns: round after round, in another order each time, beside a streaming read of memory.

So heat and noisy neighbours fall on all alike, and each round says what this machine could read just then. A Candidate, which
is a way to multiply, has several copies of its weight and uses each once a turn, so that it finds none in the last-level cache.
"""

from __future__ import annotations

import json
import platform
import random
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

import psutil
from torch import Tensor

from kbit import kernels
from kbit.kernels.bench import cpu_name


@dataclass(frozen=True)
class Candidate:
    """A way to multiply. `turn()` multiplies the same activations by each of `copies` equal matrices, of n_bytes each.

    width: the bits of a code, "ternary", or "16" and "32" for floats: what it is compared with. scales: what shares one, such as
    "64" columns or a "row"; "" for floats. activations: what they become, such as "int8 by 256" or "float32".
    """

    who: str
    name: str
    width: str
    scales: str
    activations: str
    n_bytes: int
    copies: int
    turn: Callable[[], object]


@dataclass
class Turns:
    """What was measured: seconds of each turn, by name; bytes per second of the read in each round."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    ceilings: list[float] = field(default_factory=list)
    other_cores: float = 0.0  # cores that other programs, or other machines on this host, kept busy meanwhile


def take_turns(
    calls: dict[str, Callable[[], object]],
    data: Tensor,
    *,
    seconds: float,
    least: int = 5,
    most: int = 101,
    settle: float = 0,
) -> Turns:
    """Rounds of one turn each, for `seconds` in all, but at least `least` and at most `most`.

    data: what is read in each round, as `kbit bench` does. settle: seconds of sleep before each turn, for pools whose idle
    threads spin and would disturb the next one; a read after it wakes the cores again, which take milliseconds for it. A first
    turn of each warms up and is not counted; what fails in it is told on stderr and left out.
    """
    found, order = Turns(), random.Random(0)
    names = [name for name, call in calls.items() if runs(name, call)]
    found.seconds = {name: [] for name in names}
    began, busy, own = time.perf_counter(), busy_seconds(), time.process_time()
    for turn in range(most):
        if turn >= least and time.perf_counter() - began > seconds:
            break
        found.ceilings.append(kernels.read_bandwidth(data))
        order.shuffle(names)
        for name in names:
            if settle:
                time.sleep(settle)
                found.ceilings.append(kernels.read_bandwidth(data))
            start = time.perf_counter()
            calls[name]()
            found.seconds[name].append(time.perf_counter() - start)
    wall = time.perf_counter() - began
    found.other_cores = max(0.0, busy_seconds() - busy - (time.process_time() - own)) / wall
    return found


def runs(name: str, call: Callable[[], object]) -> bool:
    """One turn, not counted; whether it went through."""
    try:
        call()
    except Exception as error:
        say(f"{name} does not run: {type(error).__name__}: {str(error)[:200]}")
        return False
    return True


def busy_seconds() -> float:
    """Seconds that all cores together were busy since the machine started, stolen ones included."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0) - getattr(times, "guest", 0) - getattr(times, "guest_nice", 0)


def spread(values: Iterable[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    ordered = sorted(values)
    if len(ordered) < 2:
        return ordered[0], ordered[0], ordered[0]
    low, _, high = quantiles(ordered, n=4, method="inclusive")
    return low, median(ordered), high


def machine() -> str:
    """What it was measured on."""
    return f"{cpu_name()}, Python {platform.python_version()}"


def say(line: str) -> None:
    """A remark, on stderr: stdout is for the table or the rows."""
    print(f"# {line}", file=sys.stderr, flush=True)


def read_rows(files: Iterable[Path]) -> list[dict]:
    """The rows of files of JSON lines."""
    return [json.loads(line) for file in files for line in file.read_text().splitlines() if line.strip()]
