"""What a run is asked: its spec, the hash that keys it, and the specs that a grid stands for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import nan
from pathlib import Path
from typing import Any

from kbit.checkpoints import Checkpoint, open_checkpoint
from kbit.errors import StoreError
from kbit.evaluation import Protocol, Windows, protocol_for, tokenize_windows
from kbit.evaluation.protocols import EXACT
from kbit.formats import Format
from kbit.models import architecture, load_tokenizer, parameters, parameters_linear, skeleton
from kbit.qat import QAT, TrainPlan
from kbit.recipes import FixedPoint, Recipe
from kbit.study.braces import expand_braces
from kbit.study.grid import FLOAT, RECIPE_NAME, Grid, GridProtocol, Product
from kbit.study.sources import find_models, find_texts, read_texts
from kbit.study.trainings import Training

# Raised when the same spec gives another result than before (a bug mended in a codebook, another default of a method), so that
# stores do not mix the two. It is not the package's version: most releases change no result.
NUMERICS = 1

# What a config says of the program that wrote it, and not of the model.
PASSING_KEYS = ("_name_or_path", "transformers_version", "architectures", "use_cache", "dtype", "torch_dtype")


@dataclass(frozen=True)
class RunSpec:
    """One run. `hash` is of the first four alone: the same weights under another path, or with another name, are the same run.

    fingerprint: SHA-256 of the model's tensors; config: SHA-256 of its configuration. recipe, protocol: canonical JSON;
    the protocol holds the hashes of the text and of the tokenizer.
    source: where the model lies. texts: the files of the text; calibration: those that a model of integers is calibrated on.
    about: names and sizes, which the store keeps for its table.
    training: of the method qat, canonical JSON with the hash of the text; empty for others. training_text: the file or folder of
    that text; teacher: where the model lies that it learns from, if that is another. state: the folder where trainings keep their
    state until they are done.
    """

    fingerprint: str
    config: str
    recipe: str
    protocol: str
    source: str = field(compare=False)
    texts: tuple[str, ...] = field(compare=False)
    about: dict[str, Any] = field(compare=False, repr=False)
    calibration: tuple[str, ...] = field(default=(), compare=False)
    training: str = ""
    training_text: str = field(default="", compare=False)
    teacher: str = field(default="", compare=False)
    state: str = field(default="", compare=False)

    @property
    def decided(self) -> dict[str, Any]:
        """What decides the result, as the store keeps it."""
        return {
            "fingerprint": self.fingerprint,
            "config": self.config,
            "recipe": _said(self.recipe),
            "protocol": _said(self.protocol),
            "numerics": NUMERICS,
        } | ({"training": _said(self.training)} if self.training else {})

    @cached_property
    def hash(self) -> str:
        """SHA-256 of `decided` in canonical JSON, in hexadecimal."""
        return sha256(self.decided)

    @property
    def parsed_recipe(self) -> Recipe:
        """The recipe as a value."""
        return Recipe.from_json(self.recipe)

    @property
    def plan(self) -> TrainPlan:
        """How the method qat trains."""
        return TrainPlan(**json.loads(self.training)["plan"])

    @property
    def unbound_protocol(self) -> Protocol:
        """The protocol without the hashes of text and tokenizer, to be bound again."""
        values = json.loads(self.protocol)
        return Protocol(**{key: value for key, value in values.items() if not key.endswith("sha256")})

    @property
    def name(self) -> str:
        """Model and format, as people call the run."""
        return f"{self.about['model']} {self.about['format']}"


def _said(settings: str) -> dict[str, Any]:
    """Settings less those that say nothing, so that a later kbit with one setting more gives old runs their old hash."""
    return {key: value for key, value in json.loads(settings).items() if value not in (None, [], {})}


def sha256(value: Any) -> str:
    """Of the canonical JSON of `value`: keys sorted, no spaces."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def expand(grid: Grid) -> list[RunSpec]:
    """Every run that the grid asks for, each once: model by model, and within a model formats that differ least side by side.

    Opens each model (headers and tokenizer, and all bytes once for the fingerprint) and each text.
    Raises StoreError where a path or glob finds nothing, CheckpointError and TextError where a model or a text is no good.
    """
    models: dict[str, _Model] = {}
    texts: dict[tuple[str, ...], str] = {}
    specs: dict[str, RunSpec] = {}
    for product in grid.products():
        protocols = [(name, entry, find_texts(entry.text, grid.source)) for name, entry in product.protocols.items()]
        calibration = find_texts(product.calibration, grid.source)
        integers = FixedPoint.of(product.fixed_point).bind(read_texts(calibration)) if calibration else None
        training = Training.of(product, grid.source) if product.training else None
        for source in find_models(product.models, grid.source):
            model = models.get(source) or models.setdefault(source, _Model(source))
            for named, recipe, plan in _recipes(product, integers):
                for name, entry, files in protocols:
                    text = texts.get(files) or texts.setdefault(files, read_texts(files))
                    spec = model.spec(named, recipe, name, entry, files, text)
                    spec = replace(spec, calibration=calibration) if recipe.integers else spec
                    spec = training.applied(spec, plan, model.skeleton) if training and plan else spec
                    specs.setdefault(spec.hash, spec)
    return list(specs.values())


