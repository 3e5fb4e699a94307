"""Where a study's tasks are carried out: seats that take one task at a time, and who gets which task next."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import torch

from kbit.errors import KbitError, StoreError


class Task(Protocol):
    """What a seat is given: tasks of one `key` share a model, which a seat keeps loaded; `work` says how long it may take."""

    @property
    def key(self) -> str: ...
    @property
    def work(self) -> float: ...


AnyTask = TypeVar("AnyTask", bound=Task)
Result = TypeVar("Result")
Factory = Callable[[], Callable[[AnyTask], Result]]  # called once on each seat; what it gives is called with each task


class Seat(Protocol):
    """One worker. `started` is False where its process never came up, which no other seat would mend."""

    @property
    def started(self) -> bool: ...
    def submit(self, task: Any) -> Future: ...
    def close(self) -> None: ...


class SerialSeat:
    """This process itself."""

    started = True

    def __init__(self, factory: Factory, threads: int) -> None:
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(threads)
        self._work = factory()

    def submit(self, task: Any) -> Future:
        """Carry out `task` at once."""
        future: Future = Future()
        try:
            future.set_result(self._work(task))
        except Exception as error:
            future.set_exception(error)
        return future

    def close(self) -> None:
        """Give this process its number of threads back."""
        torch.set_num_threads(self._threads_before)


class LocalSeat:
    """A process of its own on this machine: a pool of one, so that a death (out of memory) names the task that died."""

    def __init__(self, factory: Factory, threads: int) -> None:
        before = set(multiprocessing.active_children())
        self._pool = ProcessPoolExecutor(
            1, mp_context=multiprocessing.get_context("spawn"), initializer=_start, initargs=(factory, threads)
        )
        self._ready = self._pool.submit(os.getpid)
        self._children = [child for child in multiprocessing.active_children() if child not in before]
        self._last: Future = self._ready

    @property
    def started(self) -> bool:
        """Whether the process came up."""
        return self._ready.done() and self._ready.exception() is None

    def submit(self, task: Any) -> Future:
        """Send `task` to the process."""
        self._last = self._pool.submit(_carry_out, task)
        return self._last

    def close(self) -> None:
        """End the process, in the middle of its task if need be."""
        if not self._last.done():
            for child in self._children:
                child.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)


class RaySeat:
    """An actor of a Ray cluster: the one that RAY_ADDRESS names, or a local one.

    Models and texts must lie where its nodes see them, under the same paths.
    """

    started = True

    def __init__(self, factory: Factory, threads: int) -> None:
        self._ray = _connect_to_ray()
        self._actor = self._ray.remote(_Actor).options(num_cpus=threads).remote(factory, threads)

    def submit(self, task: Any) -> Future:
        """Send `task` to the actor."""
        return self._actor.carry_out.remote(task).future()

    def close(self) -> None:
        """End the actor."""
        with suppress(Exception):  # it may be dead already, in as many ways as Ray has exceptions
            self._ray.kill(self._actor)


class _Actor:
    def __init__(self, factory: Factory, threads: int) -> None:
        torch.set_num_threads(threads)
        self._work = factory()

    def carry_out(self, task: Any) -> Any:
        return self._work(task)


# Name on the command line -> what opens a seat.
EXECUTORS: dict[str, Callable[[Factory, int], Seat]] = {"local": LocalSeat, "serial": SerialSeat, "ray": RaySeat}


def cores(executor: str) -> int:
    """The cores that the seats of `executor` may share: those of this process, or those of the Ray cluster."""
    if executor == "ray":
        return int(_connect_to_ray().cluster_resources().get("CPU", 1))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def carry_out(
    factory: Factory[AnyTask, Result], tasks: Sequence[AnyTask], *, executor: str = "local", workers: int = 1, threads: int = 1
) -> Iterator[tuple[AnyTask, Result | BaseException]]:
    """Carry out every task once, on `workers` seats of `threads` threads; gives each with its result as it ends.

    A seat keeps to the tasks of one key while there are some, then takes the largest key that no seat is at, and then helps
    where most work per seat is left: so models are loaded as seldom as can be, and the last ones are shared.
    A seat that dies gives its death as the result of its task and is replaced; nothing is tried twice.
    Raises StoreError where a seat's process does not even start.
    """
    waiting = _by_key(tasks)
    seats: list[Seat] = []
    busy: dict[Future, tuple[int, AnyTask]] = {}
    try:
        for number in range(min(workers, len(tasks))):
            seats.append(EXECUTORS[executor](factory, threads))
            _next(number, None, seats, waiting, busy)
        while busy:
            for future in wait(busy, return_when=FIRST_COMPLETED).done:
                number, task = busy.pop(future)
                fault = future.exception()
                if fault is not None:
                    _replace(number, seats, EXECUTORS[executor], factory, threads)
                _next(number, task.key, seats, waiting, busy)
                yield task, fault if fault is not None else future.result()
    finally:
        for seat in seats:
            seat.close()


def _by_key(tasks: Sequence[AnyTask]) -> dict[str, deque[AnyTask]]:
    waiting: dict[str, deque[AnyTask]] = {}
    for task in tasks:
        waiting.setdefault(task.key, deque()).append(task)
    return waiting


def _next(
    number: int, key: str | None, seats: list[Seat], waiting: dict[str, deque[AnyTask]], busy: dict[Future, tuple[int, AnyTask]]
) -> None:
    """Give seat `number`, which has the model of `key` loaded, its next task, if any is left."""
    if key is None or not waiting.get(key):
        left = {key: sum(task.work for task in tasks) for key, tasks in waiting.items() if tasks}
        if not left:
            return
        at_it = [task.key for _, task in busy.values()]
        key = max(left, key=lambda key: (key not in at_it, left[key] / (1 + at_it.count(key))))
    task = waiting[key].popleft()
    busy[seats[number].submit(task)] = (number, task)


def _replace(number: int, seats: list[Seat], open_seat: Callable[[Factory, int], Seat], factory: Factory, threads: int) -> None:
    if not seats[number].started:
        raise StoreError(
            "a worker process did not start; its own words are above. A program that calls run_study does so under "
            "`if __name__ == '__main__':`; the executor 'serial' needs no processes."
        )
    seats[number].close()
    seats[number] = open_seat(factory, threads)


_work: Callable[[Any], Any] | None = None  # of this worker process, made by its first call


def _start(factory: Factory, threads: int) -> None:
    """Prepare a worker process: its threads, its state, and its end when the study is killed."""
    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the study ends its workers itself
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _work = factory()


def _end_with_parent() -> None:
    """A worker whose study was killed would wait for ever: its own copy of the queue keeps the queue open."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _carry_out(task: Any) -> Any:
    assert _work is not None
    return _work(task)


def _connect_to_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise KbitError(
            "the executor 'ray' needs Ray, which is not installed. Install it with: pip install 'kbit[ray]'"
        ) from None
    if not ray.is_initialized():
        ray.init(logging_level=logging.ERROR, log_to_driver=False)
    return ray
