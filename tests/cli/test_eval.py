"""`kbit eval` through the real entry point: what is compared with what, what is printed, what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kbit.cli import main
from kbit.recipes import quantize_checkpoint
from tests.tiny_models import tiny

PROSE = "All human beings are born free and equal in dignity and rights. Sie sind mit Vernunft begabt.\n" * 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny llama, a checkpoint made from it, and texts; its context is 128."""
    folder = tmp_path_factory.mktemp("eval")
    tiny("llama", folder / "llama", num_hidden_layers=1)
    tiny("llama", folder / "other", num_hidden_layers=1, seed=1)
    quantize_checkpoint(str(folder / "llama"), "int3-b16", folder / "small")
    (folder / "prose.txt").write_text(PROSE, encoding="utf-8")
    (folder / "empty.txt").write_text(" \n")
    (folder / "short.txt").write_text("short")
    (folder / "latin.txt").write_bytes("Größe".encode("latin-1"))
    (folder / "tasks").mkdir()
    (folder / "tasks" / "piqa.jsonl").write_text('{"goal": 1}\n')
    return folder


def run(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: str) -> tuple[object, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["eval", *(argument.format(here=folder) for argument in arguments)])
    printed = capsys.readouterr()
    return end.value.code, printed.out, printed.err


def found(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: str) -> dict:
    code, out, err = run(capsys, folder, *arguments, "--text", "{here}/prose.txt", "--json")
    assert code == 0, err
    return json.loads(out)


def test_a_checkpoint_is_compared_with_what_it_was_made_from(capsys, folder: Path) -> None:
    stored = found(capsys, folder, "{here}/small")
    assert stored["reference"] == str(folder / "llama")
    assert stored["kld_mean"] > 0.01
    in_memory = found(capsys, folder, "{here}/llama", "--format", "int3-b16")
    assert (in_memory["format"], in_memory["reference"]) == ("int3-b16 (rtn)", str(folder / "llama"))
    same = set(stored) - {"model", "format", "seconds", "tokens_per_second", "peak_bytes"}
    for key in same:  # sizes too; the checkpoint's bits are multiplied as they lie, so figures are equal to rounding
        near = pytest.approx(in_memory[key], rel=1e-4, abs=1e-5) if isinstance(in_memory[key], float) else in_memory[key]
        assert stored[key] == near, key
    assert stored["total_bits"] == 8 * stored["total_bytes"]


def test_the_keys_are_those_of_the_design(capsys, folder: Path) -> None:
    keys = found(capsys, folder, "{here}/small")
    estimates = ("perplexity", "bits_per_byte", "loss", "kld_mean", "kld_median", "kld_p99", "same_top", "delta_p_mean")
    for key in estimates:
        assert keys[key] is not None
        assert keys[f"{key}_stderr"] > 0
    for key in ("kld_max", "total_bits", "total_bytes", "bits_per_weight", "parameters", "parameters_linear", "seconds"):
        assert keys[key] > 0
    assert keys["peak_bytes"] > 1e7
    assert keys["tokens_per_second"] > 0
    assert keys["protocol"]["window"] == 128


def test_a_model_alone_is_compared_with_nothing(capsys, folder: Path) -> None:
    for arguments in (("{here}/llama",), ("{here}/small", "--reference", "none")):
        alone = found(capsys, folder, *arguments)
        assert alone["reference"] is None
        assert "kld_mean" not in alone


def test_the_distance_of_a_model_from_itself_is_zero(capsys, folder: Path) -> None:
    copy = folder / "copy"
    shutil.copytree(folder / "llama", copy, dirs_exist_ok=True)
    for reference in ("{here}/llama", "{here}/copy"):
        same = found(capsys, folder, "{here}/llama", "--reference", reference)
        assert same["kld_max"] == same["kld_mean"] == same["delta_p_rms"] == same["ln_perplexity_ratio"] == 0
        assert same["same_top"] == 1
    assert found(capsys, folder, "{here}/llama", "--reference", "{here}/other")["kld_mean"] > 0.1


