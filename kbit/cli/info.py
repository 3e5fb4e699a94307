"""`kbit info`: which versions, which machine, which kernels and which optional parts are in use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from kbit.kernels import InstructionSet


def info(json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Say which versions, which machine, which kernels and which optional parts kbit finds here.

    Example: kbit info --json
    """
    import os
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import psutil
    import torch

    from kbit import kernels
    from kbit.cli.show import show

    def version_of(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    packages = ("kbit", "torch", "transformers", "safetensors", "tokenizers", "gguf", "numpy", "scipy", "plotly")
    extras = {"accelerate": "kbit[train]", "lm-eval": "kbit[eval]", "ray": "kbit[ray]"}
    found = {name: version_of(name) for name in packages}
    found |= {name: f"{version_of(name)} (extra {extra})" for name, extra in extras.items()}
    accelerator = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    facts: dict[str, object] = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": kernels.threads(),
        "threads_from": kernels.threads_reason(),
        "memory_bytes": psutil.virtual_memory().total,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "accelerator": accelerator,
        "isa": kernels.isa(),
        "isa_reason": kernels.isa_reason(),
        "isas": {isa.name: _state(isa) for isa in kernels.isas()},
        "packages": found,
    }
    show(facts if json else "\n".join(_lines(facts)), json)


def _state(isa: InstructionSet) -> str:
    """What is to be said of an instruction set that the kernels were built for."""
    from kbit import kernels

    if isa.name == kernels.isa():
        return "in use"
    return "runs here" if isa.runs else f"needs {isa.needs}, which this machine lacks"


def _lines(facts: dict[str, object]) -> list[str]:
    flat = {key: value for key, value in facts.items() if not isinstance(value, dict)}
    flat["threads"] = f"{flat['threads']}, as {flat.pop('threads_from')} says"
    flat["isa"] = f"{flat['isa']}, {flat.pop('isa_reason')}"
    for key, values in facts.items():
        if isinstance(values, dict):
            flat |= {f"isa {name}" if key == "isas" else name: value for name, value in values.items()}
    width = max(map(len, flat))
    return [f"{key:<{width}}  {value}" for key, value in flat.items()]
