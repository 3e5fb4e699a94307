"""What the weights of one matrix look like: range, spread, tails, and input features that stand out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

FAR = 6.0  # standard deviations; a normal distribution has 2 in 10^9 beyond
MAD_OF_NORMAL = 0.6745  # median absolute deviation of the standard normal: the 75% quantile
CHUNK = 2**20  # weights whose float64 powers are in memory at once


@dataclass(frozen=True)
class Facts:
    """Figures of w (n_out, n_in).

    minimum, maximum, std: of all weights. kurtosis: E[(w - mean)^4] / std^4; 3 for a normal distribution, 1.8 for an even one.
    max_over_std: the largest |w| in standard deviations. far_share: weights beyond 6 standard deviations of the mean.
    outlier_columns: input features whose weights have a standard deviation more than 6 robust deviations above the median's.
    power: mean of w^2.
    """

    minimum: float
    maximum: float
    std: float
    kurtosis: float
    max_over_std: float
    far_share: float
    outlier_columns: int
    power: float


def facts_of(w: Tensor) -> Facts:
    """The figures of `w` (n_out, n_in), finite floats; moments in float64."""
    rows = w.split(max(1, CHUNK // w.shape[1]))
    mean = float(sum(part.double().sum() for part in rows)) / w.numel()
    second = fourth = 0.0
    for part in rows:
        squared = (part.double() - mean).square()
        second += float(squared.sum()) / w.numel()
        fourth += float(squared.square().sum()) / w.numel()
    std = second**0.5
    minimum, maximum = float(w.min()), float(w.max())
    return Facts(
        minimum=minimum,
        maximum=maximum,
        std=std,
        kurtosis=fourth / second**2 if second else 0.0,
        max_over_std=max(-minimum, maximum) / std if std else 0.0,
        far_share=sum(int(((part - mean).abs() > FAR * std).sum()) for part in rows) / w.numel(),
        outlier_columns=outlier_columns(w),
        power=second + mean**2,
    )


def outlier_columns(w: Tensor) -> int:
    """How many columns have a standard deviation beyond median + 6 * MAD / 0.6745 of all columns' (0 where all are alike)."""
    spread = w.std(0, correction=0)
    median = spread.median()
    deviation = (spread - median).abs().median() / MAD_OF_NORMAL
    return int((spread > median + FAR * deviation).sum()) if deviation > 0 else 0


def squared_error(w: Tensor, other: Tensor) -> float:
    """Mean of (w - other)^2, summed in float64."""
    rows = max(1, CHUNK // w.shape[1])
    return float(sum((a - b).double().square().sum() for a, b in zip(w.split(rows), other.split(rows), strict=True))) / w.numel()


def sample_rows(w: Tensor, weights: int) -> Tensor:
    """Evenly spaced rows of `w` that hold about `weights` weights; all rows where they hold no more."""
    n = max(1, weights // w.shape[1])
    return w if n >= len(w) else w[torch.linspace(0, len(w) - 1, n).round().long()]
