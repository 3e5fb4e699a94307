"""Methods: how codes are chosen for a format. METHODS is the table; `choose` looks up a name in it."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

from torch import Tensor

from kbit.errors import FormatError
from kbit.formats import Encoded, Format
from kbit.methods import rtn

METHODS: dict[str, Callable[..., Encoded]] = {
    "rtn": rtn.choose,
    "rtn-mse": rtn.with_range("mse"),
    "rtn-percentile": rtn.with_range("percentile"),
    "rtn-kl": rtn.with_range("kl"),
}


def choose(
    name: str, w: Tensor, fmt: Format, *, statistics: object | None = None, seed: int = 0, kept_columns: Tensor | None = None
) -> Encoded:
    """`w` (n_out, n_in) in `fmt`, its codes chosen by the method `name`; the same arguments give the same bytes.

    kept_columns: for -oN, the columns that stay in 16 bits. Raises FormatError where there is no such method, the format keeps
    floats (cast to those), or the weight is not a finite matrix.
    """
    if name not in METHODS:
        near = get_close_matches(name, METHODS, 1, 0.0)[0]
        raise FormatError(f"'{name}' is not a method. Methods are {', '.join(METHODS)}; perhaps {near}.")
    return METHODS[name](w, statistics, fmt, seed=seed, kept_columns=kept_columns)


__all__ = ["METHODS", "choose"]
