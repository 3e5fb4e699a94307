"""A tiny model, a text and a grid of both, for the tests that measure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kbit.study import runner
from tests.tiny_models import tiny

TEXT = "It was a bright cold day in April, and the clocks were striking thirteen. " * 12
GRID = """\
models: MODELS
formats: [f32, 'int{3..4}-b32']
protocols:
  short: {text: text.txt, window: 64, max_windows: 6}
"""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the models `one` and `two` (Llama-like, float32, two seeds) and text.txt. Not to be changed."""
    folder = tmp_path_factory.mktemp("study")
    for seed, name in enumerate(("one", "two")):
        tiny("llama-tied", folder / name, seed=seed)
    (folder / "text.txt").write_text(TEXT)
    return folder


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread, as everywhere in the tests: two that spin for a tiny matrix are slower on a busy machine."""
    monkeypatch.setattr(runner, "cores", lambda executor: 1)


@pytest.fixture
def write_grid(folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write a grid beside links to the models and the text; `models` names those, `more` is further YAML."""

    def write(models: str = "one", more: str = "", text: str = GRID) -> Path:
        for source in folder.iterdir():
            if not (tmp_path / source.name).exists():
                (tmp_path / source.name).symlink_to(source)
        path = tmp_path / "grid.yaml"
        path.write_text(text.replace("MODELS", models) + more)
        return path

    return write
