"""Every (model, format) that the runs say something about: measured, or predicted from what the format costs elsewhere."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kbit.laws import Runs, choose_slice, prepare, split_format
from kbit.laws.noise import resample_windows
from kbit.laws.runs import UNQUANTIZED_BITS, Table

MEASURED, INTERPOLATED, EXTRAPOLATED = "measured", "interpolated", "extrapolated"
LEAST_COST = 1e-4  # nats; smaller costs are noise, and their logarithms say nothing
LEAST_DOUBT, NO_CHECK = 0.1, 0.3  # relative error of a predicted cost: at least, and where nothing measured can check it
FURTHER = 2.0  # how much more an extrapolation errs than an interpolation


@dataclass(frozen=True)
class Model:
    """What a plan needs of a model whatever its format; one nat per token is so many bits per byte of its tokenizer's text."""

    family: str
    name: str
    parameters: int
    architecture: dict[str, int]
    bits_per_byte_per_nat: float


@dataclass(frozen=True)
class Candidate:
    """A model at a format: its stored bits, and its loss as it was found or predicted and in each resample of the text."""

    model: Model
    format: str
    embeddings: str
    method: str
    k: int
    total_bits: int
    loss: float
    draws: np.ndarray  # (draws,)
    basis: str

    @property
    def bits_per_byte(self) -> float:
        """Its loss in the unit that compares across tokenizers."""
        return self.loss * self.model.bits_per_byte_per_nat

    @property
    def scores(self) -> np.ndarray:
        """Its draws in that unit."""
        return self.draws * self.model.bits_per_byte_per_nat


@dataclass(frozen=True)
class Costs:
    """log cost(model, format) = of_model + of_format, fitted to the measured costs; `doubt` is the rms error on them.

    gain: nats below the model in 16 bits from which costs count: what training at k bits gains at any number of bits, 0 without.
    """

    of_model: dict[str, float]
    of_format: dict[str, float]
    doubt: float
    gain: float


def candidates(table: Table, protocol: str | None, family: str | None, draws: int, seed: int) -> tuple[list[Candidate], str]:
    """All candidates under one protocol, and its name.

    Of families with tokenizers of their own each is resampled by itself. Raises LawError where nothing was measured so.
    """
    _, chosen = choose_slice(table, protocol=protocol, family=family)
    name = str(chosen["protocol"])
    rows = (table["protocol"] == name) & ((table["family"] == family) if family else True)
    here = {column: values[rows] for column, values in table.items()}
    found: dict[tuple[str, str, str, str], Candidate] = {}
    for kin, embeddings, method in groups(here):
        group, _ = choose_slice(here, family=kin, protocol=name, embeddings=embeddings, method=method)
        rng = np.random.default_rng([seed, zlib.crc32(kin.encode())])  # one text per tokenizer, resampled alike in all its groups
        for candidate in of_group(group, embeddings, method or "none", draws, rng):
            key = (candidate.model.name, candidate.format, candidate.embeddings, candidate.method)
            if key not in found or candidate.basis == MEASURED:
                found[key] = candidate
    return list(found.values()), name


def groups(table: Table) -> list[tuple[str, str, str | None]]:
    """Family, embeddings and method of the quantized runs; with no method those whose every run is in floats."""
    columns = zip(*(table[name].tolist() for name in ("family", "embeddings", "method", "k")), strict=True)
    rows = [(str(kin), str(embeddings), str(method), k) for kin, embeddings, method, k in columns]
    coded = {(kin, embeddings, method) for kin, embeddings, method, k in rows if k < UNQUANTIZED_BITS}
    floats = {(kin, embeddings) for kin, embeddings, _, _ in rows} - {(kin, embeddings) for kin, embeddings, _ in coded}
    return [*sorted(coded), *((kin, embeddings, None) for kin, embeddings in sorted(floats))]


def of_group(group: Table, embeddings: str, method: str, draws: int, rng: np.random.Generator) -> Iterator[Candidate]:
    """The candidates of one family, kind of embeddings and method."""
    runs = prepare(group)
    where = {run: row for row, run in enumerate(group["run"].tolist())}
    rows = np.array([where[run] for run in runs.run.tolist()])
    samples = resample_windows(runs, draws, rng)
    for i, row in enumerate(rows):
        yield Candidate(
            model=model_of(group, int(row)),
            format=str(runs.format[i]),
            embeddings=str(group["embeddings"][row]),
            method=str(group["method"][row]),
            k=int(runs.k[i]),
            total_bits=int(runs.total_bits[i]),
            loss=float(runs.loss[i]),
            draws=samples[:, i],
            basis=MEASURED,
        )
    costs = fit_costs(runs)
    own = group["embeddings"][rows] == embeddings
    for model in dict.fromkeys(runs.model.tolist()):
        kept = np.flatnonzero((runs.model == model) & ~runs.quantized)
        here = np.flatnonzero((runs.model == model) & own)
        if costs is None or model not in costs.of_model or not len(kept) or not len(here):
            continue
        rest = float(np.median(runs.total_bits[here] - runs.linear_bits[here]))
        for text, k, basis in unmeasured(runs, model, costs):
            log_cost = costs.of_model[model] + format_effect(costs, text)
            start, drawn = float(runs.loss[kept[0]]) - costs.gain, samples[:, kept[0]] - costs.gain
            doubt = costs.doubt * (FURTHER if basis == EXTRAPOLATED else 1.0)
            yield Candidate(
                model=model_of(group, int(rows[here[0]])),
                format=text,
                embeddings=embeddings,
                method=method,
                k=k,
                total_bits=round(rest + runs.N[here[0]] * bits_per_weight(runs, text, float(runs.N[here[0]]))),
                loss=start + float(np.exp(log_cost)),
                draws=drawn + np.exp(log_cost + doubt * rng.normal(size=draws)),
                basis=basis,
            )


