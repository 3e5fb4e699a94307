"""Every executor carries out each task once, survives the death of a worker, and leaves no process behind."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import Future
from dataclasses import dataclass

import psutil
import pytest

from kbit.errors import KbitError
from kbit.study import executors
from kbit.study.executors import EXECUTORS, carry_out

NO_RAY = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'kbit[ray]'")
ALL = [pytest.param(name, marks=[pytest.mark.ray, pytest.mark.slow, NO_RAY] if name == "ray" else []) for name in EXECUTORS]
WITH_PROCESSES = [param for param in ALL if param.values[0] != "serial"]


@dataclass(frozen=True)
class Toy:
    """A task that answers, raises or dies."""

    key: str
    number: int
    deed: str = "answer"
    work: float = 1.0


class Worker:
    """Answers with its process, the number, and how often its key has changed."""

    def __init__(self) -> None:
        self.key, self.loads = "", 0

    def __call__(self, task: Toy) -> tuple[int, int, int]:
        if task.key != self.key:
            self.key, self.loads = task.key, self.loads + 1
        if task.deed == "raise":
            raise ValueError("a bug of ours")
        if task.deed == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if task.deed == "wait":
            time.sleep(60)
        return os.getpid(), task.number, self.loads


def toys(**counts: int) -> list[Toy]:
    return [Toy(key, number) for key, count in counts.items() for number in range(count)]


@pytest.mark.parametrize("executor", ALL)
def test_each_task_is_carried_out_once_and_an_exception_is_the_result_of_its_task_alone(executor):
    tasks = [*toys(a=3, b=2), Toy("a", 3, "raise")]
    results = {(task.key, task.number): result for task, result in carry_out(Worker, tasks, executor=executor, workers=2)}
    assert isinstance(results.pop(("a", 3)), ValueError)
    assert {place: result[1] for place, result in results.items()} == {
        (task.key, task.number): task.number for task in toys(a=3, b=2)
    }


@pytest.mark.parametrize("executor", EXECUTORS)
def test_no_task_opens_no_seat(executor):
    assert list(carry_out(Worker, [], executor=executor, workers=2)) == []


def test_a_seat_keeps_to_its_model_and_the_largest_comes_first():
    done = list(carry_out(Worker, toys(small=2, large=3), executor="serial", workers=1))
    assert [task.key for task, _ in done] == ["large"] * 3 + ["small"] * 2
    assert [result[2] for _, result in done] == [1, 1, 1, 2, 2]


class Patient:
    """A seat whose tasks never end."""

    started = True

    def submit(self, task: Toy) -> Future:
        return Future()

    def close(self) -> None:
        pass


def test_a_free_seat_takes_a_model_that_no_other_has_and_else_helps_where_most_is_left():
    tasks = [Toy("large", number, work=9) for number in range(4)] + [Toy("small", number) for number in range(2)]
    waiting, seats, busy = executors._by_key(tasks), [Patient()] * 3, {}
    given = []
    for seat, loaded in [(0, None), (1, None), (2, None), (1, "small"), (1, "small"), (0, "large"), (2, "large")]:
        before = set(busy)
        executors._next(seat, loaded, seats, waiting, busy)
        given.append([busy[future][1].key for future in set(busy) - before])
    assert given == [["large"], ["small"], ["large"], ["small"], ["large"], ["large"], []]


@pytest.mark.parametrize("executor", WITH_PROCESSES)
def test_a_worker_that_is_killed_is_replaced(executor):
    tasks = [Toy("a", 0), Toy("a", 1, "die"), Toy("a", 2)]
    results = {task.number: result for task, result in carry_out(Worker, tasks, executor=executor)}
    assert isinstance(results[1], Exception)
    assert [results[number][1] for number in (0, 2)] == [0, 2]


def test_a_study_that_stops_in_the_middle_ends_its_workers():
    before = {child.pid for child in psutil.Process().children()}
    work = carry_out(Worker, [Toy("a", 0), Toy("a", 1, "wait")], executor="local", workers=2)
    assert next(work)[0].number == 0
    start = time.monotonic()
    work.close()
    assert time.monotonic() - start < 30
    left = [
        child for child in psutil.Process().children() if child.pid not in before and "tracker" not in " ".join(child.cmdline())
    ]
    assert left == []


PROGRAM = textwrap.dedent(
    """
    import psutil
    from kbit.study.executors import carry_out
    from tests.study.test_executors import Toy, Worker

    {guard}
        work = carry_out(Worker, [Toy("a", 0), Toy("a", 1, "wait")], executor="local", workers=1)
        next(work)
        print(*[child.pid for child in psutil.Process().children(recursive=True)], flush=True)
        next(work)
    """
)


def test_workers_end_when_their_study_is_killed(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(guard="if __name__ == '__main__':"))
    study = subprocess.Popen(
        [sys.executable, str(program)], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()}
    )
    pids = [int(pid) for pid in study.stdout.readline().split()]
    assert pids
    study.kill()
    study.wait()
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=20)
    assert alive == []
    study.stdout.close()


@pytest.mark.slow
def test_a_program_without_a_guard_is_told_so_at_once(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(guard="if True:"))
    ended = subprocess.run(
        [sys.executable, str(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert "StoreError: a worker process did not start; its own words are above. A program that calls run_study" in ended.stderr


def test_a_missing_ray_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(KbitError, match=r"needs Ray, which is not installed\. Install it with: pip install 'kbit\[ray\]'"):
        list(carry_out(Worker, toys(a=1), executor="ray"))


def test_local_seats_share_the_cores_of_this_process():
    assert 1 <= executors.cores("local") <= os.cpu_count()
