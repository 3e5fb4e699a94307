"""Quantize a checkpoint on disk into a kbit checkpoint, layer by layer: no more than one parameter is in memory at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel

from kbit.checkpoints.checkpoint import Checkpoint
from kbit.checkpoints.companions import copy_companions
from kbit.checkpoints.kbit_folder import KbitCheckpoint
from kbit.checkpoints.open import open_checkpoint
from kbit.checkpoints.writer import CheckpointWriter
from kbit.errors import ModelError
from kbit.formats import Format
from kbit.models import Assembly, Site, rest, skeleton
from kbit.recipes.bits import experts_of, rest_format, sites_of, total_bits
from kbit.recipes.encoding import packed_weight, rounded
from kbit.recipes.outliers import Outliers
from kbit.recipes.peak import give_back_freed, peak_bytes, restart_peak
from kbit.recipes.recipe import Recipe
from kbit.recipes.result import LayerResult, QuantizeResult

Progress = Callable[[int, int, str], None]  # matrices done, in all, and the one that is next

CHUNK = 2**20  # weights whose error is summed at a time


def quantize_checkpoint(
    source: str | Path,
    fmt_or_recipe: Recipe | Format | str,
    out: str | Path,
    *,
    method: str = "rtn",
    seed: int = 0,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> QuantizeResult:
    """Write the model `source` (folder, hub id or GGUF file) under the recipe to the new folder `out`, with its tokenizer.

    `out` appears when it is whole; after an error nothing is left. Memory holds one parameter, its codes and little more.
    Raises CheckpointError for damaged files and full disks, ModelError for weights that are missing, left over or not finite,
    FormatError for a recipe that does not fit the model.
    """
    recipe = Recipe.of(fmt_or_recipe, method)
    start = time.perf_counter()
    restart_peak()
    checkpoint = open_original(source, trust_remote_code=trust_remote_code)
    model = skeleton(checkpoint, trust_remote_code=trust_remote_code)
    bits = total_bits(model, recipe)
    work = _Work(str(source), model, Assembly(model, checkpoint), recipe, seed)
    with CheckpointWriter(
        Path(out), written_config(checkpoint, model), recipe=recipe.to_dict(), source=lasting_name(source)
    ) as writer:
        work.declare(writer)
        rows = list(work.write(writer, progress))
        copy_companions(checkpoint, writer.folder)
    return QuantizeResult(
        source=str(source),
        out=str(out),
        recipe=recipe,
        rows=tuple(rows),
        bits=bits,
        source_bytes=sum(checkpoint.nbytes(name) for name in checkpoint.names),
        seconds=time.perf_counter() - start,
        peak_bytes=peak_bytes(),
    )


@dataclass
class _Work:
    """What is to be written: a model on the meta device, where its weights come from, and the recipe."""

    source: str
    model: PreTrainedModel
    assembly: Assembly
    recipe: Recipe
    seed: int
    sites: list[Site] = field(init=False)
    outliers: Outliers = field(init=False)

    def __post_init__(self) -> None:
        self.sites = sites_of(self.model, self.recipe)
        self.outliers = Outliers(self.model, self.sites, self.assembly.read)

    def declare(self, writer: CheckpointWriter) -> None:
        """Name every tensor that will be written."""
        for sites in experts_of(self.sites):
            if (fmt := self._kept_whole(sites)) is not None:
                writer.declare(sites[0].name, fmt.dtype, tuple(self.model.get_parameter(sites[0].name).shape))
                continue
            for site in sites:
                declare_site(writer, site, self.recipe.choice_for(site)[0])
        for name, tensor in rest(self.model, self.sites):
            fmt = rest_format(tensor, self.recipe)
            writer.declare(name, tensor.dtype if fmt is None else fmt.dtype, tuple(tensor.shape))

    def write(self, writer: CheckpointWriter, progress: Progress | None) -> Iterator[LayerResult]:
        """Read, quantize and write one parameter after another; gives each matrix's result."""
        done = 0
        for sites in experts_of(self.sites):
            kept = [self._kept_columns(site) for site in sites]  # reads other layers, so before this one
            parameter = self.assembly.read(sites[0].name)
            whole = self._kept_whole(sites)
            if whole is not None:
                writer.add(sites[0].name, rounded(parameter, whole, f"{self.source}, {sites[0].module}"))
            for site, columns in zip(sites, kept, strict=True):
                if progress is not None:
                    progress(done, len(self.sites), site.key)
                yield self._write_site(None if whole else writer, site, site.of(parameter).float(), columns)
                done += 1
            del parameter
            give_back_freed()
        for name, tensor in rest(self.model, self.sites):
            fmt = rest_format(tensor, self.recipe)
            values = self.assembly.read(name)
            writer.add(name, values.to(tensor.dtype) if fmt is None else rounded(values, fmt, f"{self.source}, {name}"))
        if progress is not None:
            progress(done, len(self.sites), "")

    def _write_site(self, writer: CheckpointWriter | None, site: Site, w: Tensor, columns: Tensor | None) -> LayerResult:
        fmt, method = self.recipe.choice_for(site)
        packed = packed_weight(w, fmt, method, where=f"{self.source}, {site.key}", seed=self.seed, kept_columns=columns)
        if writer is not None:
            writer.add_packed(site.key, packed)
        return LayerResult(
            layer=site.key,
            format=str(fmt),
            method=None if fmt.is_float else method,
            shape=site.shape,
            bits_per_weight=fmt.stored_bits(site.shape) / site.count,
            error=relative_error(w, packed.dequantize()),
        )

    def _kept_columns(self, site: Site) -> Tensor | None:
        return self.outliers.kept_columns(site, self.recipe.choice_for(site)[0])

    def _kept_whole(self, sites: list[Site]) -> Format | None:
        """The float format of a parameter of which nothing is quantized; it keeps its own shape."""
        formats = {self.recipe.choice_for(site)[0] for site in sites}
        return fmt if len(formats) == 1 and (fmt := formats.pop()).is_float else None


