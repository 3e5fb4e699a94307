"""docs/checkpoints.md: its program reads what kbit writes, and it names what is in the code."""

import re
from pathlib import Path

import numpy as np

from kbit.checkpoints.modules import FORMAT_VERSION
from kbit.packed.parts import PART_DTYPES
from tests.checkpoints.kbit_folders import packed_random, write_modules

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "checkpoints.md").read_text(encoding="utf-8")


def test_the_program_that_reads_without_kbit_gives_the_weights(tmp_path):
    program = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)[-1]
    scope: dict = {}
    exec(program, scope)
    for n_out, n_in in [(160, 64), (17, 100), (1, 1), (33, 129)]:
        packed = packed_random("nf4-b64", (n_out, n_in))
        folder = write_modules(tmp_path / f"{n_out}-{n_in}", {"model.up": packed})
        np.testing.assert_array_equal(scope["read_nf4"](folder, "model.up"), packed.dequantize().numpy())


def test_every_part_and_the_version_are_described():
    layout = (DOCS / "formats.md").read_text(encoding="utf-8").split("## Where each number lies")[1].split("\n## ")[0]
    for text in (TEXT, layout):
        assert all(f"`{suffix}`" in text for suffix in PART_DTYPES if suffix)
        assert f"`format_version` {FORMAT_VERSION}" in text
