"""Random inputs and extremes: ends of the types, rows of zeros, of equal numbers, with one far ahead; the same on every run."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from kbit.fixedpoint.dyadic import Dyadic
from kbit.fixedpoint.fixed import Fixed, FixedType

KS = (2, 3, 4, 5, 6, 7, 8)
UNIT = 2.0**-15
Found = Iterator[tuple[Tensor, Tensor, Tensor | float]]  # result, float64 result in its units, bound

Operator = tuple[str, str, Callable[[], Found]]  # width of the result, bound as its docstring states it, what measures it

GENERATOR = torch.Generator()


def integers(low: int, high: int, *shape: int) -> Tensor:
    """Evenly from low .. high, both ends among them."""
    x = torch.randint(low, high + 1, shape, generator=GENERATOR)
    x.view(-1)[:2] = torch.tensor([low, high])[: x.numel()]
    return x


def normals(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


def rows_of(width: int, n: int) -> Tensor:
    """(8, n) integers of `width` bits and a sign: random, zeros, all equal, one far ahead, a large mean."""
    x = integers(-(2**width), 2**width - 1, 8, n)
    x[1], x[2] = 0, x[2, 0]
    x[3, 1:] //= 2 ** (width // 2)
    x[4] = x[4] // 4 + 2**width // 2
    return x


def some(kind: FixedType, *shape: int) -> Fixed:
    return Fixed(integers(kind.low, kind.high, *shape).to(torch.int8 if kind.k <= 8 else torch.int16), kind)


def in_units(real: Tensor, to: FixedType) -> Tensor:
    return (real / to.scale.value).clamp(to.low - to.zero, to.high - to.zero)


def types() -> Iterator[FixedType]:
    """Of every k, symmetric and affine, coarse and fine."""
    for k in (*KS, 16):
        for scale, zero in ((0.03, 0), (1.7, 1), (2.0**-6, -2)):
            yield FixedType(Dyadic.of(scale * 2.0 ** (8 - min(k, 12))), k, zero)
