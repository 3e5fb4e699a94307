"""Install torch by itself, first, so that a CPU build can be chosen and nobody downloads CUDA unasked.

Run with the interpreter of the environment that torch goes into. What is done, in this order:
1. An --index is given: torch comes from there.
2. --cuda: whatever pip's own index gives, CUDA packages included.
3. What pip's own index gives, where it brings no CUDA packages (macOS, Windows, a local wheel, a mirror of CPU builds).
4. The CPU build of PyTorch's own index, where that answers.
5. Else nothing is downloaded, and a line says how to choose.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
SECONDS_TO_ANSWER = 5
CUDA_PACKAGES = ("nvidia-", "cuda-", "triton")


def pip_install(*arguments: str) -> None:
    """`pip install` in this interpreter's environment; CalledProcessError where it fails."""
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *arguments], check=True)


def packages_of(requirement: str) -> list[str]:
    """Names of all packages that pip's own index would bring; nothing is installed, and only metadata downloaded."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        pip_install("--dry-run", "--ignore-installed", "--report", str(report), requirement)
        return [package["metadata"]["name"].lower() for package in json.loads(report.read_text())["install"]]


def answers(index: str) -> bool:
    """Whether the index has a page for torch."""
    try:
        with urllib.request.urlopen(f"{index}/torch/", timeout=SECONDS_TO_ANSWER):
            return True
    except (urllib.error.URLError, OSError):
        return False


def is_installed(requirement: str) -> bool:
    """Whether the version that the requirement pins, or any where it pins none, is there already."""
    try:
        found = version("torch").split("+")[0]
    except PackageNotFoundError:
        return False
    _, pinned, wanted = requirement.partition("==")
    return not pinned or found == wanted.split("+")[0]


def main() -> None:
    """Parse, choose, install."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("requirement", help="such as torch==2.13.0")
    parser.add_argument("--index", default="", help="an index that holds the build to install")
    parser.add_argument("--cuda", action="store_true", help="take CUDA packages too")
    wanted = parser.parse_args()
    if is_installed(wanted.requirement):
        return
    if wanted.index:
        pip_install("--index-url", wanted.index, wanted.requirement)
        return
    if wanted.cuda:
        pip_install(wanted.requirement)
        return
    cuda = [name for name in packages_of(wanted.requirement) if name.startswith(CUDA_PACKAGES)]
    if not cuda:
        pip_install(wanted.requirement)
    elif answers(CPU_INDEX):
        pip_install("--index-url", CPU_INDEX, wanted.requirement)
    else:
        sys.exit(
            f"{wanted.requirement} from pip's own index brings {len(cuda)} CUDA packages, and {CPU_INDEX} does not answer. "
            "Choose: `make setup TORCH_INDEX=<index of CPU builds>`, or `make setup CUDA=yes` to take them."
        )


if __name__ == "__main__":
    main()
