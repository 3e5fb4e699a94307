"""Install what the build of the kernels needs: the packages of [build-system] in pyproject.toml; cmake and ninja where missing.

Run with the interpreter of the environment they go into. With them there, kbit is built without pip's isolation, in a folder that
stays, so that a change of one C++ file compiles that file.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def pip_install(requirements: list[str]) -> None:
    """`pip install` in this interpreter's environment; CalledProcessError where it fails."""
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *requirements], check=True)


def main() -> None:
    """Install the builder, then what it asks for on this machine."""
    pip_install(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"])
    ask = [sys.executable, "-m", "scikit_build_core.build", "requires", "--mode", "editable", "--type", "dynamic"]
    if missing := json.loads(subprocess.run(ask, check=True, capture_output=True, text=True, cwd=ROOT).stdout):
        pip_install(missing)


if __name__ == "__main__":
    main()
