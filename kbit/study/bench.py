"""One worker's bench: a model that stays loaded, its 16-bit logits, and the runs that are measured against them."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime

from torch import Tensor
from transformers import PreTrainedModel

from kbit.errors import KbitError, StoreError
from kbit.evaluation import Protocol, Quality, Scorer, Windows, batch_size_for, batches, logits_of, ready, tokenize_windows
from kbit.evaluation.forward import tokenizer_of
from kbit.evaluation.protocols import EXACT
from kbit.models import load, walk
from kbit.models.integer_model import IntegerModel
from kbit.recipes import BitCount, Recipe, convert, hold, packed_weights, quantized_weights, rest_values, total_bits
from kbit.recipes.peak import peak_bytes, restart_peak
from kbit.study.sources import read_texts
from kbit.study.specs import RunSpec
from kbit.study.store import Outcome
from kbit.study.tasks import LOGITS_BYTES, Task, grouped, model_key
from kbit.study.trainings import TrainedWeights, train

Batch = tuple[int, Tensor]  # number of the first window, ids
REST = ""  # stands among the sites for all that is no matrix: norms, biases, positions


class Bench:
    """Measures the runs of a task. What the next task may need again (the model, windows, 16-bit logits) it keeps."""

    def __init__(self) -> None:
        self._key = ""
        self._loaded: Loaded | None = None
        self._windows: dict[str, Windows] = {}
        self._logits: dict[str, list[Tensor]] = {}

    def __call__(self, task: Task) -> list[Outcome]:
        """An outcome for each run of the task. A run that fails does so alone, with its reason in the outcome."""
        return [outcome for specs in grouped(task.specs, lambda spec: spec.protocol) for outcome in self._measure(specs)]

    def _measure(self, specs: list[RunSpec]) -> list[Outcome]:
        """Outcomes of runs of one model under one protocol, chunk of windows by chunk of windows."""
        runs = [Run(spec) for spec in specs]
        try:
            loaded, windows = self._open(specs[0])
            chunks = _chunks(windows, loaded.original)
            for chunk in chunks:
                shared = self._shared_logits(loaded, windows, chunk, keep=len(chunks) == 1)
                for run in runs:
                    run.score(loaded, windows, chunk, shared)
        except Exception as error:  # of the model itself: no run of it can succeed
            for run in runs:
                run.error = one_line(error)
        return [run.outcome(loaded) if run.error is None else run.failure() for run in runs]

    def _open(self, spec: RunSpec) -> tuple[Loaded, Windows]:
        if self._loaded is None or self._key != model_key(spec):
            self._loaded = None  # the last model goes before the next one comes
            self._windows.clear()
            self._logits.clear()
            self._key, self._loaded = model_key(spec), Loaded(spec.source)
        if spec.protocol not in self._windows:
            self._windows[spec.protocol] = self._loaded.windows(spec)
        return self._loaded, self._windows[spec.protocol]

    def _shared_logits(self, loaded: Loaded, windows: Windows, chunk: list[Batch], *, keep: bool) -> list[Tensor]:
        """The 16-bit model's logits of each batch of the chunk."""
        name = windows.protocol.to_json()
        if name in self._logits:
            return self._logits[name]
        logits = [logits_of(loaded.copies(windows.protocol).reference, ids) for _, ids in chunk]
        if keep:
            held = sum(batch.nbytes for kept in self._logits.values() for batch in kept)
            if held + sum(batch.nbytes for batch in logits) > LOGITS_BYTES:
                self._logits.clear()
            self._logits[name] = logits
        return logits


@dataclass
class Copies:
    """A model in one dtype: as it is, and a copy that takes the weights of one run after another.

    installed: what each site of `copy` holds: format and method; and the format of the REST.
    """

    reference: PreTrainedModel
    copy: PreTrainedModel
    installed: dict[str, object]


