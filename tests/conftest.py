"""What all tests share: tiny models on disk, where outside texts and models lie, and one thread for torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tests.tiny_models import tiny

settings.register_profile("ci", derandomize=True)  # the same examples each time; on a developer's machine new ones
if os.environ.get("CI"):
    settings.load_profile("ci")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Sums in one order on every machine, and no fight for the cores."""
    torch.set_num_threads(1)


def _named_by(variable: str, what: str) -> Path:
    if not (named := os.environ.get(variable)):
        pytest.skip(f"{variable} does not name {what}")
    path = Path(named)
    assert path.exists(), f"{variable} names {path}, which does not exist"
    return path


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder that holds eval/, train/ and models/ (tests marked `assets`)."""
    return _named_by("KBIT_ASSETS", "the folder of outside texts and models")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct.Q4_1.gguf (tests marked `real_model`)."""
    return _named_by("KBIT_SMOLLM2", "the SmolLM2 GGUF file")


@pytest.fixture(scope="session")
def family() -> Path:
    """The folder of the bundled family."""
    return Path(__file__).parents[1] / "family"


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny model, by its name in TINY, written once for all tests; not to be changed."""
    folders: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in folders:
            folders[name] = tiny(name, tmp_path_factory.mktemp(name))
        return folders[name]

    return folder
