"""The program as a whole: instant help, exit codes, one line for a fault of the user's, results on stdout alone."""

from __future__ import annotations

import errno
import json
import math
import resource
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from kbit import cli
from kbit.cli import progress
from kbit.cli.show import show
from kbit.errors import FormatError

HEAVY = ("torch", "transformers", "numpy", "scipy", "plotly", "pydantic", "rich")
KBIT = [sys.executable, "-m", "kbit"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*KBIT, *arguments], capture_output=True, text=True, timeout=60)


@pytest.fixture
def command_raising(monkeypatch):
    """Make `kbit info` raise what is given."""

    def install(fault: BaseException) -> None:
        def info() -> None:
            raise fault

        monkeypatch.setattr(import_module("kbit.cli.info"), "info", info)

    return install


def exit_code_of(*arguments: str) -> object:
    with pytest.raises(SystemExit) as end:
        cli.main(arguments)
    return end.value.code


@pytest.mark.parametrize("command", [(), *((name,) for name in cli.COMMANDS)], ids=lambda command: "-".join(command) or "kbit")
def test_help_is_there_without_any_heavy_import(command):
    code = f"""
import sys
from kbit.cli import main
try:
    main({[*command, "--help"]!r})
except SystemExit as end:
    assert not end.code, end.code
print("imported:", *[name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Usage: kbit" in done.stdout
    assert done.stdout.splitlines()[-1] == "imported:"


def test_help_takes_at_most_three_tenths_of_a_second():
    def seconds() -> float:
        """Of processor time: on a machine with nothing else to do that is the time on the clock, and neighbours are not ours."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(5)) <= 0.3


def test_no_file_of_the_command_line_imports_a_heavy_package_at_its_top():
    for path in Path(cli.__file__).parent.glob("*.py"):
        tops = [line for line in path.read_text().splitlines() if line.startswith(("import ", "from "))]
        assert not [line for line in tops if line.split()[1].split(".")[0] in HEAVY], path


@pytest.mark.parametrize("arguments", [("nonsense",), ("info", "--nonsense"), ("info", "nonsense"), ("train-family",)])
def test_a_wrong_call_ends_with_2_and_says_how_to_go_on(arguments, capsys):
    assert exit_code_of(*arguments) == 2
    assert "Usage: kbit" in capsys.readouterr().err


def test_a_fault_of_the_user_is_one_line_and_exit_code_2(command_raising, capsys):
    command_raising(FormatError("format 'nf4-64': '64' is not a granularity.\nWrite b64."))
    assert exit_code_of("info") == 2
    captured = capsys.readouterr()
    assert captured.err == "kbit: format 'nf4-64': '64' is not a granularity. Write b64.\n"
    assert captured.out == ""


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EROFS, errno.EISDIR])
def test_what_the_system_refuses_is_a_fault_of_the_user(number, command_raising, capsys):
    command_raising(OSError(number, "Not so", "some/path"))
    assert exit_code_of("info") == 2
    assert capsys.readouterr().err == f"kbit: some/path: Not so. {cli.MEND[number]}.\n"


def test_a_fault_of_ours_keeps_its_traceback(command_raising):
    command_raising(ZeroDivisionError("ours"))
    with pytest.raises(ZeroDivisionError, match="ours"):
        cli.main(["info"])


