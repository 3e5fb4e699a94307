"""How the parameters of a form lie in one vector, for the kinds, codebooks and formats of the runs at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kbit.errors import LawError
from kbit.laws.forms import DATA, DELTA, FORMS, GAIN, REFERENCE_BITS, RHO, TAU, Form, Parameter, Points, Sketch
from kbit.laws.runs import FLOATS, UNQUANTIZED_BITS, Runs, split_format

MINIMUM_SIZES = 4  # E, A and alpha take three, and one is left out to check them
MINIMUM_TOKENS = 3  # training lengths that B, beta and E can be told apart with
UNQUANTIZED = "16 bits"


@dataclass(frozen=True)
class Layout:
    """A form together with the members of its parameters; vectors theta have shape (..., parameters)."""

    form: str
    kinds: tuple[str, ...]
    slopes: tuple[str, ...]  # codebooks measured at two k or more
    formats: tuple[str, ...]
    series: tuple[str, ...]
    k: dict[str, int]
    N0: float
    D0: float
    has_data: bool
    has_delta: bool = False  # quantized runs of several D
    has_gain: bool = False  # trained under their quantizers, beside 16 bits
    has_training: bool = False  # for several T
    T0: float = 1.0
    longest: float = 1.0  # T where none is named

    @property
    def law(self) -> Form:
        """The form's line in FORMS."""
        return FORMS[self.form]

    @property
    def parameters(self) -> dict[str, Parameter]:
        """The parameters of this law: without those of D and T that the runs cannot tell."""
        optional = ((DATA, self.has_data), (DELTA, self.has_delta), (GAIN, self.has_gain), ({**TAU, **RHO}, self.has_training))
        left_out = {name for names, here in optional if not here for name in names}
        return {name: parameter for name, parameter in self.law.parameters.items() if name not in left_out}

    def members(self, parameter: Parameter) -> tuple[str, ...]:
        """What the parameter has a value for."""
        over = {"": ("",), "kind": self.kinds, "slope": self.slopes, "format": self.formats, "series": self.series}
        return over[parameter.over]

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each element of theta: E, A, alpha, C[int-b64], ..."""
        return tuple(
            f"{name}[{member}]" if member else name
            for name, parameter in self.parameters.items()
            for member in self.members(parameter)
        )

    def values(self, theta: np.ndarray) -> dict[str, np.ndarray]:
        """Parameter -> its slice of theta, (..., members)."""
        out, start = {}, 0
        for name, parameter in self.parameters.items():
            stop = start + len(self.members(parameter))
            out[name] = theta[..., start:stop]
            start = stop
        return out

    def loss(self, theta: np.ndarray, at: Points) -> np.ndarray:
        """The law at theta (..., parameters): (..., points)."""
        return self.law.loss(self.values(theta), at)

    def jacobian(self, theta: np.ndarray, at: Points) -> np.ndarray:
        """Derivatives (points, parameters), exact to rounding by a complex step (Squire & Trapp 1998)."""
        step = 1e-30
        return (self.loss(theta + 1j * step * np.eye(len(theta)), at).imag / step).T

    def start(self, sketch: Sketch) -> np.ndarray:
        """Where a fit begins."""
        return np.array([p.start(sketch) for p in self.parameters.values() for _ in self.members(p)], dtype=float)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest theta."""
        spread = [(p.low, p.high) for p in self.parameters.values() for _ in self.members(p)]
        return np.array([low for low, _ in spread]), np.array([high for _, high in spread])

    def over(self, what: str) -> bool:
        """Whether some parameter has a value for each `what`."""
        return any(parameter.over == what for parameter in self.parameters.values())

    def points(self, N: np.ndarray, D: np.ndarray, formats: Sequence[str] | np.ndarray, T: np.ndarray | None = None) -> Points:
        """Points for models of N linear weights and D tokens at these formats, all of one length.

        T: tokens of quantization-aware training, by default the most that was measured; 0 for a model in 16 bits.
        Raises LawError for a format that this law says nothing about.
        """
        rows = np.array([self.describe(text) for text in formats], dtype=float).reshape(-1, 6).T
        tokens = np.asarray(D, dtype=float) / self.D0 if self.has_data else np.ones(rows.shape[1])
        kind, slope, format, series = rows[2:].astype(int)
        trained = np.full(rows.shape[1], self.longest) if T is None else np.where(np.asarray(T) > 0, T, self.longest)
        t = trained / self.T0 if self.has_training else np.ones(rows.shape[1])
        return Points(np.asarray(N, dtype=float) / self.N0, tokens, rows[0], rows[1], kind, slope, format, series, t)

    def describe(self, text: str) -> tuple[float, float, int, int, int, int]:
        """k, 1.0 where quantized, and the index of its kind, slope, format and series (0 where the form does not look at it)."""
        codebook, k, kind = split_format(text)
        k = self.k.get(text, k)
        if is_float(text, self.k):
            return UNQUANTIZED_BITS, 0.0, 0, 0, 0, self.find(UNQUANTIZED, "series", text)
        which, named, row = self.find(kind, "kind", text), self.find(text, "format", text), self.find(text, "series", text)
        if not self.over("slope"):
            if k is None:
                raise LawError(f"format '{text}': no run has it and it does not say its k. Measure it.")
            return k, 1.0, which, 0, named, row
        if codebook in self.slopes and k is not None:
            return k, 1.0, which, self.slopes.index(codebook), named, row
        if text in self.k:  # its C is what it costs at the one k it was measured at
            return REFERENCE_BITS, 1.0, which, 0, named, row
        raise LawError(f"format '{text}': {codebook} was measured at one k, so the law has no slope for it. Measure another k.")

    def find(self, name: str, over: str, text: str) -> int:
        """Index of name among what a parameter has values for; LawError with what the law knows where it is not there."""
        if not self.over(over):
            return 0
        members = {"kind": self.kinds, "format": self.formats, "series": self.series}[over]
        if name not in members:
            raise LawError(f"format '{text}': the {self.form} law was fitted without it. It knows {', '.join(members)}.")
        return members.index(name)


