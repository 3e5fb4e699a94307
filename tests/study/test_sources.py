"""A grid's paths start in its own folder, globs find models and nothing else, and what is not there is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from kbit.errors import StoreError, TextError
from kbit.study.sources import find_models, find_texts, read_texts


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    for name in ("prose-2", "prose-10", "strange[1]"):
        (tmp_path / "family" / name).mkdir(parents=True)
        (tmp_path / "family" / name / "config.json").touch()
    (tmp_path / "family" / "prose-texts").mkdir()
    (tmp_path / "family" / "prose.gguf").touch()
    (tmp_path / "family" / "prose.txt").touch()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "b.txt").write_text("second")
    (tmp_path / "texts" / "a.txt").write_text("first")
    return tmp_path / "family" / "grid.yaml"


@pytest.mark.parametrize(
    ("entries", "found"),
    [
        (["prose-2"], ["prose-2"]),
        (["prose-{10,2}"], ["prose-10", "prose-2"]),
        (["prose*"], ["prose-10", "prose-2", "prose.gguf"]),
        (["prose-2", "prose-*"], ["prose-2", "prose-10"]),
        (["strange[1]"], ["strange[1]"]),
        (["../family/prose-2"], ["../family/prose-2"]),
        (["*[0-9]"], ["prose-10", "prose-2"]),
    ],
)
def test_paths_start_in_the_folder_of_the_grid(grid, entries, found):
    assert find_models(entries, grid) == [str(grid.parent / name) for name in found]


def test_an_absolute_path_stays_and_a_relative_grid_is_made_absolute(grid, monkeypatch):
    assert find_models([str(grid.parent / "prose-2")], Path("elsewhere/grid.yaml")) == [str(grid.parent / "prose-2")]
    monkeypatch.chdir(grid.parent.parent)
    assert find_models(["prose-2"], Path("family/grid.yaml")) == [str(grid.parent / "prose-2")]
    assert find_models(["prose-1*"], Path("family/grid.yaml")) == [str(grid.parent / "prose-10")]


def test_owner_and_name_that_are_no_folder_are_a_hub_id(grid):
    assert find_models(["HuggingFaceTB/SmolLM2-135M"], grid) == ["HuggingFaceTB/SmolLM2-135M"]


def test_a_missing_model_is_named(grid):
    with pytest.raises(
        StoreError, match=r"models: there is no .*/family/prose-3\. Check the path; it starts in the grid's folder\."
    ):
        find_models(["prose-3"], grid)
    with pytest.raises(StoreError, match=r"models: 'tale-\*' finds no folder with a config\.json and no GGUF file"):
        find_models(["tale-*"], grid)


def test_texts_come_in_the_order_that_is_asked_and_are_joined_by_an_empty_line(grid):
    files = find_texts(["../texts/{b,a}.txt"], grid)
    assert read_texts(files) == "second\n\nfirst"
    assert read_texts(find_texts(["../texts/*.txt"], grid)) == "first\n\nsecond"


def test_line_ends_stay_as_they_are(tmp_path):
    (tmp_path / "dos.txt").write_bytes(b"a\r\nb")
    assert read_texts([tmp_path / "dos.txt"]) == "a\r\nb"


def test_a_text_that_is_missing_or_no_text_is_named(grid, tmp_path):
    with pytest.raises(StoreError, match=r"text: there is no .*c\.txt"):
        find_texts(["../texts/c.txt"], grid)
    with pytest.raises(TextError, match=r"texts: cannot be read \(Is a directory\)"):
        read_texts([tmp_path / "texts"])
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(TextError, match=r"latin\.txt: byte 3 is no UTF-8\. Convert the text to UTF-8\."):
        read_texts([tmp_path / "latin.txt"])