def model_of(group: Table, row: int) -> Model:
    """What a row says of its model."""
    return Model(
        family=str(group["family"][row]),
        name=str(group["model"][row]),
        parameters=int(group["parameters"][row]),
        architecture=dict(group["architecture"][row]),
        bits_per_byte_per_nat=float(group["bits_per_byte"][row] / group["loss"][row]),
    )


def fit_costs(runs: Runs) -> Costs | None:
    """Two-way fit of the logarithms of the measured costs; None where no model has both codes and 16 bits.

    Models and formats that no chain of measured pairs connects to the most are left out: nothing relates them.
    """
    with_base = np.isin(runs.model, np.unique(runs.model[~runs.quantized]))
    cells = np.flatnonzero(runs.quantized & with_base)
    if not len(cells):
        return None
    cells = cells[connected(runs.model[cells], runs.format[cells])]
    models, row = np.unique(runs.model[cells], return_inverse=True)
    formats, column = np.unique(runs.format[cells], return_inverse=True)
    penalty = runs.penalty[cells]
    gain = max(0.0, -float(penalty.min())) if (runs.T[cells] > 0).all() else 0.0  # without training, below 0 is noise
    cost = np.maximum(penalty + gain, LEAST_COST)
    design = np.zeros((len(cells), len(models) + len(formats)))
    design[np.arange(len(cells)), row] = 1
    design[np.arange(len(cells)), len(models) + column] = 1
    weight = np.sqrt(cost / (cost + 10 * LEAST_COST))  # costs near the noise count less
    effects, *_ = np.linalg.lstsq(design * weight[:, None], np.log(cost) * weight, rcond=None)
    freedom = len(cells) - (len(models) + len(formats) - 1)
    squares = float((weight**2 * (design @ effects - np.log(cost)) ** 2).sum())
    doubt = max(np.sqrt(squares / freedom), LEAST_DOUBT) if freedom > 0 else NO_CHECK
    return Costs(
        dict(zip(models.tolist(), effects[: len(models)].tolist(), strict=True)),
        dict(zip(formats.tolist(), effects[len(models) :].tolist(), strict=True)),
        float(doubt),
        gain,
    )


def connected(models: np.ndarray, formats: np.ndarray) -> np.ndarray:
    """True for the cells in the largest set that pairs of one model or one format connect."""
    label = np.arange(len(models))
    for _ in range(len(models)):
        before = label.copy()
        for names in (models, formats):
            for name in np.unique(names):
                label[names == name] = label[names == name].min()
        if (label == before).all():
            break
    return np.asarray(label == np.bincount(label).argmax())


def unmeasured(runs: Runs, model: str, costs: Costs) -> Iterator[tuple[str, int, str]]:
    """Formats that can be predicted for a model but were not measured with it: format, k and basis.

    Interpolated: measured at models on both sides in size, or at k on both sides at this model; else extrapolated.
    """
    mine = set(runs.format[runs.model == model].tolist())
    N = float(runs.N[runs.model == model][0])
    known = {str(text): int(runs.k[runs.format == text][0]) for text in costs.of_format}
    for text, k in {**between(known), **known}.items():
        if text in mine:
            continue
        sizes = runs.N[runs.format == text]
        own = runs.k[(runs.model == model) & (runs.kind == split_format(text)[2])]
        in_size = len(sizes) and sizes.min() <= N <= sizes.max()
        in_k = len(own) and own.min() < k < own.max()
        yield text, k, INTERPOLATED if in_size or in_k else EXTRAPOLATED


def between(known: dict[str, int]) -> dict[str, int]:
    """Formats of a known kind at a k between two known ones: format -> k."""
    out: dict[str, int] = {}
    for kind in {split_format(text)[2] for text in known}:
        texts = {k: text for text, k in known.items() if split_format(text)[2] == kind and split_format(text)[1] == k}
        for k in range(min(texts, default=0), max(texts, default=0)):
            if k not in texts:
                out[with_k(texts[min(texts)], k)] = k
    return out


def with_k(text: str, k: int) -> str:
    """The format of the same kind at another k: int4-b64 to int5-b64, fp4e2m1-b32 to fp5e2m2-b32."""
    found = re.match(r"([a-z_]+)\d+(?:e(\d+)m\d+)?", text)
    assert found is not None, text
    split = f"e{found[2]}m{k - 1 - int(found[2])}" if found[2] else ""
    return f"{found[1]}{k}{split}{text[found.end() :]}"


def format_effect(costs: Costs, text: str) -> float:
    """The format's part of the log cost; for a k between measured ones linear in k."""
    if text in costs.of_format:
        return costs.of_format[text]
    _, k, kind = split_format(text)
    known = sorted(
        (split_format(other)[1] or 0, effect) for other, effect in costs.of_format.items() if split_format(other)[2] == kind
    )
    return float(np.interp(k or 0, [k for k, _ in known], [effect for _, effect in known]))


def bits_per_weight(runs: Runs, text: str, N: float) -> float:
    """Stored bits of a linear weight at the size nearest to N; for a k that no model has, linear in k."""
    if (runs.format == text).any():
        rows = np.flatnonzero(runs.format == text)
        row = rows[np.abs(np.log(runs.N[rows] / N)).argmin()]
        return float(runs.linear_bits[row] / runs.N[row])
    _, k, kind = split_format(text)
    known = {int(runs.k[row]): str(runs.format[row]) for row in np.flatnonzero(runs.kind == kind)}
    return float(np.interp(k or 0, sorted(known), [bits_per_weight(runs, known[other], N) for other in sorted(known)]))
