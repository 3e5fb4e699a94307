"""The forms that a law may take: loss as a function of size, bits and training tokens, one line of a literal table each.

Every form is a sum of a base, E + A n^-alpha (+ B d^-beta where models of several training lengths are there), and of what
quantizing costs. n = N / N0 and d = D / D0 are relative to the middle of the measured sizes (geometric means), so that A is the
nats above E of a model of size N0, and C is what 4 bits cost such a model. Models trained under their quantizers begin R below
the base: that training is also more training, and helps a model that saw little text at any number of bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

REFERENCE_BITS = 4


@dataclass(frozen=True)
class Points:
    """Where a law is evaluated: arrays of one length."""

    n: np.ndarray  # N / N0
    d: np.ndarray  # D / D0; 1 where a law has no D
    k: np.ndarray  # bits of a code, as floats; 4 for a codebook whose cost has no slope in k
    quantized: np.ndarray  # 1.0, or 0.0 for 16 and 32 bits, which cost nothing
    kind: np.ndarray  # index of the format without its k
    slope: np.ndarray  # index of the codebook among those measured at several k
    format: np.ndarray  # index of the format among the quantized ones
    series: np.ndarray  # index of the format among all; the float formats are one, the first
    t: np.ndarray  # T / T0, tokens of quantization-aware training; 1 where a law has no T

    @property
    def unquantized(self) -> Points:
        """The same models in 16 bits."""
        return replace(self, quantized=np.zeros_like(self.quantized), series=np.zeros_like(self.series))


Values = Mapping[str, np.ndarray]  # a parameter's values (..., as many as it has members)
INFINITE = float("inf")


@dataclass(frozen=True)
class Parameter:
    """Bounds, where a fit starts given a sketch of the data, and what it has a value for each of ("": one for the law)."""

    meaning: str
    low: float
    high: float
    start: Callable[[Sketch], float]
    over: str = ""


@dataclass(frozen=True)
class Sketch:
    """What the starts are guessed from: a guess of E, the loss in 16 bits at N0, and what 4 bits cost there."""

    floor: float
    middle: float
    cost: float


@dataclass(frozen=True)
class Form:
    """A law: its function, its parameters, where it comes from, and what only it asks of the runs."""

    loss: Callable[[Values, Points], np.ndarray]
    parameters: Mapping[str, Parameter]
    formula: str
    cite: str
    needs_baseline: bool = False  # runs in 16 bits are needed to tell E from the cost
    sizes_per_series: int = 1  # sizes at which each format must have been measured


def base(p: Values, at: Points) -> np.ndarray:
    """E + A n^-alpha + B d^-beta (Hoffmann et al. 2022); without B where the law has none: (..., points)."""
    loss = p["E"] + p["A"] * at.n ** -p["alpha"]
    return loss + p["B"] * at.d ** -p["beta"] if "B" in p else loss


def trained(p: Values, at: Points) -> np.ndarray | float:
    """d^delta t^-tau: a model that saw more tokens loses more when it is quantized (Kumar et al. 2024), and less the longer it is
    trained under its quantizer.
    """
    factor = at.d ** p["delta"] if "delta" in p else 1.0
    return factor * at.t ** -p["tau"] if "tau" in p else factor


def tuned(p: Values, at: Points) -> np.ndarray:
    """The base of a model that was trained under its quantizer, R t^rho below that of the model before, or the base itself."""
    if "R" not in p:
        return base(p, at)
    return base(p, at) - at.quantized * p["R"] * (at.t ** p["rho"] if "rho" in p else 1.0)


def additive(p: Values, at: Points) -> np.ndarray:
    """base + C[kind] n^-gamma d^delta t^-tau 2^(-lambda (k - 4)): each bit less costs 2^lambda times as much."""
    bits = 2.0 ** (-p["lambda"][..., at.slope] * (at.k - REFERENCE_BITS))
    return tuned(p, at) + at.quantized * p["C"][..., at.kind] * at.n ** -p["gamma"] * trained(p, at) * bits


def saturating(p: Values, at: Points) -> np.ndarray:
    """base + S log(1 + x / S), x the cost of the additive form: as that while small against S, and slower beyond."""
    bits = 2.0 ** (-p["lambda"][..., at.slope] * (at.k - REFERENCE_BITS))
    x = p["C"][..., at.kind] * at.n ** -p["gamma"] * trained(p, at) * bits
    return tuned(p, at) + at.quantized * p["S"] * np.log(1 + x / p["S"])


def bit_power(p: Values, at: Points) -> np.ndarray:
    """base + C[kind] n^-gamma d^delta t^-tau (k / 4)^-lambda: a power of the bits instead of an exponential."""
    bits = (at.k / REFERENCE_BITS) ** -p["lambda"][..., at.slope]
    return tuned(p, at) + at.quantized * p["C"][..., at.kind] * at.n ** -p["gamma"] * trained(p, at) * bits


def effective(p: Values, at: Points) -> np.ndarray:
    """base at n_eff = n (1 - exp(-k / width[kind])): fewer bits count as fewer parameters."""
    share = 1.0 - at.quantized * np.exp(-at.k / p["width"][..., at.kind])
    return tuned(p, replace(at, n=at.n * share))


def offset(p: Values, at: Points) -> np.ndarray:
    """base + offset[format]: each format costs so many nats, at every size."""
    return base(p, at) + at.quantized * p["offset"][..., at.format]


def shrinking(p: Values, at: Points) -> np.ndarray:
    """base + offset[format] n^-gamma d^delta t^-tau: each format costs so many nats at N0, and all shrink alike with size."""
    return tuned(p, at) + at.quantized * p["offset"][..., at.format] * at.n ** -p["gamma"] * trained(p, at)


def power(p: Values, at: Points) -> np.ndarray:
    """E + A[format] n^-alpha[format] + B d^-beta: each format has a power law of its own, to the same E."""
    return base({**p, "A": p["A"][..., at.series], "alpha": p["alpha"][..., at.series]}, at)


E = Parameter("loss that no size gets below, nats per token", 0.0, INFINITE, lambda sketch: sketch.floor)
A = Parameter("nats above E at N0 in 16 bits", 0.0, INFINITE, lambda sketch: sketch.middle - sketch.floor)
ALPHA = Parameter("exponent of size", 0.01, 3.0, lambda sketch: 0.3)
GAMMA = Parameter("exponent with which the cost of a format falls with size", -1.0, 3.0, lambda sketch: 0.2)
LAMBDA = Parameter("a bit less costs 2^lambda times as much (rounding's variance: 2)", -1.0, 8.0, lambda sketch: 2.0, "slope")
POWER = Parameter("exponent with which the cost falls with k", -1.0, 20.0, lambda sketch: 4.0, "slope")
S = Parameter("cost beyond which it grows with the logarithm of the noise alone, nats", 1e-3, 100.0, lambda sketch: 1.0)
C = Parameter("cost of 4 bits at N0, nats", 0.0, INFINITE, lambda sketch: sketch.cost, "kind")
WIDTH = Parameter("bits in which the effective size comes to 63%", 0.05, 20.0, lambda sketch: 1.0, "kind")
OFFSET = Parameter("cost of the format, nats (at N0)", -INFINITE, INFINITE, lambda sketch: sketch.cost, "format")
BASE = {"E": E, "A": A, "alpha": ALPHA}
DATA = {  # added to a form where models of at least three training lengths are there
    "B": Parameter("nats above E at D0 tokens", 0.0, INFINITE, lambda sketch: 0.2 * (sketch.middle - sketch.floor)),
    "beta": Parameter("exponent of training tokens", 0.01, 3.0, lambda sketch: 0.3),
}
DELTA = {"delta": Parameter("exponent with which the cost of a format grows with training tokens", -2.0, 2.0, lambda sketch: 0.2)}
GAIN = {  # added where the runs were trained under their quantizers
    "R": Parameter("nats that such training gains at any number of bits", -INFINITE, INFINITE, lambda sketch: 0.01),
}
TAU = {  # added where they were trained for several numbers of tokens
    "tau": Parameter(
        "exponent with which the cost of a format falls with tokens of its own training", -1.0, 3.0, lambda sketch: 0.2
    ),
}
RHO = {"rho": Parameter("exponent with which R grows with tokens of that training", -1.0, 3.0, lambda sketch: 0.3)}

FORMS: dict[str, Form] = {
    "additive": Form(
        additive,
        {**BASE, "C": C, "gamma": GAMMA, "lambda": LAMBDA, **DATA, **DELTA, **GAIN, **TAU, **RHO},
        "E + A n^-alpha + B d^-beta - R t^rho + C[kind] n^-gamma d^delta t^-tau 2^(-lambda (k - 4))",
        "Hoffmann et al. 2022, and the cost of post-training quantization of Kumar et al. 2024, their e^(-k/w) as 2^(-lambda k)",
    ),
    "saturating": Form(
        saturating,
        {**BASE, "C": C, "gamma": GAMMA, "lambda": LAMBDA, "S": S, **DATA, **DELTA, **GAIN, **TAU, **RHO},
        "E + A n^-alpha + B d^-beta - R t^rho + S log(1 + C[kind] n^-gamma d^delta t^-tau 2^(-lambda (k - 4)) / S)",
        "the additive form, bent where models break: measured costs of 2 bits lie below the exponential through 3 to 6",
    ),
    "bit-power": Form(
        bit_power,
        {**BASE, "C": C, "gamma": GAMMA, "lambda": POWER, **DATA, **DELTA, **GAIN, **TAU, **RHO},
        "E + A n^-alpha + B d^-beta - R t^rho + C[kind] n^-gamma d^delta t^-tau (k / 4)^-lambda",
        "the cost of Ouyang et al. 2024 (Low-Bit Quantization Favors Undertrained LLMs)",
    ),
    "effective": Form(
        effective,
        {**BASE, "width": WIDTH, **DATA, **GAIN, **RHO},
        "E + A (n (1 - exp(-k / width[kind])))^-alpha + B d^-beta - R t^rho",
        "effective parameters of Kumar et al. 2024 (Scaling Laws for Precision), there for training in low precision",
    ),
    "offset": Form(
        offset,
        {**BASE, "offset": OFFSET, **DATA},
        "E + A n^-alpha + B d^-beta + offset[format]",
        "parallel curves, as Dettmers & Zettlemoyer 2023 see them: k shifts the curve and leaves its shape",
        needs_baseline=True,
    ),
    "shrinking": Form(
        shrinking,
        {**BASE, "offset": OFFSET, "gamma": GAMMA, **DATA, **DELTA, **GAIN, **TAU, **RHO},
        "E + A n^-alpha + B d^-beta - R t^rho + offset[format] n^-gamma d^delta t^-tau",
        "the offset form, with the size dependence of Kumar et al. 2024 and no assumption on k",
        needs_baseline=True,
    ),
    "power": Form(
        power,
        {"E": E, "A": replace(A, over="series"), "alpha": replace(ALPHA, over="series"), **DATA},
        "E + A[format] n^-alpha[format] + B d^-beta",
        "Kaplan et al. 2020, one power law for each format",
        needs_baseline=True,
        sizes_per_series=3,
    ),
}
