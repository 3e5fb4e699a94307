"""Check that the core works without any extra: everything but the core's own dependencies is hidden from imports.

Builds the wheel, unpacks it, and from there, with no other package visible: imports every module of kbit, asks every
command for its help, then quantizes and evaluates a bundled model. This is what a user of a plain `pip install kbit` has.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


def core_packages() -> set[str]:
    """Names of the packages that `pip install kbit` without extras brings."""
    found: set[str] = set()
    open_names = ["kbit"]
    while open_names:
        name = open_names.pop()
        if name in found:
            continue
        found.add(name)
        try:
            lines = requires(name) or []
        except PackageNotFoundError:
            continue  # a requirement of another platform
        for requirement in map(Requirement, lines):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                open_names.append(canonicalize_name(requirement.name))
    return found


def hide_all_but(kept: set[str]) -> list[str]:
    """Make the modules of all other installed packages impossible to import; their names."""
    hidden = {
        module
        for module, packages in packages_distributions().items()
        if not {canonicalize_name(package) for package in packages} & kept
    }
    find = PathFinder.find_spec

    def find_spec(name: str, path: object = None, target: object = None) -> object:
        return None if name.partition(".")[0] in hidden else find(name, path, target)  # type: ignore[arg-type]

    PathFinder.find_spec = find_spec  # type: ignore[method-assign, assignment]
    return sorted(hidden)


def unpacked_wheel(folder: Path) -> Path:
    """Build the wheel of this tree, as pip does for a user: apart from what was built before; the folder it was unpacked into."""
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder), str(ROOT)]
    subprocess.run([*build, "-C", f"build-dir={folder / 'build'}"], check=True)
    (wheel,) = folder.glob("kbit-*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder / "unpacked")
    return folder / "unpacked"


def forget_editable_install() -> None:
    """Let `import kbit` find what sys.path names, not the source tree that an editable install redirects to."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != "_editable_skbc_kbit"]


def run(*arguments: str) -> None:
    """Run a command of the program in this process; SystemExit where it fails."""
    from kbit.cli import main

    try:
        main(arguments)
    except SystemExit as end:
        if end.code:
            sys.exit(f"kbit {' '.join(arguments)} ended with {end.code} in the bare core")


def main() -> None:
    """Build, hide, import, run."""
    with tempfile.TemporaryDirectory() as folder:
        sys.path.insert(0, str(unpacked_wheel(Path(folder))))
        os.chdir(folder)
        forget_editable_install()
        print("hidden:", *hide_all_but(core_packages()))
        import kbit
        from kbit.cli import COMMANDS

        assert Path(kbit.__file__).is_relative_to(folder), f"{kbit.__file__} is not the wheel's"
        names = [module.name for module in pkgutil.walk_packages(kbit.__path__, "kbit.")]
        for name in names:
            if name != "kbit.__main__":
                importlib.import_module(name)
        for command in COMMANDS:
            run(command, "--help")
        model = ROOT / "family" / "prose-94k"
        run("quantize", str(model), "--format", "int4-b64", "--out", "small")
        run("eval", "small", "--text", str(ROOT / "family" / "texts" / "books.txt"))
        print(f"the bare core imports {len(names)} modules and runs {len(COMMANDS)} commands")


if __name__ == "__main__":
    main()