def _recipes(product: Product, integers: FixedPoint | None) -> Iterator[tuple[str, Recipe, TrainPlan | None]]:
    """Every recipe with the name that the grid gives it, empty for a format; and how it is trained, where it is."""
    for name, plain in _named(product):
        is_float = Format.parse(plain[0].weights).is_float
        for method in ["rtn"] if is_float else _words(product.methods):  # a float is cast: no method has a say
            for recipe in plain:
                if method == QAT:
                    assert product.training is not None
                    start = recipe.with_(method=product.training.start)
                    yield from ((name, start, plan) for plan in product.training.plans())
                    continue
                rounded = recipe.with_(method=method)
                for bits in dict.fromkeys([FLOAT] if is_float else product.activations):
                    yield name, (rounded if bits == FLOAT else rounded.with_(fixed_point=_calibrated(integers, bits))), None


def _named(product: Product) -> Iterator[tuple[str, list[Recipe]]]:
    """Each format with every format of the embeddings, nameless; then the grid's own recipes, which say theirs."""
    for text in _words(product.formats):
        kept = [str(Format.parse(embeddings)) for embeddings in _words(product.embeddings)]
        yield "", [Recipe(weights=text, embeddings=fmt, lm_head=fmt) for fmt in kept]
    for name, settings in product.recipes.items():
        yield name, [Recipe.from_dict(settings)]


def _words(entries: list[str]) -> list[str]:
    return list(dict.fromkeys(word for entry in entries for word in expand_braces(entry)))


def _calibrated(integers: FixedPoint | None, bits: int | str) -> FixedPoint:
    if integers is None:
        raise StoreError(f"activations of {bits} bits want a text to calibrate on. Add the field 'calibration' to the grid.")
    return replace(integers, activations=int(bits))


class _Model:
    """What a grid must know of one model before any run of it."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.checkpoint = open_checkpoint(source)
        self.fingerprint = self.checkpoint.fingerprint()
        config = {key: value for key, value in self.checkpoint.config.items() if key not in PASSING_KEYS}
        self.config = sha256(config)
        self.skeleton = skeleton(self.checkpoint)
        self.tokenizer = load_tokenizer(source)
        self.about = about_model(source, self.checkpoint) | {
            "parameters": parameters(self.skeleton),
            "parameters_linear": parameters_linear(self.skeleton),
            "architecture": dict(architecture(self.skeleton.config)),
        }
        self._windows: dict[tuple[Protocol, str], Windows] = {}

    def spec(self, named: str, recipe: Recipe, name: str, entry: GridProtocol, files: tuple[str, ...], text: str) -> RunSpec:
        windows = self.windows(entry.named(name), text)
        fmt, own = Format.parse(recipe.weights), RECIPE_NAME.fullmatch(named)
        bits = recipe.integers.activations if recipe.integers else 0
        if bits and windows.protocol.compute != EXACT:
            raise StoreError(
                f"protocol '{name}': a model that runs on integers alone has no compute {windows.protocol.compute}. Leave it out."
            )
        about = self.about | {
            "protocol": name,
            "format": (named or recipe.weights) + (f"-a{bits}" if bits else ""),
            "activations": bits,
            "codebook": own[1] if own else fmt.codebook,
            "k": int(own[2]) if own else fmt.k,
            "block": fmt.block or 0,
            "method": "none" if fmt.is_float else recipe.method,
            "embeddings": recipe.embeddings,
            "windows": len(windows),
            "tokens": windows.ids.numel(),
        }
        return RunSpec(
            fingerprint=self.fingerprint,
            config=self.config,
            recipe=recipe.to_json(),
            protocol=windows.protocol.to_json(),
            source=self.source,
            texts=files,
            about=about,
        )

    def windows(self, protocol: Protocol, text: str) -> Windows:
        key = protocol_for(self.skeleton, protocol), text
        if key not in self._windows:
            self._windows[key] = tokenize_windows(text, self.tokenizer, key[0])
        return self._windows[key]


def about_model(source: str, checkpoint: Checkpoint) -> dict[str, Any]:
    """Name, family, training tokens and seed: from training.json beside the model, where it says so.

    Without it the family is the config's model_type, training tokens are nan (None in JSON) and the seed is 0.
    """
    name = Path(source).stem if source.endswith(".gguf") else Path(source).name
    training: dict[str, Any] = {}
    file = checkpoint.path / "training.json"
    if file.is_file():
        try:
            training = json.loads(file.read_text(encoding="utf-8"))
            tokens, seed = float(training.get("training_tokens", nan)), int(training.get("seed", 0))
        except (ValueError, TypeError, AttributeError):
            raise StoreError(
                f"{file}: it is no JSON object with numbers for training_tokens and seed. Mend or remove it."
            ) from None
    else:
        tokens, seed = nan, 0
    return {
        "model": name,
        "family": str(training.get("family", checkpoint.config.get("model_type", name))),
        "training_tokens": None if tokens != tokens else tokens,
        "seed": seed,
    }
