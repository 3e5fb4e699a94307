"""A kbit checkpoint: a Hugging Face directory whose quantization_config says how the bits of its packed weights are read."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from kbit.checkpoints import stored_bytes
from kbit.checkpoints.checkpoint import SafetensorsCheckpoint
from kbit.checkpoints.huggingface import read_config, read_entries
from kbit.checkpoints.json_file import DAMAGED
from kbit.checkpoints.modules import PROGRAM, PROGRAM_TENSOR, Module, guard_of, read_modules
from kbit.checkpoints.safetensors_header import DTYPE_NAMES, Entry, quoted
from kbit.errors import CheckpointError, KbitError
from kbit.packed import PackedTensor, version0

FAULTS = {
    "no part": "lacks the tensor {name}, which the format {fmt} needs. " + DAMAGED,
    "wrong part": "holds the tensor {name} as {found}, where the format {fmt} needs {needed}. " + DAMAGED,
    "surplus": "holds the tensor {name}, which is no part of the packed weight that it is named after. " + DAMAGED,
    "no guard": "lacks the empty tensor {name} that stands for its experts. " + DAMAGED,
    "program": "lacks the file {name}, or it is not the one that config.json was written with. " + DAMAGED,
    "experts": "does not hold every matrix of the parameter {name} once, in one shape. " + DAMAGED,
}


class KbitCheckpoint(SafetensorsCheckpoint):
    """Parameters read as from any checkpoint, packed ones dequantized to float32; read_packed gives the bits themselves.

    config: the model's config.json, without the quantization_config, which is `quantization`. modules: key -> Module.
    """

    kind = "kbit"

    def __init__(
        self,
        path: Path,
        config: dict[str, Any],
        quantization: dict[str, Any],
        modules: dict[str, Module],
        entries: dict[str, Entry],
    ) -> None:
        parts = {name for module in modules.values() for name in module.part_sizes()}
        guards = {module.parameter for module in modules.values()}
        super().__init__(path, config, {name: entry for name, entry in entries.items() if name not in parts | guards})
        self.quantization = quantization
        self.modules = modules
        self._stored = entries
        self._packed: dict[str, list[Module]] = {}  # parameter -> its module, or its experts in order
        for module in sorted(modules.values(), key=lambda module: module.expert or 0):
            self._packed.setdefault(module.parameter or module.weight, []).append(module)

    @property
    def format_version(self) -> int:
        """The number of its layout."""
        return self.quantization["format_version"]

    @property
    def source(self) -> str:
        """The model that this one was made from, as the user named it."""
        return self.quantization["source"]

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe by which it was made."""
        return self.quantization["recipe"]

    @property
    def program_sha256(self) -> str | None:
        """SHA-256 of the steps by which the model runs on integers alone; None where it is one of floats."""
        program = self.quantization.get("fixed_point")
        return None if program is None else program["sha256"]

    def read_program(self) -> str:
        """Those steps, as JSON. Raises CheckpointError where the file is not the one that was written."""
        try:
            program = (self.path / PROGRAM).read_bytes()
        except OSError:
            fail(self.path, "program", name=PROGRAM)
        if hashlib.sha256(program).hexdigest() != self.program_sha256:
            fail(self.path, "program", name=PROGRAM)
        return program.decode()

    def read_program_tensor(self, number: int) -> Tensor:
        """Integers that the steps name by number."""
        return self.read(PROGRAM_TENSOR.format(number))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the model's parameters, packed or not, sorted."""
        return tuple(sorted([*self._entries, *self._packed]))

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the parameter `name`, as the model has it."""
        if name not in self._packed:
            return super().shape(name)
        first, *others = self._packed[name]
        matrix = first.shape[::-1] if first.transposed else first.shape
        return matrix if first.parameter is None else (1 + len(others), *matrix)

    def dtype(self, name: str) -> torch.dtype:
        """The dtype of the parameter `name` as read: float32 where it is packed."""
        return torch.float32 if name in self._packed else super().dtype(name)

    def nbytes(self, name: str) -> int:
        """The bytes on disk of the parameter `name`: of all its parts where it is packed."""
        if name not in self._packed:
            return super().nbytes(name)
        return sum(self._stored[part].nbytes for module in self._packed[name] for part in module.part_sizes())

    def read(self, name: str) -> Tensor:
        """The parameter `name`, dequantized to float32 where it is packed, in memory of its own."""
        if name not in self._packed:
            return super().read(name)
        out = torch.empty(self.shape(name))
        for module in self._packed[name]:
            try:
                w = self.read_packed(module.key).dequantize()
            except KbitError as error:  # stored numbers that no packer writes
                raise CheckpointError(f"{self.path}, {module.key}: {error}") from None
            matrix = out if module.expert is None else out[module.expert]
            matrix.copy_(w.T if module.transposed else w)
        return out

    def read_packed(self, module: str) -> PackedTensor:
        """The packed weight of `module` (the name of its parameter will do too).

        Its parts are mapped, so not read until used; those of format_version 0 are read and brought into today's order.
        """
        key = module if module in self.modules else module.removesuffix(".weight")
        if key not in self.modules:
            count = len(self.modules)
            raise CheckpointError(f"{self.path}: holds no packed weight {quoted(module)}. It holds {count}; .modules lists them.")
        wanted = self.modules[key]
        stored = {name.removeprefix(wanted.weight): self._stored[name] for name in wanted.part_sizes()}
        parts = {suffix: stored_bytes.map_tensor(entry) for suffix, entry in stored.items()}
        if self.format_version == 0:
            parts = version0.upgraded(wanted.fmt, wanted.shape, parts)
        return PackedTensor.from_parts(wanted.fmt, wanted.shape, parts)

    def fingerprint(self) -> str:
        """SHA-256 over the names, dtypes, shapes and bytes of all stored tensors, and over the layout and formats that give them
        meaning.
        """
        modules = {key: module.to_json() for key, module in sorted(self.modules.items())}
        program = {} if self.program_sha256 is None else {"program": self.program_sha256}
        meaning = json.dumps({"format_version": self.format_version, "modules": modules} | program, sort_keys=True)
        return stored_bytes.fingerprint(self._stored.values(), also=meaning)


def open_kbit(folder: Path, *, keep_code_keys: bool = False) -> KbitCheckpoint:
    """Check the settings in `folder` and that every stored size is what the formats say. Raises CheckpointError."""
    config = read_config(folder, keep_code_keys=keep_code_keys)
    quantization = config.pop("quantization_config")
    modules = read_modules(folder, quantization)
    entries = read_entries(folder)
    for module in modules.values():
        _check_parts(folder, module, entries)
    _check_surplus(folder, modules, entries)
    _check_experts(folder, modules, entries)
    return KbitCheckpoint(folder, config, quantization, modules, entries)


def fail(folder: Path, fault: str, *, name: str, **details: Any) -> NoReturn:
    """Raise the CheckpointError of `fault`, a key of FAULTS."""
    raise CheckpointError(f"{folder}: {FAULTS[fault].format(name=quoted(name), **details)}")


def _check_parts(folder: Path, module: Module, entries: dict[str, Entry]) -> None:
    """Every part of `module` is there in the dtype and size that its format says."""
    for name, (dtype, count) in module.part_sizes().items():
        if name not in entries:
            fail(folder, "no part", name=name, fmt=module.fmt)
        entry, needed = entries[name], (DTYPE_NAMES[dtype], (count,))
        if (entry.dtype, entry.shape) != needed:
            found = f"{entry.dtype} {list(entry.shape)}"
            fail(folder, "wrong part", name=name, found=found, fmt=module.fmt, needed=f"{needed[0]} {[count]}")


def _check_surplus(folder: Path, modules: dict[str, Module], entries: dict[str, Entry]) -> None:
    """No tensor is named like a part of a packed weight (`key`.weight, then _suffix) without being one."""
    parts = {name for module in modules.values() for name in module.part_sizes()}
    for name in entries:
        module, dot, tail = name.rpartition(".")
        if name not in parts and dot and tail.startswith("weight_") and module in modules:
            fail(folder, "surplus", name=name)


def _check_experts(folder: Path, modules: dict[str, Module], entries: dict[str, Entry]) -> None:
    """The matrices of a 3-D parameter are numbered 0, 1, ... in one shape, and its guard keeps its name."""
    members: dict[str, list[Module]] = {}
    for module in modules.values():
        if module.parameter is not None:
            members.setdefault(module.parameter, []).append(module)
    for parameter, experts in members.items():
        guard = guard_of(parameter)
        if parameter not in entries or (entries[parameter].dtype, entries[parameter].shape) != (guard.dtype, guard.shape):
            fail(folder, "no guard", name=parameter)
        kinds = {(expert.shape, expert.transposed) for expert in experts}
        if sorted(expert.expert or 0 for expert in experts) != list(range(len(experts))) or len(kinds) > 1:
            fail(folder, "experts", name=parameter)
