"""Measuring on a machine that others use too: candidates take turns, and a streaming read of memory takes its turn among them."""

from __future__ import annotations

import platform
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import median

import psutil
import torch
from torch import Tensor

from kbit.kernels import _native
from kbit.kernels.machine import follow_environment, threads

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
USUAL_CACHE = 32 << 20
LEAST_READ = 256 << 20
READS = 5  # of which the median counts

Advance = Callable[[float, float, str], None]


@dataclass
class Turns:
    """seconds: of each call of each candidate. read: bytes per second that memory gave in each round."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    read: list[float] = field(default_factory=list)


def take_turns(
    calls: Mapping[str, Sequence[Callable[[], object]]],
    data: Tensor,
    *,
    seconds: float,
    least: int = 5,
    most: int = 501,
    progress: Advance | None = None,
) -> Turns:
    """Rounds in which every candidate has one turn, in another order each time, beside a read of `data`.

    A turn makes all calls of a candidate, each timed by itself: most short calls are interrupted by no other process.

    For `seconds` in all, but at least `least` and at most `most` rounds; one before them warms up and is not counted. So heat and
    neighbours fall on all alike, and each round says what memory could give just then.
    """
    turns, order, names = Turns({name: [] for name in calls}), random.Random(0), list(calls)
    began = time.perf_counter()
    for turn in range(-1, most):
        gone = time.perf_counter() - began
        if turn >= least and gone > seconds:
            break
        if progress:
            progress(min(gone, seconds), seconds, f"round {turn + 1}")
        read = _native.read_bandwidth(data, threads(), 1)
        order.shuffle(names)
        for name in names:
            for call in calls[name]:
                start = time.perf_counter()
                call()
                if turn >= 0:
                    turns.seconds[name].append(time.perf_counter() - start)
        if turn >= 0:
            turns.read.append(read)
    return turns


def read_speed(n_threads: int | None = None, data: Tensor | None = None) -> float:
    """Bytes per second that memory gives: the median of READS reads of `data`, by default in as many threads as products have."""
    follow_environment()
    data = to_read() if data is None else data
    n_threads = n_threads or threads()
    _native.read_bandwidth(data, n_threads, 1)
    return median(_native.read_bandwidth(data, n_threads, 1) for _ in range(READS))


def to_read() -> Tensor:
    """Bytes that no cache holds: 256 MiB, or twice the last-level cache where that is more."""
    return torch.ones(max(LEAST_READ, 2 * cache_bytes()), dtype=torch.uint8)


@cache
def cache_bytes() -> int:
    """Bytes of the last-level cache; 32 MiB where the system does not tell."""
    sizes = [path.read_text().strip() for path in CACHES.glob("index*/size")]
    units = {"K": 1 << 10, "M": 1 << 20}
    return max((int(size[:-1]) * units[size[-1]] for size in sizes if size[-1:] in units), default=USUAL_CACHE)


def cpu_name() -> str:
    """The processor and its cores, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, {psutil.cpu_count()} cores, {cache_bytes() >> 20} MiB last-level cache"
