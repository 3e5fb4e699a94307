"""What the kernels run on: the instruction set in use and the number of threads, and where each choice comes from.

The instruction set is the best that this machine runs, unless KBIT_ISA names another. Threads are as many as torch has
(torch.get_num_threads()), unless KBIT_NUM_THREADS says how many. Both variables are read once, at the first use of a kernel.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from kbit.errors import KernelError
from kbit.kernels import _native

NEEDS = {
    "avx512_vnni": "AVX-512 (F, BW, VL, DQ) with VNNI and VBMI",
    "avx512": "AVX-512 (F, BW, VL, DQ)",
    "avx2": "AVX2, FMA, F16C and BMI2",
    "neon_dot": "NEON with dot products (ARMv8.2)",
    "neon": "NEON",
    "scalar": "nothing",
}
MOST_THREADS = 1024


@dataclass(frozen=True)
class InstructionSet:
    """One that the kernels were built for: its name, whether this machine runs it, and what it needs of a machine."""

    name: str
    runs: bool
    needs: str


def isas() -> list[InstructionSet]:
    """The instruction sets that were built, the best first."""
    return [InstructionSet(name, runs, NEEDS.get(name, name)) for name, runs in _native.isas()]


def isa() -> str:
    """Name of the instruction set in use. Raises KernelError where KBIT_ISA names none that this machine runs."""
    follow_environment()
    return _native.isa()


def isa_reason() -> str:
    """Why this one is in use."""
    if os.environ.get("KBIT_ISA") == isa():
        return "forced by KBIT_ISA"
    if _native.isa() == next(found.name for found in isas() if found.runs):
        return "the best that this machine runs"
    return "forced by set_isa"


def set_isa(name: str) -> None:
    """Use another instruction set from now on, in all threads. Raises KernelError where it was not built or does not run here."""
    follow_environment()
    _force_isa(name, f"'{name}'")


def threads() -> int:
    """Threads that the next product uses. Raises KernelError where KBIT_NUM_THREADS is no number of threads."""
    follow_environment()
    return forced_threads() or torch.get_num_threads()


def threads_reason() -> str:
    """Where that number comes from."""
    return "KBIT_NUM_THREADS" if forced_threads() else "torch.get_num_threads()"


def read_bandwidth(data: Tensor, rounds: int = 1) -> float:
    """Bytes per second that `threads()` threads read of `data`, over and over, `rounds` times: the ceiling of a product."""
    return _native.read_bandwidth(data, threads(), rounds)


@cache
def follow_environment() -> None:
    """Do what KBIT_ISA and KBIT_NUM_THREADS say; once, before a kernel is used. Raises KernelError for what cannot be done."""
    if name := os.environ.get("KBIT_ISA"):
        _force_isa(name, f"KBIT_ISA={name}")
    forced_threads()


@cache
def forced_threads() -> int:
    """The number that KBIT_NUM_THREADS says, or 0 where it is not set."""
    if not (text := os.environ.get("KBIT_NUM_THREADS")):
        return 0
    if not (text.isascii() and text.isdecimal() and 1 <= int(text) <= MOST_THREADS):
        raise KernelError(f"KBIT_NUM_THREADS={text} is no number of threads. Write a whole number from 1 to {MOST_THREADS}.")
    return int(text)


def follow_threads() -> None:
    """Let the native side have as many threads as it should; cheap enough for every product."""
    wanted = forced_threads() or torch.get_num_threads()
    if wanted != _native.threads():
        _native.set_threads(wanted)


def _force_isa(name: str, what: str) -> None:
    if not _native.set_isa(name):
        why = next(
            (f"needs {isa.needs}, which this machine lacks" for isa in isas() if isa.name == name),
            "is no instruction set that the kernels were built for",
        )
        raise KernelError(f"{what} {why}. Choose among {', '.join(isa.name for isa in isas() if isa.runs)}.")