def relative_error(w: Tensor, decoded: Tensor) -> float:
    """Root of the mean of (w - decoded)^2 over the root of the mean of w^2, summed in float64; 0 where all weights are 0."""
    noise = signal = 0.0
    for part, seen in zip(w.split(max(1, CHUNK // w.shape[1])), decoded.split(max(1, CHUNK // w.shape[1])), strict=True):
        noise += float((part.double() - seen).square().sum())
        signal += float(part.double().square().sum())
    return (noise / signal) ** 0.5 if signal else 0.0


def open_original(source: str | Path, *, trust_remote_code: bool, do: str = "Quantize") -> Checkpoint:
    """The checkpoint `source`. Raises ModelError, with what to `do` instead, where it is quantized already."""
    checkpoint = open_checkpoint(source, trust_remote_code=trust_remote_code)
    if isinstance(checkpoint, KbitCheckpoint):
        raise ModelError(f"{source}: is quantized already. {do} the model that it was made from: {checkpoint.source}.")
    return checkpoint


def declare_site(writer: CheckpointWriter, site: Site, fmt: Format) -> None:
    """Name the packed parts of a matrix, which may be one expert of a parameter, as tensors that will be written."""
    parameter = None if site.expert is None else site.name
    writer.declare_packed(site.key, fmt, site.shape, transposed=site.transposed, parameter=parameter, expert=site.expert)


def written_config(checkpoint: Checkpoint, model: PreTrainedModel) -> dict[str, object]:
    """The checkpoint's own config.json; where its output head is not tied after all, it says so."""
    if checkpoint.config.get("tie_word_embeddings", True) and not model.config.tie_word_embeddings:
        return {**checkpoint.config, "tie_word_embeddings": False}
    return checkpoint.config


def lasting_name(source: str | Path) -> str:
    """A path as it can be found from any folder; a hub id as it is."""
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else str(source)