def test_options_change_parts_of_the_protocol(capsys, folder: Path) -> None:
    options = "--protocol llama-perplexity --window 64 --bos --max-windows 3 --dtype bfloat16"
    changed = found(capsys, folder, "{here}/llama", *options.split())
    protocol = {key: value for key, value in changed["protocol"].items() if "sha256" not in key}
    assert protocol == {
        "window": 64,
        "stride": 64,
        "bos": True,
        "score": "second-half",
        "max_windows": 3,
        "dtype": "bfloat16",
        "prepare": "raw",
    }
    assert (changed["windows"], changed["tokens"]) == (3, 3 * 31)


def test_the_table_goes_to_stdout_and_nothing_else_does(folder: Path) -> None:
    command = [sys.executable, "-m", "kbit", "eval", str(folder / "small"), "--text", str(folder / "prose.txt")]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=one_thread, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first.rstrip() == f"{folder}/small on {folder}/prose.txt, against {folder}/llama"
    assert any(line.startswith("Mean PPL(Q)") and "±" in line for line in rest)
    assert "linear weights at" in rest[-1]
    assert "bytes in all; peak memory" in rest[-1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("{here}/llama", "there is nothing to measure on. Write --text FILE, or --tasks lambada --tasks-data DIR."),
        ("{here}/llama --text {here}/none.txt", "{here}/none.txt: cannot be read (No such file or directory). Name a text file."),
        ("{here}/llama --text {here}", "{here}: cannot be read (Is a directory). Name a text file."),
        ("{here}/llama --text {here}/empty.txt", "{here}/empty.txt: the text is empty. Give one with something to read."),
        (
            "{here}/llama --text {here}/short.txt",
            "{here}/short.txt: the text has 5 tokens, a window 128. Give a longer text, or take a window of at most 5.",
        ),
        (
            "{here}/llama --text {here}/latin.txt",
            "{here}/latin.txt: byte 2 is not UTF-8. Convert it: iconv -f latin1 -t utf-8.",
        ),
        (
            "{here}/llama --text {here}/prose.txt --protocol gpqt",
            "there is no protocol 'gpqt'. There are gptq, llama-perplexity, family.",
        ),
        (
            "{here}/llama --text {here}/prose.txt --window 4096",
            "the protocol's window is 4096 tokens, the model's context 128. Take a window of at most 128.",
        ),
        ("{here}/llama --text {here}/prose.txt --stride 0", "protocol: stride 0 does not fit a window of 2048. Take 1 to 2048."),
        ("{here}/llama --text {here}/prose.txt --format int9-b64", "int9-b64"),
        ("{here}/nowhere --text {here}/prose.txt", "{here}/nowhere: does not exist"),
        ("{here}/llama --text {here}/prose.txt --reference {here}/nowhere", "{here}/nowhere: does not exist"),
        ("{here}/llama --text {here}/prose.txt --device warp", "--device warp: torch cannot compute there"),
        ("{here}/llama --tasks piqa", "--tasks wants the folder of their files. Write --tasks-data DIR."),
        (
            "{here}/llama --tasks chess --tasks-data {here}/tasks",
            "there is no task 'chess'. There are hellaswag, lambada, piqa, winogrande.",
        ),
        (
            "{here}/llama --tasks lambada --tasks-data {here}/tasks",
            "{here}/tasks: there is no lambada*.jsonl. Task lambada wants one, a JSON object with context, continuation on",
        ),
        (
            "{here}/llama --tasks piqa --tasks-data {here}/tasks",
            "{here}/tasks/piqa.jsonl, line 1: task piqa wants a JSON object with query, choices, gold.",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(capsys, folder: Path, arguments: str, said: str) -> None:
    code, out, err = run(capsys, folder, *arguments.split())
    assert (code, out) == (2, "")
    (line,) = [line for line in err.splitlines() if line.startswith("kbit: ")]
    assert said.format(here=folder) in line


def test_a_source_that_is_gone_is_named(capsys, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "llama", tmp_path / "llama")
    quantize_checkpoint(str(tmp_path / "llama"), "int8-row", tmp_path / "small")
    shutil.rmtree(tmp_path / "llama")
    code, _, err = run(capsys, folder, str(tmp_path / "small"), "--text", "{here}/prose.txt")
    assert code == 2
    assert f"{tmp_path}/small was made from {tmp_path}/llama, which is not to be had: " in err
    assert "Name the 16-bit model with --reference, or write --reference none." in err
