"""Integer levels: the levels of a format as whole numbers times a step, for products that add in integers.

The rule is part of the format, as its levels are: every machine must come to the same numbers. So it uses nothing but float64
additions, products, quotients, roots and roundings, which IEEE 754 fixes to the last bit, in a fixed order: no exp, no erf, no
matrix product.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import torch
from torch import Tensor

from kbit.formats.encoded import reach
from kbit.formats.format import Format

LIMITS = {8: 127, 16: 127 * 257}  # bits: largest whole number; 127 * 257 = 127 * 256 + 127: two signed bytes hold it
MOST_ADDED = 0.01  # of the mean squared error of the format on Gaussian weights: what 8 bits may add
EXACT = 2.0**-22  # levels this part of themselves off a whole multiple are that multiple: levels and steps are rounded to float32
CANDIDATES = np.arange(508) / 8  # the largest level is that much below the limit: 63.625 .. 127 steps with 8 bits
LARGEST_BLOCK = 1024  # longer blocks (row, tensor) count as this long: their length is not known, and the tail is thin
SMALLEST_BLOCK = 16  # shorter blocks count as this long: too many of their weights lie on the ends
GAUSSIAN_POINTS = 4096  # on either side of 0, up to 6.7 standard deviations
HALVINGS = 19  # the Gaussian has fallen to 2^-(i^2 / 2^19) at point i: 615 points a standard deviation
ROOT_HALF = math.sqrt(0.5)


@dataclass(frozen=True)
class IntegerLevels:
    """level ~ values[code] * step. values: int32 (n_levels,), never descending. step: a float32 above 0. bits: 8 or 16.

    8 bits hold -127 .. 127, 16 bits -32639 .. 32639.
    """

    values: Tensor
    step: float
    bits: int


def integer_levels(fmt: Format, levels: Tensor) -> IntegerLevels:
    """The integer levels of `levels`, float32 (n_levels,) ascending: those of `fmt`, or those that a tensor in `fmt` has stored.

    int formats: the levels, with step 1. Where all levels are whole multiples of a step: those of the largest such step. Else
    the largest magnitude is n steps, n in eighths and at most 127 (32639), and every level the nearest whole number of them; that
    n wins which moves the levels least, by the sum of p * (level - value * step)^2, p the share of Gaussian weights that take
    the level; ties go to the larger n. 8 bits where the mean squared error on those weights grows by less than 1%, else 16.
    """
    if fmt.is_linear:
        return IntegerLevels(levels.int(), 1.0, 8 if float(levels.abs().max()) <= LIMITS[8] else 16)
    block = min(max(fmt.block or LARGEST_BLOCK, SMALLEST_BLOCK), LARGEST_BLOCK)
    values, step, bits = choose(levels.numpy().astype("<f4").tobytes(), block_end(fmt, levels), block)
    return IntegerLevels(torch.tensor(values, dtype=torch.int32), step, bits)


def block_end(fmt: Format, levels: Tensor) -> float:
    """Where the largest weight of a block lies among the levels: at the largest that its scale reaches to.

    With powers of two as scales it lies anywhere within an octave below that, so in the middle (the geometric mean); for OCP's
    elements the octave is that of the largest level, 362 for e4m3.
    """
    end = float(reach(fmt, levels))
    if fmt.scales != "e8m0":
        return end
    return ROOT_HALF * (math.ldexp(1.0, math.frexp(end)[1]) if fmt.codebook == "fp" else end)


@lru_cache(maxsize=1024)
def choose(level_bytes: bytes, end: float, block: int) -> tuple[tuple[int, ...], float, int]:
    """(values, step, bits) of levels, given as the bytes of float32, in a format whose blocks end at +-`end`."""
    levels = np.frombuffer(level_bytes, "<f4").astype(np.float64)
    largest = float(np.abs(levels).max())
    if largest == 0:
        return (0,) * len(levels), 1.0, 8
    ratios = levels / largest
    bits, n = 8, whole_multiples(ratios)
    if n is None or n > LIMITS[8]:
        weights = GaussianWeights.of(ratios, end / largest, block)
        n_8 = nearest_steps(ratios, weights.share, LIMITS[8])
        if weights.growth(np.rint(ratios * n_8) / n_8) < MOST_ADDED:
            n = n_8
        else:
            bits, n = 16, n or nearest_steps(ratios, weights.share, LIMITS[16])
    values = np.rint(ratios * n).astype(np.int64)
    return tuple(values.tolist()), float(np.float32(largest / n)), bits


def whole_multiples(ratios: np.ndarray) -> float | None:
    """The least n up to 32639 that makes all ratios whole, but for the rounding of float32; None if there is none."""
    n = np.arange(1, LIMITS[16] + 1, dtype=np.float64)
    for ratio in np.unique(np.abs(ratios)):
        multiple = ratio * n
        n = n[np.abs(multiple - np.rint(multiple)) <= EXACT * multiple]
        if not len(n):
            return None
    return float(n[0])


def nearest_steps(ratios: np.ndarray, share: np.ndarray, limit: int) -> float:
    """The n of CANDIDATES below `limit` for which whole n-ths come nearest to the ratios, in squares weighted by `share`."""
    n = limit - CANDIDATES
    moved = np.zeros(len(n))
    for ratio, p in zip(ratios, share, strict=True):
        off = np.rint(ratio * n) / n - ratio
        moved += p * off * off
    return float(n[np.argmin(moved)])


@dataclass(frozen=True)
class GaussianWeights:
    """Gaussian weights over the scale of their block, at even points x, and the level that each takes.

    mass: share of the weights at each point. code: index of its nearest level. levels, and share of the weights that take each.
    """

    x: np.ndarray
    mass: np.ndarray
    code: np.ndarray
    levels: np.ndarray
    share: np.ndarray

    @staticmethod
    def of(levels: np.ndarray, end: float, block: int) -> GaussianWeights:
        """Those of blocks whose largest weight lies at +-`end`."""
        mass, cut = gaussian(block)
        x = np.arange(-cut, cut + 1) * (end / cut)
        code = np.searchsorted((levels[1:] + levels[:-1]) / 2, x)
        return GaussianWeights(x, mass, code, levels, np.bincount(code, mass, len(levels)))

    def growth(self, rounded: np.ndarray) -> float:
        """By what part the mean squared error grows when the codes stay and `rounded` takes the place of the levels."""
        return self.error(rounded) / self.error(self.levels) - 1

    def error(self, levels: np.ndarray) -> float:
        """Mean squared error; added one after another, since the order of np.sum is nowhere promised."""
        off = self.x - levels[self.code]
        return float(np.cumsum(self.mass * off * off)[-1])


@cache
def gaussian(block: int) -> tuple[np.ndarray, int]:
    """(mass of the points -cut .. cut, cut) of a Gaussian whose tails lie on the ends: half a weight of a block of `block`.

    That puts the ends at 2.66 standard deviations for 64 weights, where the largest is 2.6 +- 0.4. The density is made of
    products alone: root^(i^2) at point i, by the ratios root^(2i + 1) of its neighbours, root = 2^-(2^-HALVINGS).
    """
    root = 0.5
    for _ in range(HALVINGS):
        root = math.sqrt(root)
    ratios = np.cumprod(np.concatenate([[root], np.full(GAUSSIAN_POINTS - 1, root * root)]))
    density = np.cumprod(np.concatenate([[1.0], ratios]))
    beyond = np.cumsum(density[::-1])[::-1]  # from point i on
    whole = 2 * beyond[1] + density[0]
    cut = int(np.flatnonzero(2 * beyond <= whole / (2 * block))[0])
    side = np.concatenate([density[1:cut], beyond[cut : cut + 1]])
    return np.concatenate([side[::-1], density[:1], side]) / whole, cut
