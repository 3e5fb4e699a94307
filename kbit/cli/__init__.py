"""The command line: one file per command, each thin; faults of the user end with exit code 2 and one line."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Annotated, NoReturn

import typer

from kbit.errors import KbitError

# Name of the command -> its module in kbit.cli and the function there. A new command is a line here and its file.
COMMANDS: dict[str, tuple[str, str]] = {
    "quantize": ("quantize", "quantize"),
    "qat": ("qat", "qat"),
    "eval": ("evaluate", "evaluate"),
    "inspect": ("inspect", "inspect"),
    "study": ("study", "study"),
    "law": ("law", "law"),
    "plan": ("plan", "plan"),
    "report": ("report", "report"),
    "train-family": ("train_family", "train_family"),
    "generate": ("generate", "generate"),
    "bench": ("bench", "bench"),
    "info": ("info", "info"),
}

# What the operating system may refuse because of the user's machine or arguments, and what he can do about it.
MEND = {
    errno.ENOSPC: "Free some space there, then run the command again",
    errno.EDQUOT: "Free some of your quota, then run the command again",
    errno.ENOENT: "Check the path",
    errno.ENOTDIR: "Check the path",
    errno.EISDIR: "Name a file, not a directory",
    errno.EACCES: "Check who may read and write there",
    errno.EPERM: "Check who may read and write there",
    errno.EROFS: "Choose a place that can be written",
    errno.ENAMETOOLONG: "Choose a shorter path",
}


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"kbit {version('kbit')}")
        raise typer.Exit


def _about(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Given so many bytes of memory, which language model, at how many bits per weight, is the best one to run?

    Example: kbit plan --store runs.db --memory 2MB
    """


def build_app(names: Sequence[str] = tuple(COMMANDS)) -> typer.Typer:
    """The program with these commands; with one alone, that command as a program of its own."""
    # Plain help instead of rich's boxes: it starts in two thirds of the time, and the docs quote it as it is.
    app = typer.Typer(
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        no_args_is_help=len(names) > 1,
        add_completion=len(names) > 1,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    if len(names) > 1:
        app.callback()(_about)
    for name in names:
        module, function = COMMANDS[name]
        command: Callable[..., None] = getattr(import_module(f"kbit.cli.{module}"), function)
        app.command(name)(command)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0, or 2 for a fault of the user's, 1 for one of ours, 130 when interrupted.

    arguments: what follows `kbit`; by default those of the process. A KbitError, and what the operating system refuses
    (MEND), become one line on stderr; any other exception keeps its traceback, since it is ours to mend. A reader who
    closes the pipe early (`kbit law | head`) is no error worth a word.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        try:
            if arguments and arguments[0] in COMMANDS:
                # Past the program's own options typer imports pydantic, 0.15 s that the help of a command need not wait for.
                name, *rest = arguments
                build_app([name])(rest, prog_name=f"kbit {name}")
            else:
                build_app()(arguments, prog_name="kbit")
        finally:
            sys.stdout.flush()  # a disk that is full shows here, not when Python has gone
    except KbitError as error:
        _leave(str(error))
    except BrokenPipeError:
        _drop_stdout()
        sys.exit(1)
    except OSError as error:
        if error.errno not in MEND:
            raise
        if error.errno == errno.ENOSPC:
            _drop_stdout()
        place = f"{error.filename}: " if error.filename else ""
        _leave(f"{place}{error.strerror}. {MEND[error.errno]}.")


def _leave(fault: str) -> NoReturn:
    print(f"kbit: {' '.join(fault.split())}", file=sys.stderr)
    sys.exit(2)


def _drop_stdout() -> None:
    """Let what is still buffered go nowhere, so that Python does not try to write it again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
