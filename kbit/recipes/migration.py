"""Outliers of single columns go from activations to weights: SmoothQuant (Xiao et al. 2023, equations 3 and 4).

x w^T = (x / s) (w s)^T for any s > 0 of each column. 1 / s goes into what produces x: the weight of a norm, the rows of v, the
rows of up; so nothing is added to the model, and in exact arithmetic nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kbit.models.integer_blueprint import Blueprint, Linear, Norm
from kbit.models.integer_float import INPUTS, rounded, turned
from kbit.recipes.calibration import Calibration

PLACES = (*INPUTS, "head")
STRENGTHS = (0.25, 0.5, 0.75)  # alpha, from which the best is taken; no migration is tried too
SMALLEST = 1e-5
GAIN = 0.98  # of the error without it, that a migration must beat: it is found on a few rows

Decode = Callable[[Linear], Tensor]  # what a decoder will make of a matrix


@dataclass(frozen=True)
class Migrated:
    """What was done at one place: alpha, or None where the columns stay; the error before and after, relative to the output."""

    place: str
    strength: float | None
    error_before: float
    error_after: float


@dataclass(frozen=True)
class _Site:
    """A place, the matrices that multiply it, how columns share a factor, and what takes 1 / s."""

    place: str
    matrices: tuple[Linear, ...]
    divide: Callable[[Tensor], None]
    heads: tuple[int, int] = (0, 0)  # kv_heads and queries to each: columns of the queries of one value share a factor

    def shared(self, columns: Tensor) -> Tensor:
        """The largest over the columns that share a factor, for each of them."""
        if not self.heads[0]:
            return columns
        kv_heads, group = self.heads
        return columns.view(kv_heads, group, -1).amax(1, keepdim=True).expand(-1, group, -1).flatten()


def migrate(
    blueprint: Blueprint,
    calibration: Calibration,
    decode: Decode,
    k: int,
    strength: float | None = None,
    *,
    places: Sequence[str] = PLACES,
    widths: Mapping[str, int] | None = None,
) -> list[Migrated]:
    """Migrate the columns of these places of each layer of `blueprint`, in place. k: bits of activations.

    strength: alpha for all places; None takes at each place that of STRENGTHS, or none, whose integers come closest to the
    output that floats have, on the rows of calibration. decode: weights as they will be stored. widths: how many numbers of a
    place will go through a Hadamard transform together, which is tried with it.
    """
    done, widths = [], widths or {}
    for site in _sites(blueprint):
        if site.place.rpartition(".")[2] not in places or not bool((x := calibration.rows(site.place)).any()):
            continue
        wanted = [matrix.weight for matrix in site.matrices]
        targets = [x @ w.T for w in wanted]

        def error(s: Tensor, site: _Site = site, x: Tensor = x, targets: list[Tensor] = targets) -> float:
            noise, signal, width = 0.0, 0.0, widths.get(site.place, 0)
            taken = rounded(turned(x / s, width), k)
            for matrix, target in zip(site.matrices, targets, strict=True):
                seen = decode(Linear(matrix.name, turned(matrix.weight * s, width), matrix.bias))
                noise += float((taken @ seen.T - target).square().sum())
                signal += float(target.square().sum())
            return (noise / signal) ** 0.5 if signal else 0.0

        columns = site.shared(calibration.columns(site.place))
        largest = site.shared(torch.stack([w.abs().amax(0) for w in wanted]).amax(0))
        ones = torch.ones_like(columns)
        before = error(ones)
        tried = {alpha: factors(columns, largest, alpha) for alpha in (STRENGTHS if strength is None else (strength,))}
        errors = {alpha: error(s) for alpha, s in tried.items()}
        best = min(errors, key=lambda alpha: errors[alpha])
        if strength is None and errors[best] >= GAIN * before:
            done.append(Migrated(site.place, None, before, before))
            continue
        for matrix in site.matrices:
            matrix.weight *= tried[best]
        site.divide(tried[best])
        done.append(Migrated(site.place, best, before, errors[best]))
    return done


def factors(columns: Tensor, largest: Tensor, alpha: float) -> Tensor:
    """s = max|x|^alpha / max|w|^(1 - alpha) of each column (equation 4), scaled to a geometric mean of 1; 1 for a dead column."""
    dead = (columns == 0) | (largest == 0)
    s = columns.clamp(min=SMALLEST) ** alpha / largest.clamp(min=SMALLEST) ** (1 - alpha)
    alive = s[~dead]
    return torch.where(dead, 1.0, s / alive.log().mean().exp()) if len(alive) else torch.ones_like(s)


@dataclass(frozen=True)
class _Norm:
    """1 / s into the weight and the bias of a norm."""

    norm: Norm

    def __call__(self, s: Tensor) -> None:
        self.norm.weight /= s
        if self.norm.bias is not None:
            self.norm.bias /= s


@dataclass(frozen=True)
class _Rows:
    """1 / s into the rows of a matrix; s may have each of them several times, as queries share values."""

    linear: Linear
    heads: tuple[int, int] = (0, 0)

    def __call__(self, s: Tensor) -> None:
        kv_heads, group = self.heads
        rows = s.view(kv_heads, group, -1)[:, 0].flatten() if kv_heads else s
        self.linear.weight /= rows[:, None]
        if self.linear.bias is not None:
            self.linear.bias /= rows


def _sites(blueprint: Blueprint) -> Iterator[_Site]:
    heads = blueprint.kv_heads, blueprint.heads // blueprint.kv_heads
    for index, layer in enumerate(blueprint.layers):
        attention, mlp = layer.attention, layer.mlp
        yield _Site(f"{index}.attention", (attention.q, attention.k, attention.v), _Norm(layer.attention_norm))
        yield _Site(f"{index}.mixed", (attention.o,), _Rows(attention.v, heads), heads)
        if mlp.gate is None:
            yield _Site(f"{index}.mlp", (mlp.up,), _Norm(layer.mlp_norm))
        else:  # the product is linear in up, so its columns can be divided there
            yield _Site(f"{index}.mlp", (mlp.gate, mlp.up), _Norm(layer.mlp_norm))
            yield _Site(f"{index}.inner", (mlp.down,), _Rows(mlp.up))
    if not blueprint.tied:
        yield _Site("head", (blueprint.head,), _Norm(blueprint.norm))
