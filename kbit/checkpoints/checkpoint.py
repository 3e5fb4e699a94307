"""What every kind of checkpoint offers: names, shapes, dtypes, and one tensor at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from kbit.checkpoints import stored_bytes
from kbit.checkpoints.safetensors_header import Entry, quoted
from kbit.errors import CheckpointError

# Keys of a config that name code to be imported from the checkpoint's own files.
CODE_KEYS = ("auto_map", "trust_remote_code", "custom_pipelines")

T = TypeVar("T")


class Checkpoint(ABC):
    """A model as it lies on disk. Opening one reads headers and settings; the weights are read tensor by tensor."""

    kind: ClassVar[str]
    path: Path

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The content of a Hugging Face config.json."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The names of the parameters, sorted."""

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of what read(name) returns."""

    @abstractmethod
    def dtype(self, name: str) -> torch.dtype:
        """The dtype of what read(name) returns."""

    @abstractmethod
    def nbytes(self, name: str) -> int:
        """The bytes on disk that make up the parameter."""

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """The parameter, in memory of its own; the checkpoint keeps nothing of it."""

    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 over the names, dtypes, shapes and bytes of all stored tensors, in hexadecimal."""

    def __repr__(self) -> str:
        return f"<{self.kind} checkpoint {self.path}>"


class SafetensorsCheckpoint(Checkpoint):
    """A checkpoint whose parameters are the entries of safetensors files, one to one."""

    def __init__(self, path: Path, config: dict[str, Any], entries: Mapping[str, Entry]) -> None:
        self.path = path
        self._config = config
        self._entries = dict(entries)

    @property
    def config(self) -> dict[str, Any]:
        """The content of config.json, without the keys that run code unless the user allowed them."""
        return self._config

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters, sorted."""
        return tuple(sorted(self._entries))

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the parameter `name`."""
        return self._entry(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """The dtype of the parameter `name`."""
        return stored_bytes.torch_dtype(self._entry(name))

    def nbytes(self, name: str) -> int:
        """The bytes of the parameter `name` on disk."""
        return self._entry(name).nbytes

    def read(self, name: str) -> Tensor:
        """The parameter `name`, in memory of its own."""
        return stored_bytes.read_tensor(self._entry(name))

    def fingerprint(self) -> str:
        """SHA-256 over the names, dtypes, shapes and bytes of all tensors: the same for one file and for many shards."""
        return stored_bytes.fingerprint(self._entries.values())

    def _entry(self, name: str) -> Entry:
        return found(self._entries, name, self.path)


def found(entries: Mapping[str, T], name: str, path: Path) -> T:
    """entries[name], or a CheckpointError that says what is not there."""
    try:
        return entries[name]
    except KeyError:
        raise CheckpointError(f"{path}: holds no tensor {quoted(name)}. It holds {len(entries)}; .names lists them.") from None


def without_code(value: Any) -> Any:
    """`value` (of a config) without CODE_KEYS at any depth."""
    if isinstance(value, dict):
        return {key: without_code(inner) for key, inner in value.items() if key not in CODE_KEYS}
    return [without_code(inner) for inner in value] if isinstance(value, list) else value