class Loaded:
    """A model that was read once, for all its runs."""

    def __init__(self, source: str) -> None:
        self.original = load(source, packed=False)
        self._sites = walk(self.original)
        self._copies: dict[tuple[str, str], Copies] = {}
        self._integers: tuple[str, IntegerModel, BitCount] | None = None
        self._trained: dict[str, TrainedWeights] = {}  # packed, so small beside the model

    def copies(self, protocol: Protocol) -> Copies:
        """The model and its copy with parameters in the protocol's dtype; one copy for each compute."""
        key = protocol.dtype, protocol.compute
        if key not in self._copies:
            with ready(self.original, protocol.dtype) as reference:
                self._copies[key] = Copies(reference, deepcopy(reference), {})
        return self._copies[key]

    def model(self, spec: RunSpec, protocol: Protocol) -> PreTrainedModel:
        """The model of a run: the copy with other weights, given or trained, or one of integers, the last of which is kept."""
        recipe = spec.parsed_recipe
        if spec.training:
            return self.install_trained(spec, protocol)
        if recipe.integers is None:
            return self.install(recipe, protocol)
        if self._integers is None or self._integers[0] != spec.recipe:
            converted = convert(self.original, recipe, read_texts(spec.calibration))
            self._integers = spec.recipe, IntegerModel(converted.program, self.original.config), converted.bits
        return self._integers[1]

    def bits(self, spec: RunSpec) -> BitCount:
        """Of the model of a run that was measured."""
        if self._integers is not None and self._integers[0] == spec.recipe:
            return self._integers[2]
        return total_bits(self.original, spec.parsed_recipe)

    def install(self, recipe: Recipe, protocol: Protocol) -> PreTrainedModel:
        """The copy, its weights those of `recipe`: dequantized where the protocol computes exactly, which is the same and faster
        while weights change from run to run; else packed. A site that holds the wanted ones already is left alone.
        """
        copies = self.copies(protocol)
        wanted = {site.key: recipe.choice_for(site) for site in self._sites}
        changed = [site for site in self._sites if copies.installed.get(site.key) != wanted[site.key]]
        for site in changed:
            copies.installed.pop(site.key, None)
        if protocol.compute == EXACT:
            for site, w in quantized_weights(self.original, recipe, sites=changed):
                site.write(copies.copy, w)
                copies.installed[site.key] = wanted[site.key]
        else:
            for site, weight in packed_weights(self.original, recipe, sites=changed):
                hold(copies.copy, site, weight)
                copies.installed[site.key] = wanted[site.key]
        if copies.installed.get(REST) != recipe.rest:
            copies.installed.pop(REST, None)
            for name, values in rest_values(self.original, recipe):
                copies.copy.get_parameter(name).data.copy_(values)
            copies.installed[REST] = recipe.rest
        return copies.copy

    def install_trained(self, spec: RunSpec, protocol: Protocol) -> PreTrainedModel:
        """The copy with the weights that training gives for `spec`; runs that differ in their protocol alone share a training."""
        key = spec.recipe + spec.training
        if key not in self._trained:
            self._trained[key] = train(self.original, spec)
        copies = self.copies(protocol)
        if any(copies.installed.get(site.key) != (key,) for site in self._sites):
            copies.installed.clear()
            for site, weight in self._trained[key].packed:
                if protocol.compute == EXACT:
                    site.write(copies.copy, weight.dequantize())
                else:
                    hold(copies.copy, site, weight)
            for name, values in self._trained[key].rest.items():
                copies.copy.get_parameter(name).data.copy_(values)
            copies.installed.update({site.key: (key,) for site in self._sites})
        return copies.copy

    def windows(self, spec: RunSpec) -> Windows:
        """The windows of the run's protocol; StoreError where they are not those that the spec was made for."""
        windows = tokenize_windows(read_texts(spec.texts), tokenizer_of(self.original), spec.unbound_protocol)
        if windows.protocol.to_json() != spec.protocol:
            raise StoreError(f"{spec.texts[0]}: the text or the tokenizer changed while the study ran. Start it again.")
        return windows


@dataclass
class Run:
    """A run in the making; `error` says in one line why it failed."""

    spec: RunSpec
    scorer: Scorer | None = None
    seconds: float = 0.0
    peak_bytes: int = 0
    error: str | None = None

    def score(self, loaded: Loaded, windows: Windows, chunk: list[Batch], shared: list[Tensor]) -> None:
        """Quantize what the model's copy does not hold yet, and score a chunk of windows."""
        if self.error is not None:
            return
        self.scorer = self.scorer or Scorer(windows)
        with self._measured():
            model = loaded.model(self.spec, windows.protocol)
            for (first, ids), reference in zip(chunk, shared, strict=True):
                self.scorer.update(first, logits_of(model, ids, windows.protocol.compute), reference)

    def outcome(self, loaded: Loaded) -> Outcome:
        """What was found, when all windows are scored."""
        assert self.scorer is not None
        with self._measured():
            quality = self.scorer.quality()
            bits = loaded.bits(self.spec)
        if self.error is not None:
            return self.failure()
        sizes = {name: (float(getattr(bits, name)), None) for name in ("total_bits", "linear_bits", "bits_per_weight")}
        return replace(
            self.failure(),
            measurements=_figures(quality) | sizes,
            window_losses=quality.window_losses,
            window_tokens=quality.window_tokens,
            window_bytes=quality.window_bytes,
        )

    def failure(self) -> Outcome:
        """What was asked and how far it came, without figures."""
        return Outcome(
            hash=self.spec.hash,
            spec=self.spec.decided,
            about=self.spec.about,
            host=platform.node(),
            seconds=self.seconds,
            peak_bytes=self.peak_bytes,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            error=self.error,
        )

    @contextmanager
    def _measured(self) -> Iterator[None]:
        """Add the seconds, keep the peak of memory, and take an exception as the run's own."""
        start = time.perf_counter()
        restart_peak()
        try:
            yield
        except Exception as error:
            self.error = one_line(error)
        self.seconds += time.perf_counter() - start
        self.peak_bytes = max(self.peak_bytes, peak_bytes())


def one_line(error: BaseException) -> str:
    """What went wrong in one line; the kind of exception too, where it is not one that the user can mend."""
    text = " ".join(str(error).split())
    return text if isinstance(error, KbitError) else f"{type(error).__name__}: {text}"[:500]


def _chunks(windows: Windows, model: PreTrainedModel) -> list[list[Batch]]:
    """Batches of windows, as many in a chunk as keep its logits within LOGITS_BYTES."""
    size = batch_size_for(model, windows.protocol)
    all_batches = list(batches(windows, size))
    batch_bytes = 4 * size * windows.protocol.window * model.config.get_text_config().vocab_size
    at_once = max(1, LOGITS_BYTES // batch_bytes) if len(windows) * batch_bytes > size * LOGITS_BYTES else len(all_batches)
    return [all_batches[start : start + at_once] for start in range(0, len(all_batches), at_once)]


def _figures(quality: Quality) -> dict[str, tuple[float, float | None]]:
    values = {f.name: getattr(quality, f.name) for f in fields(quality) if isinstance(getattr(quality, f.name), int | float)}
    del values["seconds"]  # of the run, which the store has by itself
    return {name: (float(value), values.get(f"{name}_stderr")) for name, value in values.items() if not name.endswith("_stderr")}
