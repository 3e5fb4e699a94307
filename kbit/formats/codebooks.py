"""The codebooks: for each word of a format string, the levels that its codes can stand for.

A fixed codebook is a function of k alone (and of the split of k, for floats); a learned one looks at the weights, and its levels
are stored with the tensor, so they count as bits. Levels are float32, strictly ascending, at most 2^k; a code is an index into
them. Linear levels are whole numbers, since int formats store the step; all others reach from -1 to 1, since their scale is the
value of 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kbit.errors import FormatError
from kbit.formats.learned import kmeans_levels, quantile_levels

FLOAT_SPLITS = {2: (1, 0), 3: (2, 0), 4: (2, 1), 5: (2, 2), 6: (3, 2), 7: (3, 3), 8: (4, 3)}  # k: (exponent bits, mantissa bits)
SIGNS = torch.tensor([-1.0, 1.0])


@dataclass(frozen=True)
class Codebook:
    """One entry of CODEBOOKS: its levels, where they come from, and which k it exists for."""

    levels: Callable[..., Tensor]
    cite: str
    learned: bool = False
    ks: tuple[int, ...] = tuple(range(1, 9))
    shows_k: bool = True  # the word is followed by k: nf4, but plain ternary


def linear_levels(k: int) -> Tensor:
    """Whole numbers -(2^(k-1) - 1) .. 2^(k-1) - 1, in steps: 2^k - 1 of them, symmetric about 0; {-1, +1} at k = 1 (Jacob et al.
    2018).
    """
    if k == 1:
        return SIGNS.clone()
    top = 2 ** (k - 1) - 1
    return torch.arange(-top, top + 1, dtype=torch.float32)


def affine_levels(k: int) -> Tensor:
    """Whole numbers 0 .. 2^k - 1, in steps from the zero point or the minimum: what `-asym` and `-min` make of int."""
    return torch.arange(2**k, dtype=torch.float32)


def log_levels(k: int) -> Tensor:
    """Signed powers +-b^-i for i = 0 .. 2^(k-1) - 1, b = 2 up to k = 4, then its roots: (2^k,) ascending (Miyashita et al.
    2016).
    """
    exponents = torch.arange(2 ** (k - 1), dtype=torch.float64) / 2 ** max(0, k - 4)
    powers = (2.0**-exponents).float()
    return torch.cat([-powers, powers]).sort().values


def float_values(exponent: int, mantissa: int) -> Tensor:
    """All finite values of a sign, `exponent` bits (bias 2^(exponent-1) - 1) and `mantissa` bits, subnormals included; -0 is 0.

    Those of OCP Microscaling Formats v1.0: e2m1 reaches 6, e2m3 7.5, e3m2 28. e4m3 has no infinity and loses one code to NaN
    (448); e5m2 loses its last exponent to infinities and NaN (57344). Every other split has finite codes only. k = 1 is {-1, +1}.
    """
    if exponent == 0:
        return SIGNS.clone()
    bias = 2 ** (exponent - 1) - 1
    fields = torch.arange(2 ** (exponent + mantissa))
    if (exponent, mantissa) == (4, 3):
        fields = fields[:-1]
    elif (exponent, mantissa) == (5, 2):
        fields = fields[: -(2**mantissa)]
    power, fraction = fields >> mantissa, (fields & (2**mantissa - 1)).double() / 2**mantissa
    normal = (1 + fraction) * 2.0 ** (power - bias).double()
    values = torch.where(power == 0, fraction * 2.0 ** (1 - bias), normal)
    return torch.cat([-values[1:], values]).sort().values.float()


def float_levels(k: int, exponent: int, mantissa: int) -> Tensor:
    """`float_values` divided by the largest, so that it is 1."""
    assert k == 1 + exponent + mantissa
    values = float_values(exponent, mantissa)
    return values / values[-1]


def dynamic_levels(k: int) -> Tensor:
    """Dynamic exponent: the run of leading zero bits is a power of ten, the bits after it a fraction (Dettmers 2016).

    For the power 10^(i - (k - 2)), i = 0 .. k - 2, the centres of 2^i equal parts of [0.1, 1], with both signs; then 0 and 1.
    At k = 8 these are the 256 values of bitsandbytes' `create_dynamic_map`. -1 itself is no level: the most negative one stands
    for it.
    """
    if k == 1:
        return SIGNS.clone()
    positive = []
    for i in range(k - 1):
        ends = torch.linspace(0.1, 1, 2**i + 1, dtype=torch.float64)
        positive.append((ends[1:] + ends[:-1]) / 2 * 10.0 ** (i - (k - 2)))
    values = torch.cat(positive)
    return torch.cat([-values, torch.tensor([0.0, 1.0], dtype=torch.float64), values]).sort().values.float()


def normal_levels(k: int) -> Tensor:
    """NF-k: quantiles of the normal distribution, 2^(k-1) positive, 2^(k-1) - 1 negative and 0 (Dettmers et al. 2023, QLoRA).

    The outermost quantile is 1 - (1/(2^k - 1) + 1/2^k)/4. Rounded to seven digits, and with probabilities and quotients in
    float32, as bitsandbytes computed its table, it gives every bit of the published NF4 at k = 4.
    """
    if k == 1:
        return SIGNS.clone()
    outermost = round(1 - (1 / (2**k - 1) + 1 / 2**k) / 4, 7)
    positive = torch.special.ndtri(torch.linspace(outermost, 0.5, 2 ** (k - 1) + 1)[:-1].double())
    negative = -torch.special.ndtri(torch.linspace(outermost, 0.5, 2 ** (k - 1))[:-1].double())
    levels = torch.cat([negative, torch.zeros(1), positive]).float().sort().values
    return levels / levels[-1]


def bitsandbytes_float_levels(k: int) -> Tensor:
    """bitsandbytes' FP4, which is not e2m1: 0, 0.0625, 2, 3, 4, 6, 8 and 12 twelfths, with both signs."""
    assert k == 4
    values = torch.tensor([0.0625, 2, 3, 4, 6, 8, 12], dtype=torch.float64) / 12
    return torch.cat([-values, torch.zeros(1, dtype=torch.float64), values]).sort().values.float()


