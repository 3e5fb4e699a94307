"""The KL (entropy) range: the clip ratio whose quantized histogram tells most about that of the weights (Migacz 2017)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from kbit.formats.blocks import min_max
from kbit.formats.encoded import pieces, reach, unflatten
from kbit.formats.format import Format
from kbit.formats.nearest import cell_bounds

BINS = 2048
RATIOS = np.linspace(1.0, 0.1, 91)


def kl_range(
    w: Tensor, fmt: Format, levels: Tensor, *, mean: Tensor | None = None, tensor_scale: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(low, high): the min-max range of each block times one clip ratio, found on the histogram of all weights over their own
    range.

    One ratio for the tensor, since a block of 64 weights has no histogram to speak of. `tensor_scale` is not needed here.
    """
    low, high = min_max(w, fmt, mean)
    if fmt.affine in ("asym", "min"):
        middle, half = low / 2 + high / 2, high / 2 - low / 2
        relative = levels / levels[-1] * 2 - 1
    else:
        middle, half = torch.zeros_like(low), torch.maximum(low.abs(), high.abs())
        relative = levels / reach(fmt, levels)
    counts = histogram(w, fmt, middle if mean is None else middle + mean, half)
    ratio = best_ratio(counts, relative)
    return middle - half * ratio, middle + half * ratio


def histogram(w: Tensor, fmt: Format, middle: Tensor, half: Tensor) -> np.ndarray:
    """Counts of (weight - middle) / half in 2048 equal bins of [-1, 1]; blocks of no width are left out."""
    counts = torch.zeros(BINS, dtype=torch.int64)
    for rows, blocks, columns in pieces(w.shape, fmt):
        own = rows if len(middle) > 1 else slice(None)
        x = unflatten(w[rows, columns].float(), blocks)
        width = half[own, blocks, None]
        bins = ((x - middle[own, blocks, None]) / width * (BINS / 2) + BINS / 2).clamp_(0, BINS - 1)
        counts += torch.bincount(bins[(width > 0).expand_as(bins)].long(), minlength=BINS)
    return counts.numpy().astype(np.float64)


def best_ratio(counts: np.ndarray, relative: Tensor) -> float:
    """The clip ratio of least KL(P || Q). P: the histogram with what is clipped added to the outermost bins of the range.

    Q: what the codes still tell of P: the mass of each level's bins, spread evenly over those of them that P does not leave
    empty; bins beyond the range are not part of either. relative: the levels on [-1, 1].
    """
    bounds = cell_bounds(relative).numpy()
    centres = (np.arange(BINS) + 0.5) / (BINS / 2) - 1
    least, best = np.inf, 1.0
    for ratio in RATIOS:
        inside = np.abs(centres) <= ratio
        first, last = np.flatnonzero(inside)[[0, -1]]
        kept = counts[first : last + 1]
        clipped = kept.copy()
        clipped[0] += counts[:first].sum()
        clipped[-1] += counts[last + 1 :].sum()
        codes = np.searchsorted(bounds, centres[inside] / ratio)
        held = clipped > 0
        mass = np.bincount(codes, kept, len(relative))
        bins = np.bincount(codes, held, len(relative))
        told = (mass / np.maximum(bins, 1))[codes]
        told = told / max(told[held].sum(), 1)
        p = clipped / max(clipped.sum(), 1)
        divergence = np.sum(p[held] * np.log(p[held] / np.maximum(told[held], np.finfo(np.float64).tiny)))
        if divergence < least:
            least, best = divergence, float(ratio)
    return best