def test_a_fault_of_ours_is_exit_code_1():
    code = """
import kbit.cli.info
from kbit.cli import main
def info(): raise ZeroDivisionError("ours")
kbit.cli.info.info = info
main(["info"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.endswith("ZeroDivisionError: ours\n")


def test_an_interrupt_is_exit_code_130_without_a_traceback(command_raising, capsys):
    command_raising(KeyboardInterrupt())
    assert exit_code_of("info") == 130
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_one_line_and_exit_code_2():
    with open("/dev/full", "w") as full:
        done = subprocess.run([*KBIT, "--help"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr == "kbit: No space left on device. Free some space there, then run the command again.\n"


def test_a_reader_who_leaves_early_hears_nothing():
    with subprocess.Popen([*KBIT, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1


def test_info_names_the_versions_that_are_in_use():
    import torch

    found = json.loads(run("info", "--json").stdout)
    assert found["packages"]["torch"] == torch.__version__
    assert found["cores"] >= 1


def test_info_says_which_instruction_set_is_in_use_and_why(monkeypatch):
    from kbit import kernels

    runs = [isa.name for isa in kernels.isas() if isa.runs]
    monkeypatch.delenv("KBIT_ISA", raising=False)
    monkeypatch.setenv("KBIT_NUM_THREADS", "3")
    text = run("info").stdout
    assert f"isa              {runs[0]}, the best that this machine runs\n" in text
    assert "threads          3, as KBIT_NUM_THREADS says\n" in text
    monkeypatch.setenv("KBIT_ISA", runs[-1])
    found = json.loads(run("info", "--json").stdout)
    assert (found["isa"], found["isa_reason"]) == (runs[-1], "forced by KBIT_ISA")
    states = dict.fromkeys(runs, "runs here") | {runs[-1]: "in use"}
    needs = {isa.name: f"needs {isa.needs}, which this machine lacks" for isa in kernels.isas()}
    assert found["isas"] == needs | states
    assert (found["threads"], found["threads_from"]) == (3, "KBIT_NUM_THREADS")


WRONG = [("KBIT_ISA", "is no instruction set"), ("KBIT_NUM_THREADS", "is no number of threads")]


@pytest.mark.parametrize(("variable", "why"), WRONG)
def test_a_wrong_word_for_the_kernels_is_one_line_and_exit_code_2(variable, why, monkeypatch):
    monkeypatch.setenv(variable, "fast")
    done = run("info")
    assert done.returncode == 2
    assert done.stderr.startswith(f"kbit: {variable}=fast {why}")
    assert done.stderr.count("\n") == 1


@dataclass(frozen=True)
class Measured:
    """Stands for a result of the package."""

    perplexity: float
    losses: np.ndarray

    def to_json(self) -> dict[str, object]:
        return {"perplexity": self.perplexity, "losses": self.losses, "path": Path("a/b"), "kld_max": math.nan}

    def __rich__(self) -> str:
        return "[bold]perplexity[/bold] is lower for the better model"


def test_json_is_one_object_that_any_parser_reads(capsys):
    show(Measured(np.float32(1.5), np.array([1.0, 2.0])), json=True)
    written = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert written == {"perplexity": 1.5, "losses": [1.0, 2.0], "path": "a/b", "kld_max": None}


def test_a_result_prints_as_it_says_and_plain_where_stdout_is_no_terminal(capsys):
    show(Measured(1.5, np.zeros(0)))
    assert capsys.readouterr().out == "perplexity is lower for the better model\n"


def test_a_list_prints_an_item_a_line(capsys):
    show([Path("a"), Path("b")])
    assert capsys.readouterr().out == "a\nb\n"


def test_progress_in_a_log_is_a_line_now_and_then_on_stderr(monkeypatch, capsys):
    times = iter([0.0, 1.0, 20.0, 21.0, 40.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    with progress.bar("studying") as advance:
        for done in (1, 5, 6, 10):
            advance(done, 10, f"run {done}")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "studying: 5/10, 0:00:20 gone, 0:00:20 to go  run 5\nstudying: 10/10, 0:00:40 gone, 0:00:00 to go  run 10\n"
    )


def test_progress_by_share_of_the_work_is_whole_percent(monkeypatch, capsys):
    times = iter([0.0, 117.0, 273.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    with progress.bar("study", percent=True) as advance:
        advance(42.9, 100.0, "6 of 14 runs, tiny int4-b64")
        advance(100.0, 100.0, "14 of 14 runs, tiny nf4-b64")
    assert capsys.readouterr().err == (
        "study: 43%, 0:01:57 gone, 0:02:36 to go  6 of 14 runs, tiny int4-b64\n"
        "study: 100%, 0:04:33 gone, 0:00:00 to go  14 of 14 runs, tiny nf4-b64\n"
    )
