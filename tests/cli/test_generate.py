"""`kbit generate` through the real entry point."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys

import pytest

import kbit
from kbit.cli import main
from kbit.models.generation import generate

PROMPT = "The morning was"


@pytest.fixture(scope="module")
def prose(request):
    return str(request.getfixturevalue("family") / "prose-754k")


def exit_code_of(*arguments: object) -> object:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return end.value.code


def greedy(model, n):
    return "".join(generate(model, PROMPT, max_tokens=n).pieces())


def test_text_goes_to_stdout_and_figures_to_stderr(prose):
    command = [sys.executable, "-m", "kbit", "generate", prose, "--prompt", PROMPT, "--max-tokens", "16", "--threads", "1"]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == greedy(kbit.load(prose), 16) + "\n"
    lines = done.stderr.splitlines()
    assert lines[0].startswith("prompt: 5 tokens and the first of the answer in ")
    assert lines[1].startswith("answer: 15 more in ")
    assert lines[1].endswith(" GB/s read")
    assert lines[2].startswith("native, exact, ")
    assert lines[2].endswith(", 1 thread")


def test_a_kbit_checkpoint_and_quantizing_in_memory_generate_the_same(prose, tmp_path, capsys):
    kbit.quantize_checkpoint(prose, "int4-b64", tmp_path / "small")
    assert exit_code_of("generate", tmp_path / "small", "--prompt", PROMPT, "--max-tokens", 24) == 0
    stored = capsys.readouterr()
    assert exit_code_of("generate", prose, "--format", "int4-b64", "--prompt", PROMPT, "--max-tokens", 24) == 0
    assert capsys.readouterr().out == stored.out
    assert "native, int8, " in stored.err


def test_json_is_one_object_with_the_text_and_the_figures(prose, capsys):
    options = ["--max-tokens", 8, "--temperature", 0.9, "--top-k", 50, "--top-p", 0.95, "--seed", 4, "--json"]
    assert exit_code_of("generate", prose, "--prompt", PROMPT, *options) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert captured.err == ""
    assert (found["tokens"], found["finish"], found["way"], found["prompt"]) == (8, "length", "native", PROMPT)
    assert found["bytes_per_token"] == 4 * (753_664 + 1024 * 128)  # all in float32, the tied embedding as the output head
    assert found["read_bandwidth"] > 0
    assert exit_code_of("generate", prose, "--prompt", PROMPT, *options) == 0
    assert json.loads(capsys.readouterr().out)["text"] == found["text"]


@pytest.mark.parametrize("given", ["file", "stdin", "dash"])
def test_the_prompt_comes_from_a_file_or_from_stdin_without_its_last_line_end(given, prose, tmp_path, monkeypatch, capsys):
    (tmp_path / "prompt.txt").write_text(PROMPT + "\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(f"{PROMPT}\r\n".encode())))
    options = {"file": ["--prompt-file", tmp_path / "prompt.txt"], "stdin": [], "dash": ["--prompt-file", "-"]}[given]
    assert exit_code_of("generate", prose, *options, "--max-tokens", 8) == 0
    assert capsys.readouterr().out == greedy(kbit.load(prose), 8) + "\n"


def test_a_stop_string_ends_the_text(prose, capsys):
    whole = greedy(kbit.load(prose), 40)
    word = whole.split()[3]
    assert exit_code_of("generate", prose, "--prompt", PROMPT, "--max-tokens", 40, "--stop", word) == 0
    assert capsys.readouterr().out == whole[: whole.index(word)] + "\n"


def test_a_chat_is_written_in_the_models_template(written, tmp_path, capsys):
    folder = tmp_path / "chat"
    shutil.copytree(written("llama"), folder)
    template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    (folder / "chat_template.jinja").write_text(template)
    options = ["--prompt", "Hi", "--max-tokens", 8, "--json"]
    assert exit_code_of("generate", folder, "--chat", "--system", "Be brief.", *options) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["prompt_tokens"] == len("[system]Be brief.") + 1 + len("[user]Hi") + 1 + len("[assistant]")
    assert exit_code_of("generate", folder, *options) == 0
    assert json.loads(capsys.readouterr().out)["prompt_tokens"] == len("Hi")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--prompt", "x", "--chat"], "its tokenizer has no chat template. Leave the chat out, or take a model that is made"),
        (["--prompt", "x", "--system", "y"], "kbit: --system is a message of a chat. Write --chat too."),
        (["--prompt", "x", "--prompt-file", "y"], "kbit: --prompt and --prompt-file are two prompts. Leave one of them out."),
        (["--prompt-file", "none.txt"], "kbit: none.txt: cannot be read (No such file or directory). Name a text file."),
        (["--prompt", "x", "--temperature", "-1"], "kbit: temperature -1 is not to be had."),
        (["--prompt", "x", "--format", "int9-b64"], "kbit: format 'int9-b64'"),
        (["--prompt", "x", "--compute", "int8"], "no layer is packed"),
        (["--prompt", "x " * 300], "kbit: the prompt has "),
    ],
)
def test_a_fault_of_the_user_is_one_line_and_exit_code_2(arguments, said, prose, capsys):
    assert exit_code_of("generate", prose, *arguments) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.startswith("kbit: ")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_without_a_prompt_on_a_terminal_it_says_how_to_give_one(prose, monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    assert exit_code_of("generate", prose) == 2
    assert capsys.readouterr().err == ("kbit: there is no prompt. Write --prompt TEXT or --prompt-file FILE, or pipe it in.\n")
