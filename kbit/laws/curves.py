"""Loss against bits, one curve for each format through its measured sizes: the picture of the k-bit paper."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

from kbit.errors import LawError
from kbit.laws.runs import Runs, Table

AXES = ("total", "linear")


@dataclass(frozen=True)
class Curve:
    """One format over the sizes, in the order of their bits. `rows` lists for each size the runs whose mean it is (its seeds)."""

    format: str
    kind: str
    k: int
    N: np.ndarray
    bits: np.ndarray
    loss: np.ndarray
    models: tuple[str, ...]
    rows: tuple[np.ndarray, ...]

    def losses(self, samples: np.ndarray) -> np.ndarray:
        """Its points in samples (draws, runs) of the losses of all runs: (draws, sizes)."""
        return np.stack([samples[:, rows].mean(1) for rows in self.rows], axis=1)

    def size_at(self, bits: np.ndarray) -> np.ndarray:
        """N of the model that takes these bits in this format: linear in the logarithms, beyond the ends too."""
        x, y = np.log(self.bits), np.log(self.N)
        at = np.log(bits)
        if len(x) == 1:
            return np.asarray(np.exp(y[0] + at - x[0]))
        first, last = np.diff(y)[[0, -1]] / np.diff(x)[[0, -1]]
        beyond = first * np.minimum(at - x[0], 0) + last * np.maximum(at - x[-1], 0)
        return np.asarray(np.exp(np.interp(at, x, y) + beyond))

    def interpolate(self, bits: np.ndarray, losses: np.ndarray | None = None) -> np.ndarray:
        """Loss at these bits (points,), nan outside the measured ones; losses (draws, sizes) give (draws, points).

        Monotone cubics in log(bits) (Fritsch & Carlson 1980): between two sizes they stay between their losses, and unlike chords
        they do not lie above a convex curve, most in the middle of each gap, where the gaps of another k begin.
        """
        values = self.loss if losses is None else losses
        if len(self.bits) == 1:
            return np.where(np.isclose(bits, self.bits[0], rtol=1e-9), values, np.nan)
        bend = PchipInterpolator(np.log(self.bits), values, axis=-1)(np.log(np.clip(bits, self.bits[0], self.bits[-1])))
        return np.where((bits >= self.bits[0]) & (bits <= self.bits[-1]), bend, np.nan)


def curves(runs: Runs, axis: str = "total", kind: str | None = None) -> list[Curve]:
    """The curves of the runs, in the order of k: of one kind of format and 16 bits, or of every format where kind is None.

    Of each size the models that saw the most tokens count; where several differ in their seed, their mean. So that all formats
    are compared on the same models, a second training that was measured in some of them alone is left out.
    """
    if axis not in AXES:
        raise LawError(f"axis '{axis}' does not exist. Write one of: {', '.join(AXES)}.")
    bits = runs.total_bits if axis == "total" else runs.linear_bits
    longest = runs.longest_trained & runs.longest_tuned
    texts = [
        text
        for text, first in zip(*np.unique(runs.format, return_index=True), strict=True)
        if kind is None or not runs.quantized[first] or runs.kind[first] == kind
    ]
    alike = longest & _measured_alike(runs, longest, texts)
    out = []
    for text in texts:
        mine = alike & (runs.format == text)
        first = int(np.argmax(runs.format == text))
        if not mine.any():
            continue
        points = []
        for N in np.unique(runs.N[mine]):
            rows = np.flatnonzero(mine & (runs.N == N))
            points.append((float(bits[rows].mean()), float(N), rows))
        points.sort(key=lambda point: point[0])
        points = [point for i, point in enumerate(points) if i == 0 or point[0] > points[i - 1][0]]
        out.append(
            Curve(
                format=text,
                kind=str(runs.kind[first]),
                k=int(runs.k[first]),
                N=np.array([N for _, N, _ in points]),
                bits=np.array([total for total, _, _ in points]),
                loss=np.array([runs.loss[rows].mean() for _, _, rows in points]),
                models=tuple(str(runs.model[rows[0]]) for _, _, rows in points),
                rows=tuple(rows for _, _, rows in points),
            )
        )
    return sorted(out, key=lambda curve: (curve.k, curve.kind))


def _measured_alike(runs: Runs, counted: np.ndarray, formats: list[str]) -> np.ndarray:
    """Mask: runs of models that were measured in every format in which any model of their size was; all, where there is none."""
    alike = np.ones(len(runs.N), dtype=bool)
    for N in np.unique(runs.N[counted]):
        here = counted & (runs.N == N) & np.isin(runs.format, formats)
        measured = {str(model): set(runs.format[here & (runs.model == model)]) for model in np.unique(runs.model[here])}
        every = set().union(*measured.values())
        complete = [model for model, found in measured.items() if found == every]
        if complete:
            alike &= (runs.N != N) | np.isin(runs.model, complete)
    return alike


def main_kind(runs: Runs) -> str:
    """The kind of format measured at the most k; the one with most runs of those."""
    counts = Counter(str(kind) for kind in runs.kind[runs.quantized])
    if not counts:
        raise LawError("every run is in 16 bits, so there is no k to choose. Measure some formats, such as int{2..8}-b64.")
    return max(counts, key=lambda kind: (len(np.unique(runs.k[runs.kind == kind])), counts[kind], kind))


def pareto(table: Table, axis: str = "total", metric: str = "loss") -> np.ndarray:
    """Indices of the rows that no other row beats in bits and in metric at once, by ascending bits. Lower is better for both."""
    bits, score = table[f"{axis}_bits"].astype(float), table[metric].astype(float)
    order = np.lexsort((score, bits))
    best = np.minimum.accumulate(np.concatenate([[np.inf], score[order]]))[:-1]
    return order[score[order] < best]
