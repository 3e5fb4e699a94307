"""What lies in safetensors files, read without kbit."""

from __future__ import annotations

from pathlib import Path


def data_bytes(folder: Path) -> int:
    """Bytes of all safetensors files of `folder` less their headers."""
    total = 0
    for path in Path(folder).glob("*.safetensors"):
        raw = path.read_bytes()
        total += len(raw) - 8 - int.from_bytes(raw[:8], "little")
    return total
