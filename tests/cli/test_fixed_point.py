"""A model of integers from the command line: quantize, eval, generate, bench."""

from __future__ import annotations

import hashlib
import json

import pytest

from kbit.cli import main

TEXT = "The morning was bright, and the people of the town went down to the river to see the boats come in. " * 10


def exit_code_of(*arguments: object) -> object:
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return end.value.code


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def integers(tmp_path_factory, family, text):
    """The smallest of the family with 4-bit weights and 8-bit activations."""
    out = tmp_path_factory.mktemp("integers") / "out"
    how = ("--fixed-point", "--weights", 4, "--activations", 8, "--text", text, "--out", out)
    assert exit_code_of("quantize", family / "prose-94k", *how) == 0
    return out


def test_quantize_says_what_it_did(family, text, tmp_path, capsys):
    out = tmp_path / "out"
    how = ("--fixed-point", "--weights", 3, "--activations", 6, "--ranges", "mse", "--smooth", "0.5", "--rotate", "none")
    assert exit_code_of("quantize", family / "prose-94k", *how, "--text", text, "--out", out, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["recipe"]["weights"] == "int3-b64-i8"
    expected = {"activations": 6, "ranges": "mse", "smooth": 0.5, "rotate": "none", "tokens": 8192}
    expected["text_sha256"] = hashlib.sha256(TEXT.encode()).hexdigest()
    assert found["recipe"]["fixed_point"] == expected
    assert found["calibration_tokens"] == 256
    assert found["fallbacks"] == []
    assert (
        exit_code_of("quantize", family / "prose-94k", "--fixed-point", "--weights", 4, "--text", text, "--out", tmp_path / "b")
        == 0
    )
    assert "8 bits, a step a row; rotated: inputs" in capsys.readouterr().out


def test_eval_runs_it_watched_or_not(integers, text, capsys):
    figures = []
    for more in ([], ["--check-integer"]):
        options = ("--text", text, "--window", 64, "--max-windows", 2, "--reference", "none", "--json")
        assert exit_code_of("eval", integers, *options, *more) == 0
        figures.append(json.loads(capsys.readouterr().out))
    assert figures[0]["perplexity"] == figures[1]["perplexity"]
    assert figures[0]["bits_per_weight"] == pytest.approx(4.3, abs=0.1)
    assert figures[0]["total_bytes"] > 47_000
    assert figures[0]["parameters"] > 94_000


def test_generate_runs_it_watched_or_not(integers, capsys):
    for sampling in ([], ["--temperature", 0.8, "--top-p", 0.9, "--top-k", 40, "--seed", 7]):
        texts = []
        for more in ([], ["--check-integer"]):
            assert exit_code_of("generate", integers, "--prompt", "The", "--max-tokens", 8, *sampling, *more, "--json") == 0
            found = json.loads(capsys.readouterr().out)
            texts.append(found["text"])
            assert (found["way"], found["compute"]) == ("reference" if more else "native", "integers")
        assert texts[0] == texts[1]


def test_bench_runs_it(integers, capsys):
    options = ("-p", 8, "-n", 4, "-r", 1, "--format", "int4-b64", "--shape", "64x64", "--seconds", 0.1, "--json")
    assert exit_code_of("bench", integers, *options) == 0
    found = json.loads(capsys.readouterr().out)["model"]
    assert (found["way"], found["compute"]) == ("native", "integers")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--weights", 4], "--weights, --activations, --text, --ranges, --smooth and --rotate go with --fixed-point."),
        (["--format", "int4-b64-i8", "--rotate", "all"], "go with --fixed-point. Write it too."),
        (["--fixed-point", "--weights", 4], "a model of integers is calibrated on a text. Write --text FILE."),
        (["--fixed-point", "--weights", 4, "--format", "int4-row"], "--weights 4 and --format int4-row are two formats."),
        (["--fixed-point", "--weights", 9], "weights of 9 bits have no integer form. Write 2 to 8."),
        (["--fixed-point", "--format", "nf4-b64"], "format 'nf4-b64' has no integer form"),
        (["--fixed-point", "--weights", 4, "--activations", 2], "activations of 2 bits are not to be had. Write 4 to 8."),
        (["--fixed-point", "--weights", 4, "--smooth", "strong"], "smooth 'strong' is no strength."),
        (["--fixed-point"], "no format is given. Write --format nf4-b64, or --recipe FILE for a format per layer."),
    ],
)
def test_what_does_not_go_together_is_refused(family, tmp_path, capsys, options, said):
    assert exit_code_of("quantize", family / "prose-94k", *options, "--out", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert said in " ".join(error.split())
    assert not (tmp_path / "out").exists()


def test_options_go_before_a_recipe_of_integers_and_not_before_another(family, text, tmp_path, capsys):
    recipe = tmp_path / "recipe.json"
    how = ("--recipe", recipe, "--text", text, "--ranges", "min-max", "--out", tmp_path / "out", "--json")
    recipe.write_text(json.dumps({"weights": "int4-b64-i8"}))
    assert exit_code_of("quantize", family / "prose-94k", *how) == 2
    assert "go with --fixed-point. Write it too." in " ".join(capsys.readouterr().err.split())
    recipe.write_text(json.dumps({"weights": "int4-b64-i8", "fixed_point": {"activations": 6, "smooth": 0.0}}))
    assert exit_code_of("quantize", family / "prose-94k", *how) == 0
    settings = json.loads(capsys.readouterr().out)["recipe"]["fixed_point"]
    assert (settings["activations"], settings["ranges"], settings["smooth"]) == (6, "min-max", 0.0)


def test_a_model_of_floats_is_not_watched(family, text, capsys):
    for command in (["eval", "--text", text], ["generate", "--prompt", "The"]):
        name, *options = command
        assert exit_code_of(name, family / "prose-94k", *options, "--check-integer") == 2
        assert "is a model of floats, so there is nothing to check" in capsys.readouterr().err


def test_a_model_of_integers_takes_no_other_compute(integers, capsys):
    assert exit_code_of("generate", integers, "--prompt", "The", "--compute", "exact") == 2
    assert "a model of integers alone does not compute in exact. Leave --compute out." in capsys.readouterr().err


def test_a_text_that_is_too_short_is_refused(family, tmp_path, capsys):
    (tmp_path / "short.txt").write_text("Too short.")
    how = ("--fixed-point", "--weights", 4, "--text", tmp_path / "short.txt", "--out", tmp_path / "out")
    assert exit_code_of("quantize", family / "prose-94k", *how) == 2
    assert "Ranges want 64 at least; give a longer text." in capsys.readouterr().err
