"""A model becomes integers: calibrate, migrate outliers, rotate, calibrate again, lower; in memory, or from disk to disk."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kbit.checkpoints.companions import copy_companions
from kbit.checkpoints.modules import PROGRAM_TENSOR
from kbit.checkpoints.writer import CheckpointWriter, check_free, write_json
from kbit.errors import FixedPointError, ModelError
from kbit.fixedpoint.linear import LinearWeight
from kbit.formats import Format
from kbit.models import Site, load, parameters
from kbit.models.integer_blueprint import Blueprint, Linear, blueprint_of, with_weights
from kbit.models.integer_float import INPUTS
from kbit.models.integer_lower import Bits, Origin, Ranges, lower_with_origins
from kbit.models.integer_program import Program
from kbit.models.integer_run import integers_of
from kbit.packed import PackedTensor
from kbit.recipes.bits import BitCount
from kbit.recipes.calibration import TOKEN, Calibration, calibrate, calibration_windows, clips
from kbit.recipes.encoding import decoded_weight, packed_weight
from kbit.recipes.fixed_point import AUTO, FixedPoint, integer_format
from kbit.recipes.migration import Migrated, migrate
from kbit.recipes.on_disk import lasting_name, open_original, relative_error, written_config
from kbit.recipes.peak import peak_bytes, restart_peak
from kbit.recipes.recipe import Recipe
from kbit.recipes.result import LayerResult, QuantizeResult
from kbit.recipes.rotation import rotate, widths_of

Progress = Callable[[int, int, str], None]

# What each rotation leaves for migration: it mixes the other columns anyway.
MIGRATED = {"none": (*INPUTS, "head"), "down": ("attention", "mixed", "mlp"), "inputs": ("attention", "mixed", "mlp"), "all": ()}


@dataclass(frozen=True)
class Converted:
    """A model of integers, and how it came about.

    blueprint: the floats that were lowered, with outliers migrated and rotated, before their weights were rounded. rows: each
    matrix as it is stored. fallbacks: what is stored otherwise than asked for, and why. origins: of each step, the parts of the
    blueprint that it holds.
    """

    program: Program
    blueprint: Blueprint
    calibration: Calibration
    migrated: tuple[Migrated, ...]
    rows: tuple[LayerResult, ...]
    fallbacks: tuple[str, ...]
    bits: BitCount
    origins: tuple[Origin, ...]

    def in_floats(self) -> Blueprint:
        """The very weights of the program, to be run in floating point: what the integers are held against."""
        weights = dict(zip(self.program.names, self.program.weights, strict=True))
        return with_weights(self.blueprint, lambda name: weights[name].dequantize())


@dataclass(frozen=True)
class FixedPointResult(QuantizeResult):
    """What `quantize_fixed_point` did: beside the layers, on how much text it calibrated, and what it had to do otherwise."""

    calibration_tokens: int = 0
    migrated: tuple[Migrated, ...] = ()
    fallbacks: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """All of it under names."""
        more = {"calibration_tokens": self.calibration_tokens, "fallbacks": list(self.fallbacks)}
        return super().to_json() | more | {"migrated": [vars(each) for each in self.migrated]}

    def _totals(self) -> list[tuple[str, str]]:
        integers = self.recipe.integers
        assert integers is not None
        moved = sum(each.strength is not None for each in self.migrated)
        steps = "a step a row" if integers.ranges == TOKEN else f"static steps ({integers.ranges})"
        return [
            ("activations", f"{integers.activations} bits, {steps}; rotated: {integers.rotate}"),
            ("calibrated on", f"{self.calibration_tokens:,} tokens; outliers migrated at {moved} places"),
            *super()._totals(),
            *(("otherwise than asked", fallback) for fallback in self.fallbacks),
        ]


def convert(
    model: PreTrainedModel,
    recipe: Recipe,
    text: str,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Converted:
    """The integers of `model`, whose weights are floats, under a recipe that has `fixed_point`; the model is untouched.

    text: to calibrate on. tokenizer: by default the model's own.
    Raises FixedPointError where a part of the model has no integer form, a range no width, or a scale underflows; TextError
    where the text is too short.
    """
    assert recipe.integers is not None, "a recipe without fixed_point"
    integers = recipe.integers.bind(text)
    tokenizer = tokenizer or getattr(model, "kbit_tokenizer", None)
    if tokenizer is None:
        raise ModelError("the model came without a tokenizer, and calibration reads text. Put tokenizer.json beside the model.")
    blueprint = blueprint_of(model)
    windows = calibration_windows(text, tokenizer, blueprint.positions, integers.tokens)
    storage = _Storage(blueprint, recipe, seed)
    storage.check()
    migrated: list[Migrated] = []
    if integers.smooth != 0 and (places := MIGRATED[integers.rotate]):
        strength = None if integers.smooth == AUTO else float(integers.smooth)
        seen = calibrate(blueprint, windows, progress)
        widths = widths_of(blueprint, integers.rotate)
        migrated = migrate(blueprint, seen, storage.decoded, integers.activations, strength, places=places, widths=widths)
    rotate(blueprint, integers.rotate, seed=seed)
    seen = calibrate(blueprint, windows, progress)
    bits = Bits(activations=integers.activations)
    ends = None if integers.ranges == TOKEN else clips(seen, integers.ranges, lambda place: _bits_at(bits, place))
    program, origins = lower_with_origins(blueprint, Ranges(seen.largest, ends), storage.packed, bits)
    return Converted(
        program=program,
        blueprint=blueprint,
        calibration=seen,
        migrated=tuple(migrated),
        rows=tuple(storage.rows),
        fallbacks=tuple(storage.fallbacks),
        bits=count_bits(program, parameters(model), {linear.name for linear in blueprint.linears()}),
        origins=origins,
    )


def quantize_fixed_point(
    source: str | Path,
    recipe: Recipe,
    out: str | Path,
    *,
    text: str,
    seed: int = 0,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> FixedPointResult:
    """Write the model `source` as integers alone to the new folder `out`, with its tokenizer; it is held in memory as it is
    converted. `out` appears when it is whole. Raises what `convert` does, and CheckpointError for damaged files and full disks.
    """
    start = time.perf_counter()
    restart_peak()
    assert recipe.integers is not None, "a recipe without fixed_point"
    recipe = recipe.with_(fixed_point=recipe.integers.bind(text))
    check_free(Path(out))
    checkpoint = open_original(source, trust_remote_code=trust_remote_code)
    model = load(source, packed=False, trust_remote_code=trust_remote_code)
    config = written_config(checkpoint, model)
    made = convert(model, recipe, text, seed=seed, progress=progress)
    del model
    write_program(made.program, Path(out), config, recipe, lasting_name(source), checkpoint)
    return FixedPointResult(
        source=str(source),
        out=str(out),
        recipe=recipe,
        rows=made.rows,
        bits=made.bits,
        source_bytes=sum(checkpoint.nbytes(name) for name in checkpoint.names),
        seconds=time.perf_counter() - start,
        peak_bytes=peak_bytes(),
        calibration_tokens=made.calibration.tokens,
        migrated=made.migrated,
        fallbacks=made.fallbacks,
    )


def write_program(
    program: Program,
    out: Path,
    config: dict[str, object],
    recipe: Recipe,
    source: str,
    companions: Any = None,
    *,
    records: Mapping[str, Any] | None = None,
) -> None:
    """A program as a kbit checkpoint: its matrices as packed weights, its other integers as tensors, its steps as a file.

    records: more files of JSON, by name.
    """
    how = {"recipe": recipe.to_dict(), "source": source, "program": program.to_json()}
    with CheckpointWriter(out, config, **how) as writer:  # type: ignore[arg-type]
        for name, weight in zip(program.names, program.weights, strict=True):
            writer.declare_packed(name, weight.fmt, weight.shape)
        for number, tensor in enumerate(program.tensors):
            writer.declare(PROGRAM_TENSOR.format(number), tensor.dtype, tuple(tensor.shape))
        for name, weight in zip(program.names, program.weights, strict=True):
            writer.add_packed(name, weight)
        for number, tensor in enumerate(program.tensors):
            writer.add(PROGRAM_TENSOR.format(number), tensor)
        if companions is not None:
            copy_companions(companions, writer.folder)
        for name, record in (records or {}).items():
            write_json(writer.folder / name, record)


def count_bits(program: Program, n_parameters: int, linears: set[str]) -> BitCount:
    """Every stored bit of a program, its multipliers, shifts and tables of positions included."""
    sizes = {name: (8 * weight.nbytes, weight) for name, weight in zip(program.names, program.weights, strict=True)}
    weights = [weight for name, (_, weight) in sizes.items() if name in linears]
    return BitCount(
        total_bits=sum(bits for bits, _ in sizes.values()) + 8 * sum(tensor.nbytes for tensor in program.tensors),
        linear_bits=sum(bits for name, (bits, _) in sizes.items() if name in linears),
        parameters=n_parameters,
        parameters_linear=sum(weight.shape[0] * weight.shape[1] for weight in weights),
    )


def _bits_at(bits: Bits, place: str) -> int:
    return bits.head if place == "head" else bits.activations


class _Storage:
    """How each matrix is stored: by the recipe, or in the next format whose sums fit 32 bits; `rows` says what was done."""

    def __init__(self, blueprint: Blueprint, recipe: Recipe, seed: int) -> None:
        self.blueprint, self.recipe, self.seed = blueprint, recipe, seed
        self.rows: list[LayerResult] = []
        self.fallbacks: list[str] = []

    def check(self) -> None:
        """FormatError where a glob of the recipe matches nothing, or a format is none of integers."""
        linears = [*self.blueprint.linears(), self.blueprint.embedding, self.blueprint.head]
        sites = [self.site(linear) for linear in linears]
        self.recipe.check(sites)
        for site in sites:
            integer_format(str(self.recipe.choice_for(site)[0]))

    def site(self, linear: Linear) -> Site:
        """A matrix as recipes know it."""
        role = {self.blueprint.embedding.name: "embedding", self.blueprint.head.name: "lm_head"}.get(linear.name, "linear")
        if linear.name == self.blueprint.embedding.name:
            role = "embedding"  # a tied head is an embedding
        n_out, n_in = linear.weight.shape
        return Site(f"{linear.name}.weight", linear.name, role, (n_out, n_in))

    def decoded(self, linear: Linear) -> Tensor:
        """What the stored bits of a matrix will stand for."""
        fmt, method = self.recipe.choice_for(self.site(linear))
        return decoded_weight(linear.weight, fmt, method, where=self.where(linear), seed=self.seed)

    def packed(self, linear: Linear) -> PackedTensor:
        """A matrix as it is stored."""
        integers = self.recipe.integers
        assert integers is not None
        site = self.site(linear)
        fmt, method = self.recipe.choice_for(site)
        k_x = integers.activations if site.role == "linear" else Bits().head
        packed = packed_weight(linear.weight, fmt, method, where=self.where(linear), seed=self.seed)
        try:
            prove(packed, k_x, self.where(linear))
        except FixedPointError:
            if fmt.granularity == "row":
                raise
            fmt = replace(fmt, granularity="row", block=None, scales="f16")
            packed = packed_weight(linear.weight, fmt, method, where=self.where(linear), seed=self.seed)
            prove(packed, k_x, self.where(linear))
            self.fallbacks.append(f"{linear.name} in {fmt}, since sums over blocks could leave 32 bits")
        self.rows.append(self.row(linear, packed, method))
        return packed

    def row(self, linear: Linear, packed: PackedTensor, method: str) -> LayerResult:
        """What was done to a matrix."""
        bits = 8 * packed.nbytes / linear.weight.numel()
        error = relative_error(linear.weight, packed.dequantize())
        return LayerResult(linear.name, str(packed.fmt), method, packed.shape, bits, error)

    def where(self, linear: Linear) -> str:
        """The matrix in an error."""
        return f"{self.blueprint.name}, {linear.name}"


def prove(packed: PackedTensor, k_x: int, where: str) -> None:
    """Raise FixedPointError where a sum of products with activations of k_x bits could leave 32 bits."""
    codes, m, block = integers_of(packed)
    none = torch.zeros(len(codes), dtype=torch.int16)
    LinearWeight(codes, m, block, none, none, None, k_x, where)


def fixed_point_recipe(weights: int | str | Format, settings: FixedPoint | None = None, **changes: Any) -> Recipe:
    """The recipe of a model of integers with weights of so many bits, or in a format that they multiply."""
    fmt = integer_format(weights if isinstance(weights, int) else str(weights))
    return Recipe(weights=str(fmt), fixed_point=settings or FixedPoint(), **changes)