def lay_out(runs: Runs, form: str, minimum_sizes: int = MINIMUM_SIZES) -> tuple[Layout, Runs]:
    """The layout for these runs, and those of them that it is fitted to: all with D, or else the longest trained of each size.

    Raises LawError for a form that does not exist, and where the runs cannot determine its parameters, with what is missing.
    """
    if form not in FORMS:
        raise LawError(f"form '{form}' does not exist. Write one of: {', '.join(FORMS)}.")
    has_data = bool(np.isfinite(runs.D).all()) and len(np.unique(runs.D)) >= MINIMUM_TOKENS
    runs = runs if has_data else runs.take(runs.longest_trained)
    lengths = np.unique(runs.T[runs.quantized & (runs.T > 0)])
    has_training = len(lengths) > 1 and bool({*TAU, *RHO} & {*FORMS[form].parameters})
    formats = tuple(dict.fromkeys(runs.format[runs.quantized]))
    kinds = tuple(dict.fromkeys(runs.kind[runs.quantized]))
    codebooks = dict.fromkeys(runs.codebook[runs.quantized])
    layout = Layout(
        form=form,
        kinds=kinds,
        slopes=tuple(name for name in codebooks if len(np.unique(runs.k[runs.quantized & (runs.codebook == name)])) > 1),
        formats=formats,
        series=(*((UNQUANTIZED,) if (~runs.quantized).any() else ()), *formats),
        k=dict(zip(runs.format.tolist(), runs.k.tolist(), strict=True)),
        N0=float(np.exp(np.log(runs.sizes).mean())),
        D0=float(np.exp(np.log(np.unique(runs.D)).mean())) if has_data else 1.0,
        has_data=has_data,
        has_delta=has_data and len(np.unique(runs.D[runs.quantized])) > 1,
        has_gain=len(lengths) > 0 and not runs.quantized.all(),
        has_training=has_training,
        T0=float(np.exp(np.log(lengths).mean())) if has_training else 1.0,
        longest=float(lengths.max()) if has_training else 1.0,
    )
    check_runs(layout, runs, minimum_sizes)
    return layout, runs


def check_runs(layout: Layout, runs: Runs, minimum_sizes: int) -> None:
    """Refuse runs that leave a parameter undetermined, with what is missing."""
    sizes = len(runs.sizes)
    if sizes < minimum_sizes:
        raise LawError(
            f"{sizes} size{'s' * (sizes > 1)} ({', '.join(dict.fromkeys(runs.model))}) cannot determine E, A and alpha. "
            f"Measure at least {minimum_sizes} sizes of one family."
        )
    if not layout.formats:
        raise LawError("every run is in 16 bits, so nothing says what bits cost. Measure some formats, such as int4-b64.")
    if layout.over("slope") and not layout.slopes:
        raise LawError(f"the {layout.form} law needs a codebook at two k or more, such as int{{3,4}}-b64. Measure another k.")
    if layout.law.needs_baseline and runs.quantized.all():
        raise LawError(f"the {layout.form} law needs runs in 16 bits, to tell what a format costs from E. Add bf16 to the grid.")
    for name in layout.series:
        rows = runs.format == name if name != UNQUANTIZED else ~runs.quantized
        found = len(np.unique(runs.N[rows]))
        if found < layout.law.sizes_per_series:
            need = f"the {layout.form} law needs every format at {layout.law.sizes_per_series} sizes or more"
            raise LawError(f"{need}; {name} has {found}. Measure it at more.")
    if len(runs) <= len(layout.names):
        missing = len(layout.names) + 1 - len(runs)
        raise LawError(
            f"{len(runs)} runs cannot determine the {len(layout.names)} parameters of the {layout.form} law. "
            f"Measure at least {missing} more, or choose a form with fewer."
        )


def is_float(text: str, k: dict[str, int]) -> bool:
    """Whether a format keeps its weights as floats of 16 bits or more."""
    return k.get(text, 0) >= UNQUANTIZED_BITS or text in FLOATS
