"""The command line: one file per command, each thin; faults of the user end with exit code 2 and one line."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Annotated

import typer

from kbit.errors import KbitError

# Name of the command -> its module in kbit.cli and the function there. A new command is a line here and its file.
COMMANDS: dict[str, tuple[str, str]] = {
    "info": ("info", "info"),
    "train-family": ("train_family", "train_family"),
}

# What the operating system may refuse because of the user's machine or arguments, and what he can do about it.
MEND = {
    errno.ENOSPC: "Free some space on that disk, then run the command again.",
    errno.EDQUOT: "Free some of your quota, then run the command again.",
    errno.ENOENT: "Check the path.",
    errno.EISDIR: "Name a file, not a directory.",
    errno.ENOTDIR: "Check the path.",
    errno.EACCES: "Check who may read and write there.",
    errno.EPERM: "Check who may read and write there.",
    errno.EROFS: "Choose a place that can be written.",
    errno.ENAMETOOLONG: "Choose a shorter path.",
}


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"kbit {version('kbit')}")
        raise typer.Exit


def _about(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Given so many bytes of memory, which language model, at how many bits per weight, is the best one to run?

    Example: kbit plan --store runs.db --memory 2MB
    """


def build_app() -> typer.Typer:
    """The program: every command of COMMANDS, in that order."""
    app = typer.Typer(name="kbit", no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.callback()(_about)
    for name, (module, function) in COMMANDS.items():
        command: Callable[..., None] = getattr(import_module(f"kbit.cli.{module}"), function)
        app.command(name, no_args_is_help=False)(command)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0, or 2 for a fault of the user's, 1 for one of ours, 130 when interrupted.

    arguments: what follows `kbit`; by default those of the process. A KbitError, and what the operating system refuses
    (MEND), become one line on stderr; any other exception keeps its traceback, since it is ours to mend.
    """
    try:
        build_app()(arguments, prog_name="kbit")
    except KbitError as error:
        _leave(str(error))
    except OSError as error:
        if error.errno not in MEND:
            raise
        place = f"{error.filename}: " if error.filename else ""
        _leave(f"{place}{error.strerror}. {MEND[error.errno]}")


def _leave(fault: str) -> None:
    print(f"kbit: {' '.join(fault.split())}", file=sys.stderr)
    sys.exit(2)
