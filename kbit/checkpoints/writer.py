"""Write a checkpoint: sizes first, then tensor by tensor in any order, and the folder appears only when it is whole."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from kbit.checkpoints.checkpoint import without_code
from kbit.checkpoints.huggingface import CONFIG, INDEX
from kbit.checkpoints.layout import Plan, Shard, lay_out
from kbit.checkpoints.modules import PROGRAM, Module, guard_of, quantization_config
from kbit.checkpoints.safetensors_header import DTYPE_NAMES, HEADER_LIMIT
from kbit.checkpoints.stored_bytes import bytes_of
from kbit.errors import CheckpointError
from kbit.formats.format import Format
from kbit.packed import PackedTensor

SHARD_BYTES = 5_000_000_000


def check_free(out: Path) -> None:
    """Raise CheckpointError where `out` is taken: a file, or a folder that is not empty."""
    if out.is_dir() and any(out.iterdir()):
        raise CheckpointError(f"{out}: exists and is not empty. Name a new folder, or empty this one.")
    if out.exists() and not out.is_dir():
        raise CheckpointError(f"{out}: exists and is a file. Name a new folder.")


class CheckpointWriter:
    """A folder of config.json and safetensors, made in three steps: declare every tensor, add every tensor, leave the block.

        with CheckpointWriter(out, config, recipe=recipe.to_json(), source="pythia-70m") as writer:
            writer.declare("model.norm.weight", torch.bfloat16, (64,))
            writer.declare_packed("model.layers.0.mlp.up_proj", fmt, (172, 64))
            writer.add("model.norm.weight", norm)
            writer.add_packed("model.layers.0.mlp.up_proj", packed)
            copy_companions(source, writer.folder)

    The first `add` fixes the layout and reserves the space on disk, so that a full disk shows before the work; then tensors
    go straight to their places, in any order, and none is kept. All of it happens in `folder`, a temporary one beside `out`,
    which takes the name `out` when the block is left. After an error of any kind nothing remains.

    out: must not exist, or be an empty folder. config: the model's config.json; keys that name code are left out.
    recipe, source: with either, a kbit checkpoint is written (a quantization_config that holds them); without, a plain one.
    program: the steps of a model that runs on integers alone, as JSON; they become a file of their own.
    """

    def __init__(
        self,
        out: Path,
        config: dict[str, Any],
        shard_bytes: int = SHARD_BYTES,
        *,
        recipe: dict[str, Any] | None = None,
        source: str | None = None,
        program: str | None = None,
    ) -> None:
        self.out = Path(out).resolve()
        self.folder = self.out.with_name(f".{self.out.name}.writing-{os.getpid()}")
        self._config = {key: value for key, value in without_code(config).items() if key != "quantization_config"}
        self._recipe, self._source, self._program = recipe, source, program
        self._shard_bytes = shard_bytes
        self._modules: dict[str, Module] = {}
        self._plans: dict[str, Plan] = {}
        self._shards: list[Shard] = []
        self._files: dict[str, tuple[FileIO, int]] = {}  # tensor -> its file and place
        self._missing: set[str] = set()

    def declare(self, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        """Say that the tensor `name` will be added as it is."""
        self._declare(Plan(name, DTYPE_NAMES[dtype], tuple(shape)))

    def declare_packed(
        self,
        key: str,
        fmt: Format,
        shape: tuple[int, int],
        *,
        transposed: bool = False,
        parameter: str | None = None,
        expert: int | None = None,
    ) -> None:
        """Say that a packed weight w (n_out, n_in) will be added.

        key: the module, whose parameter is `key`.weight; or, for one matrix of the 3-D parameter `parameter`, any name of its
        own, with `expert` its number there (all of a parameter's matrices are declared). transposed: the parameter is stored as
        (n_in, n_out), w as (n_out, n_in).
        """
        assert key not in self._modules, f"{key} is declared twice"
        module = Module(key, fmt, (shape[0], shape[1]), transposed, parameter, expert)
        self._modules[key] = module
        for name, (dtype, count) in module.part_sizes().items():
            self._declare(Plan(name, DTYPE_NAMES[dtype], (count,), group=key))
        if module.parameter is not None and module.parameter not in self._plans:
            self._declare(guard_of(module.parameter))

    def add(self, name: str, tensor: Tensor) -> None:
        """Write a declared tensor to its place."""
        plan = self._plans[name]
        assert (DTYPE_NAMES[tensor.dtype], tuple(tensor.shape)) == (plan.dtype, plan.shape), (plan, tensor.dtype, tensor.shape)
        try:
            if not self._files:
                self._reserve()
            assert name in self._missing, f"{name} is added twice"
            file, offset = self._files[name]
            file.seek(offset)
            write_all(file, bytes_of(tensor.detach().contiguous()))
        except OSError as error:
            raise self._failed(error) from None
        self._missing.discard(name)

    def add_packed(self, key: str, packed: PackedTensor) -> None:
        """Write all parts of a declared packed weight to their places."""
        module = self._modules[key]
        assert (packed.fmt, packed.shape) == (module.fmt, module.shape), (key, packed.fmt, packed.shape, module)
        for suffix, part in packed.parts().items():
            self.add(module.weight + suffix, part)

    def __enter__(self) -> CheckpointWriter:
        check_free(self.out)
        try:
            self.folder.mkdir(parents=True)
        except OSError as error:
            raise self._failed(error) from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._finish()
        except OSError as full:
            raise self._failed(full) from None
        finally:
            for file in self._open_files():
                file.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _declare(self, plan: Plan) -> None:
        assert not self._files, "everything is declared before the first tensor is added"
        assert plan.name not in self._plans, f"{plan.name} is declared twice"
        self._plans[plan.name] = plan

    def _reserve(self) -> None:
        """Write every header and claim the space of every file."""
        self._shards = lay_out(self._plans.values(), self._shard_bytes)
        guards = {module.parameter for module in self._modules.values()}
        self._missing = {name for name in self._plans if name not in guards}
        for shard in self._shards:
            assert len(shard.header) <= HEADER_LIMIT, "half a million tensors in a shard"
            file = (self.folder / shard.file_name).open("wb", buffering=0)
            self._files |= {name: (file, offset) for name, offset in shard.offsets.items()}
            write_all(file, memoryview(shard.header))
            reserve(file, shard.size)

    def _finish(self) -> None:
        """Check that all is there, write the settings, and give the folder its name."""
        if not self._files:
            self._reserve()
        assert not self._missing, f"declared and never added: {sorted(self._missing)[:5]}"
        for file in self._open_files():
            os.fsync(file.fileno())
        config = dict(self._config)
        if self._modules or self._recipe is not None or self._source is not None:
            digest = None if self._program is None else hashlib.sha256(self._program.encode()).hexdigest()
            config["quantization_config"] = quantization_config(self._modules.values(), self._recipe, self._source, digest)
        if self._program is not None:
            write_text(self.folder / PROGRAM, self._program)
        write_json(self.folder / CONFIG, config)
        if len(self._shards) > 1:
            total = sum(plan.nbytes for plan in self._plans.values())
            weight_map = {name: shard.file_name for shard in self._shards for name in shard.offsets}
            write_json(self.folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
        if self.out.exists():
            self.out.rmdir()  # empty; Windows does not rename over it
        os.replace(self.folder, self.out)

    def _open_files(self) -> set[FileIO]:
        return {file for file, _ in self._files.values()}

    def _failed(self, error: OSError) -> CheckpointError:
        size = sum(plan.nbytes for plan in self._plans.values())
        return CheckpointError(
            f"{self.out}: writing {size / 1e9:.3f} GB failed ({error.strerror}). "
            "Free space or name another folder; nothing was left behind."
        )


def write_all(file: FileIO, data: memoryview) -> None:
    """Write all of `data`; one call of the system takes at most 2 GiB."""
    while data:
        data = data[file.write(data) :]


def reserve(file: FileIO, size: int) -> None:
    """Make `file` `size` bytes long, and, where the system can, claim the space on disk."""
    if hasattr(os, "posix_fallocate"):
        try:
            return os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # these: the file system cannot claim
                raise
    file.truncate(size)
    return None


def write_json(path: Path, value: dict[str, Any]) -> None:
    """`value` as indented JSON, on the disk when this returns."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """`text` as UTF-8 with line feeds, on the disk when this returns."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
