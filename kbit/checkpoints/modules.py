"""The quantization_config of a kbit checkpoint: which packed weight means what, as written and as checked on reading.

It is {"quant_method": "kbit", "format_version": 1, "source": "...", "recipe": {...}, "modules": {...}}, and a module reads
"model.layers.0.mlp.up_proj": {"format": "nf4-b64", "shape": [172, 64]}. Where the model runs on integers alone there is also
"fixed_point": {"program": "fixed_point.json", "sha256": "..."}: the file that lists its steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from kbit.checkpoints.json_file import DAMAGED
from kbit.checkpoints.layout import Plan
from kbit.checkpoints.safetensors_header import quoted
from kbit.errors import CheckpointError, FormatError
from kbit.formats.format import Format
from kbit.packed.parts import part_sizes

QUANT_METHOD = "kbit"
FORMAT_VERSION = 1  # what is written
READABLE_VERSIONS = (0, 1)
PROGRAM = "fixed_point.json"  # the steps of a model that runs on integers alone
PROGRAM_TENSOR = "fixed_point.{}"  # the name of a tensor of its, by number
MAX_SIDE = 2**31 - 1  # columns are stored as int32 where some are kept

FAULTS = {
    "version": f"has format_version {{found}}; this kbit reads {' and '.join(map(str, READABLE_VERSIONS))}. "
    "Quantize the model again, or use the kbit that wrote it.",
    "modules": "has a quantization_config without a map 'modules' of objects. " + DAMAGED,
    "recipe": "has a quantization_config whose recipe is not an object or whose source is not a string. " + DAMAGED,
    "fixed point": f"has a fixed_point that is not the file {PROGRAM} with its SHA-256. " + DAMAGED,
    "keys": "describes module {name} by other keys than format, shape, transposed, parameter and expert. " + DAMAGED,
    "format": "gives module {name} a format that this kbit does not know: {why}",
    "shape": "gives module {name} a shape that is not two positive sizes below 2^31. " + DAMAGED,
    "expert": "gives module {name} a parameter and expert number that do not go together. " + DAMAGED,
}


@dataclass(frozen=True)
class Module:
    """One packed weight w (n_out, n_in), stored under `key`.weight and that name with the suffixes of its parts.

    Its parameter is `key`.weight, or the matrix `expert` of the 3-D `parameter`.
    """

    key: str
    fmt: Format
    shape: tuple[int, int]
    transposed: bool = False
    parameter: str | None = None
    expert: int | None = None

    @property
    def weight(self) -> str:
        """The name of the stored codes; the other parts' names begin with it."""
        return f"{self.key}.weight"

    def part_sizes(self) -> dict[str, tuple[torch.dtype, int]]:
        """Stored tensor -> dtype and number of values, all of one dimension."""
        return {self.weight + suffix: size for suffix, size in part_sizes(self.fmt, self.shape).items()}

    def to_json(self) -> dict[str, Any]:
        """Its value in "modules"."""
        entry: dict[str, Any] = {"format": str(self.fmt), "shape": list(self.shape)}
        if self.transposed:
            entry["transposed"] = True
        return entry if self.parameter is None else {**entry, "parameter": self.parameter, "expert": self.expert}


def guard_of(parameter: str) -> Plan:
    """An empty tensor under the name of a 3-D parameter whose matrices are stored elsewhere.

    Without it plain transformers would find no such name, warn, and go on with random weights; a wrong shape is an error.
    """
    return Plan(parameter, "U8", (0,))


def quantization_config(
    modules: Iterable[Module], recipe: dict[str, Any] | None, source: str | None, program_sha256: str | None = None
) -> dict[str, Any]:
    """The quantization_config that says what `modules` are, by which recipe, and from which model; and the hash of the program
    of integers, where there is one.
    """
    fixed_point = {} if program_sha256 is None else {"fixed_point": {"program": PROGRAM, "sha256": program_sha256}}
    return fixed_point | {
        "quant_method": QUANT_METHOD,
        "format_version": FORMAT_VERSION,
        "source": source or "",
        "recipe": recipe or {},
        "modules": {module.key: module.to_json() for module in modules},
    }


def read_modules(folder: Path, quantization: dict[str, Any]) -> dict[str, Module]:
    """The modules that `quantization` describes, each checked by itself. Raises CheckpointError with one of FAULTS."""
    version = quantization.get("format_version")
    if type(version) is not int or version not in READABLE_VERSIONS:
        fail(folder, "version", found=quoted(str(version)))
    modules = quantization.get("modules")
    if not isinstance(modules, dict) or not all(isinstance(entry, dict) for entry in modules.values()):
        fail(folder, "modules")
    if not isinstance(quantization.get("recipe"), dict) or not isinstance(quantization.get("source"), str):
        fail(folder, "recipe")
    program = quantization.get("fixed_point", {"program": PROGRAM, "sha256": ""})
    if not isinstance(program, dict) or program.get("program") != PROGRAM or not isinstance(program.get("sha256"), str):
        fail(folder, "fixed point")
    return {key: _read_module(folder, key, entry) for key, entry in modules.items()}


def fail(folder: Path, fault: str, *, name: str = "", **details: Any) -> NoReturn:
    """Raise the CheckpointError of `fault`, a key of FAULTS."""
    raise CheckpointError(f"{folder}: {FAULTS[fault].format(name=quoted(name), **details)}")


def _read_module(folder: Path, key: str, entry: dict[str, Any]) -> Module:
    if not {"format", "shape"} <= entry.keys() <= {"format", "shape", "transposed", "parameter", "expert"}:
        fail(folder, "keys", name=key)
    shape = entry["shape"]
    if not isinstance(shape, list) or len(shape) != 2 or not all(type(n) is int and 0 < n <= MAX_SIDE for n in shape):
        fail(folder, "shape", name=key)
    parameter, expert, transposed = entry.get("parameter"), entry.get("expert"), entry.get("transposed", False)
    named = isinstance(parameter, str) and type(expert) is int and expert >= 0
    if not (named or (parameter is None and expert is None)) or not isinstance(transposed, bool):
        fail(folder, "expert", name=key)
    if not isinstance(entry["format"], str):
        fail(folder, "keys", name=key)
    try:
        fmt = Format.parse(entry["format"])
    except FormatError as error:
        fail(folder, "format", name=key, why=error)
    if str(fmt) != entry["format"]:
        fail(folder, "format", name=key, why=f"{quoted(entry['format'])} is written '{fmt}'. {DAMAGED}")
    return Module(key, fmt, (shape[0], shape[1]), transposed, parameter, expert)
