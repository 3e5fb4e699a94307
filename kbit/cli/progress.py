"""Progress on stderr: a bar with a time to go on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[float, float, str], None]  # steps done, steps in all (0: not known yet), what is being done

SECONDS_BETWEEN_LINES = 10.0  # where stderr is no terminal


@contextmanager
def bar(description: str, *, percent: bool = False) -> Iterator[Advance]:
    """Show how far a piece of work is; gives `advance(done, total, text="")` to call after each step.

    On a terminal a bar with the time gone and the time to go, removed when the work ends; elsewhere (a log, CI) one line
    each 10 seconds, so that nothing is flooded. Nothing is written on stdout.
    percent: show whole percent of the total; for steps that nobody counts, such as a share of the work.
    """
    with (_drawn if sys.stderr.isatty() else _logged)(description, percent) as advance:
        yield advance


@contextmanager
def _drawn(description: str, percent: bool) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:.0f}%") if percent else MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("gone,"),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("to go  {task.fields[doing]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=None, doing="")

        def advance(done: float, total: float, text: str = "") -> None:
            progress.update(task, completed=done, total=total or None, doing=text)

        yield advance


@contextmanager
def _logged(description: str, percent: bool) -> Iterator[Advance]:
    start = last = time.monotonic()

    def advance(done: float, total: float, text: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < SECONDS_BETWEEN_LINES:
            return
        last = now
        gone = now - start
        to_go = f", {_clock(gone * (total - done) / done)} to go" if done and total else ""
        print(
            f"{description}: {_far(done, total, percent)}, {_clock(gone)} gone{to_go}  {text}".rstrip(),
            file=sys.stderr,
            flush=True,
        )

    yield advance


def _far(done: float, total: float, percent: bool) -> str:
    if not total:
        return f"{done:g}"
    return f"{100 * done / total:.0f}%" if percent else f"{done:g}/{total:g}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
