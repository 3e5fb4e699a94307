"""`kbit info`: which versions, which machine and which optional parts are in use."""

from __future__ import annotations

from typing import Annotated

import typer


def info(json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Say which versions, which machine and which optional parts kbit finds here.

    Example: kbit info --json
    """
    import os
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import psutil
    import torch

    from kbit.cli.show import show

    def version_of(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    packages = ("kbit", "torch", "transformers", "safetensors", "tokenizers", "gguf", "numpy", "scipy", "plotly")
    extras = {"lm-eval": "kbit[eval]", "ray": "kbit[ray]"}
    found = {name: version_of(name) for name in packages}
    found |= {name: f"{version_of(name)} (extra {extra})" for name, extra in extras.items()}
    accelerator = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    facts: dict[str, object] = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_bytes": psutil.virtual_memory().total,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "accelerator": accelerator,
        "packages": found,
    }
    show(facts if json else "\n".join(_lines(facts)), json)


def _lines(facts: dict[str, object]) -> list[str]:
    flat = {key: value for key, value in facts.items() if not isinstance(value, dict)}
    for value in facts.values():
        if isinstance(value, dict):
            flat |= value
    width = max(map(len, flat))
    return [f"{key:<{width}}  {value}" for key, value in flat.items()]