def ternary_levels(k: int) -> Tensor:
    """{-1, 0, 1} (Li and Liu 2016); k is 2, and five codes share a byte."""
    assert k == 2
    return torch.tensor([-1.0, 0.0, 1.0])


def binary_levels(k: int) -> Tensor:
    """{-1, +1} (Rastegari et al. 2016, XNOR-Net)."""
    assert k == 1
    return SIGNS.clone()


def table_levels(k: int, levels: Tensor) -> Tensor:
    """A user's levels, checked: finite, distinct, more than 2^(k-1) and at most 2^k of them, not all zero; sorted float32.

    Raises FormatError otherwise.
    """
    values = torch.as_tensor(levels, dtype=torch.float32).flatten().sort().values
    least = 1 if k == 1 else 2 ** (k - 1)
    if not least < len(values) <= 2**k:
        raise FormatError(f"table{k}: {len(values)} levels do not make a {k}-bit table. Give {least + 1} to {2**k} of them.")
    if not values.isfinite().all():
        raise FormatError(f"table{k}: a level is NaN or infinite. Give finite levels.")
    if (values.diff() <= 0).any():
        raise FormatError(f"table{k}: two levels are equal in float32. Give distinct levels.")
    return values


CODEBOOKS: dict[str, Codebook] = {
    "int": Codebook(linear_levels, cite="Jacob et al. 2018"),
    "nf": Codebook(normal_levels, cite="Dettmers et al. 2023, QLoRA"),
    "fp": Codebook(float_levels, cite="OCP Microscaling Formats v1.0, 2023"),
    "bnbfp": Codebook(bitsandbytes_float_levels, cite="bitsandbytes", ks=(4,)),
    "log": Codebook(log_levels, cite="Miyashita et al. 2016"),
    "dyn": Codebook(dynamic_levels, cite="Dettmers 2016, 8-Bit Approximations for Parallelism in Deep Learning"),
    "quantile": Codebook(
        quantile_levels, learned=True, cite="Dettmers et al. 2022, 8-bit Optimizers via Block-wise Quantization"
    ),
    "kmeans": Codebook(kmeans_levels, learned=True, cite="Lloyd 1982; Wu 1991 for the exact optimum"),
    "table": Codebook(table_levels, learned=True, cite="the user"),
    "ternary": Codebook(ternary_levels, cite="Li and Liu 2016", ks=(2,), shows_k=False),
    "binary": Codebook(binary_levels, cite="Rastegari et al. 2016, XNOR-Net", ks=(1,), shows_k=False),
}
