"""Instruction sets and threads: the one that was forced ran, and what cannot be had is refused with what can."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kbit import kernels
from kbit.errors import KernelError
from kbit.kernels import _native, machine
from tests.kernels.matrices import small_matrix

ALL = [isa.name for isa in kernels.isas()]
RUNNING = [isa.name for isa in kernels.isas() if isa.runs]
OBJECTS = [*(Path(__file__).parents[2] / "build").glob("cp*/CMakeFiles/kbit_kernels.dir/isa_*.o")]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """The instruction set and the threads of torch come back, and what was read from the environment is forgotten."""
    isa, threads = kernels.isa(), torch.get_num_threads()
    yield
    machine.follow_environment.cache_clear()
    machine.forced_threads.cache_clear()
    _native.set_isa(isa)
    torch.set_num_threads(threads)


def multiply(compute: str = "int8") -> None:
    """A product of some tiles."""
    matrix = small_matrix(64, 64)
    matrix.product(torch.ones(1, 64), torch.empty(1, 64), compute)


def shares() -> dict[str, int]:
    """By instruction set, how often its own code has multiplied: counted by that code itself."""
    return dict(_native.isa_shares())


def test_scalar_runs_everywhere_and_is_the_last_choice():
    assert ALL[-1] == RUNNING[-1] == "scalar"


@pytest.mark.parametrize("compute", ["int8", "exact"])
@pytest.mark.parametrize("name", RUNNING)
def test_the_instruction_set_that_was_set_runs_and_no_other(name, compute):
    kernels.set_isa(name)
    assert kernels.isa() == name
    before = shares()
    multiply(compute)
    assert {isa for isa, count in shares().items() if count > before[isa]} == {name}


@pytest.mark.parametrize("name", RUNNING)
def test_the_instruction_set_that_kbit_isa_forces_runs_and_no_other(name):
    code = "from tests.kernels.test_machine import multiply, shares; multiply(); print(*(n for n, c in shares().items() if c))"
    forced = {**os.environ, "KBIT_ISA": name}
    done = subprocess.run([sys.executable, "-c", code], env=forced, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [name]


def test_without_a_word_the_best_that_runs_is_in_use(monkeypatch):
    monkeypatch.delenv("KBIT_ISA", raising=False)
    done = subprocess.run(
        [sys.executable, "-c", "from kbit import kernels; print(kernels.isa(), '|', kernels.isa_reason())"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == f"{RUNNING[0]} | the best that this machine runs"


def test_an_instruction_set_that_was_not_built_is_refused_with_those_that_run(monkeypatch):
    choice = f"is no instruction set that the kernels were built for. Choose among {', '.join(RUNNING)}."
    with pytest.raises(KernelError) as fault:
        kernels.set_isa("mmx")
    assert str(fault.value) == f"'mmx' {choice}"
    monkeypatch.setenv("KBIT_ISA", "mmx")
    machine.follow_environment.cache_clear()
    for use in (kernels.isa, lambda: small_matrix(16, 32), kernels.threads):
        with pytest.raises(KernelError) as fault:
            use()
        assert str(fault.value) == f"KBIT_ISA=mmx {choice}"


def test_an_instruction_set_that_does_not_run_here_is_refused_with_what_it_needs(monkeypatch):
    found = [("avx512", False), ("scalar", True)]
    monkeypatch.setattr(_native, "isas", lambda: found)
    monkeypatch.setattr(_native, "set_isa", lambda name: False)
    with pytest.raises(KernelError) as fault:
        kernels.set_isa("avx512")
    lacking = "'avx512' needs AVX-512 (F, BW, VL, DQ), which this machine lacks. Choose among scalar."
    assert str(fault.value) == lacking


def test_every_instruction_set_says_what_it_needs():
    assert set(ALL) <= set(machine.NEEDS)


def test_threads_are_those_of_torch(monkeypatch):
    monkeypatch.delenv("KBIT_NUM_THREADS", raising=False)
    machine.forced_threads.cache_clear()
    for threads in (2, 1, 3):
        torch.set_num_threads(threads)
        multiply()
        assert kernels.threads() == _native.threads() == threads
    assert kernels.threads_reason() == "torch.get_num_threads()"


def test_kbit_num_threads_goes_before_torch(monkeypatch):
    monkeypatch.setenv("KBIT_NUM_THREADS", "3")
    machine.forced_threads.cache_clear()
    torch.set_num_threads(1)
    multiply()
    assert kernels.threads() == _native.threads() == 3
    assert kernels.threads_reason() == "KBIT_NUM_THREADS"


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "1025", "99999999999999999999", "²"])
def test_what_is_no_number_of_threads_is_refused(text, monkeypatch):
    monkeypatch.setenv("KBIT_NUM_THREADS", text)
    machine.follow_environment.cache_clear()
    machine.forced_threads.cache_clear()
    with pytest.raises(KernelError) as fault:
        small_matrix(16, 32)
    assert str(fault.value) == f"KBIT_NUM_THREADS={text} is no number of threads. Write a whole number from 1 to 1024."


def test_memory_is_read_at_some_speed():
    assert kernels.read_bandwidth(torch.ones(1 << 25, dtype=torch.uint8)) > 0


@pytest.mark.skipif(not OBJECTS, reason="no objects of a build in build/ (make build)")
@pytest.mark.skipif(not shutil.which("nm"), reason="no nm here")
def test_no_code_of_one_instruction_set_can_stand_in_for_that_of_another():
    """The linker keeps one of several weak definitions: of a template shared by all it could be one that this machine lacks."""
    for path in OBJECTS:
        isa = path.name.removeprefix("isa_").partition(".")[0]
        lines = subprocess.run(["nm", "-C", path], capture_output=True, text=True, check=True).stdout.splitlines()
        weak = [line for line in lines if line[17:18] in "WVu" and line[17:18]]
        assert [line for line in weak if f"kbit::{isa}::" not in line] == []
