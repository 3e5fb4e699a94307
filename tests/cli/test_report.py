"""`kbit report` on a store on disk."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kbit.cli import main
from tests.laws.simulate import simulate_table
from tests.laws.stored import write_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(simulate_table(windows=12), tmp_path_factory.mktemp("report") / "runs.db")


def run(capsys, *arguments):
    """Exit code, stdout and stderr of the program."""
    try:
        main(["report", *map(str, arguments)])
    except SystemExit as end:
        return end.code, *capsys.readouterr()
    return 0, *capsys.readouterr()


def test_the_verdict_and_the_path_are_printed_and_the_page_says_where_it_comes_from(store, tmp_path, capsys):
    out = tmp_path / "page"
    code, text, _ = run(capsys, "--store", store, "--out", out, "--title", "My study", "--bootstrap", 3)
    assert code in (0, None)
    verdict, path = text.splitlines()
    assert "best" in verdict
    assert path == str(out / "index.html")
    page = Path(path).read_text(encoding="utf-8")
    assert "<title>My study</title>" in page
    assert f"kbit report --store {store} --out {out} --title" in page
    assert "NUMERICS" in page


def test_json_has_the_path_and_the_verdict(store, tmp_path, capsys):
    code, text, _ = run(capsys, "--store", store, "--out", tmp_path, "--bootstrap", 3, "--json")
    assert code in (0, None)
    values = json.loads(text)
    assert values.keys() == {"path", "verdict"}
    assert Path(values["path"]).stat().st_size > 1_000_000


def test_a_store_that_is_not_there_is_one_line_and_exit_code_2(tmp_path, capsys):
    code, out, err = run(capsys, "--store", tmp_path / "none.db", "--out", tmp_path / "page")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "there is no such file" in err
    assert not (tmp_path / "page").exists()


def test_a_store_of_16_bits_alone_is_one_line_and_exit_code_2(tmp_path, capsys):
    store = write_store(simulate_table(formats=("bf16",), windows=4), tmp_path / "runs.db")
    code, out, err = run(capsys, "--store", store, "--out", tmp_path / "page")
    assert (code, out) == (2, "")
    assert err.startswith("kbit: the store holds no quantized run, so there is nothing to report.")


def test_an_out_that_is_a_file_is_one_line_and_exit_code_2(store, tmp_path, capsys):
    (tmp_path / "page").write_text("a file")
    code, _, err = run(capsys, "--store", store, "--out", tmp_path / "page", "--bootstrap", 3)
    place = tmp_path / "page"
    assert (code, err) == (2, f"kbit: report {place}: {place} is a file, not a folder. Name another folder.\n")
