"""Round to nearest: a range for each block from its own weights, then every weight to its nearest value."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from kbit.formats import Encoded, Format, encode


def choose(
    w: Tensor,
    statistics: object | None,
    fmt: Format,
    *,
    seed: int = 0,
    kept_columns: Tensor | None = None,
    range_name: str | None = None,
) -> Encoded:
    """`w` (n_out, n_in) in `fmt` with the range of `range_name`: min-max when None, but MSE-optimal where k <= 2.

    statistics and seed are not needed. kept_columns: the columns that stay in 16 bits under -oN (see `encode`).
    Raises FormatError where the format keeps floats or the weight is not a finite matrix.
    """
    return encode(w, fmt, range_name=range_name, kept_columns=kept_columns)


def with_range(range_name: str) -> Callable[..., Encoded]:
    """`choose` with one range for every k."""
    return partial(choose, range_name=range_name)
