"""Types of fixed-point tensors: ranges of every kind, also those of no width; scales between; sums and concatenation."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.errors import FixedPointError
from kbit.fixedpoint.dyadic import Dyadic
from kbit.fixedpoint.fixed import Fixed, FixedType
from kbit.fixedpoint.rescale import add, concatenate, rescale

KS = range(2, 9)
TYPES = st.builds(
    lambda value, k, zero: FixedType(Dyadic.of(value), k, max(-(2 ** (k - 1)), min(zero, 2 ** (k - 1) - 1))),
    st.floats(1e-4, 1e3), st.sampled_from([*KS, 16]), st.sampled_from([0, -1, -2, -128, 1, 5]),
)  # fmt: skip


def codes(kind: FixedType, seed: int, n: int = 40) -> Fixed:
    q = torch.randint(kind.low, kind.high + 1, (n,), generator=torch.Generator().manual_seed(seed))
    q[:3] = torch.tensor([kind.low, kind.high, kind.zero])
    return Fixed(q.to(torch.int8 if kind.k <= 8 else torch.int16), kind)


def held(real: torch.Tensor, to: FixedType) -> torch.Tensor:
    """Real values in units of `to`, less its zero point, saturated."""
    return (real / to.scale.value).clamp(to.low - to.zero, to.high - to.zero)


def test_a_type_keeps_a_code_for_the_real_0_and_saturates():
    for kind in (FixedType(Dyadic(1, 4), 8), FixedType(Dyadic(1, 4), 8, -128), FixedType(Dyadic(3, 7), 2, -2)):
        assert kind.quantize(torch.zeros(2)).value.tolist() == [0.0, 0.0]
        ends = kind.quantize(torch.tensor([-1e9, 1e9])).q.tolist()
        assert ends == [kind.low, kind.high]
    assert (FixedType(Dyadic(1, 0), 4).low, FixedType(Dyadic(1, 0), 4, 1).low, FixedType(Dyadic(1, 0), 16).low) == (
        -7,
        -8,
        -32768,
    )


@pytest.mark.parametrize("k", [*KS, 16])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("size", [1e-9, 1.0, 1e4])
def test_a_fitted_type_covers_its_values(k, affine, size):
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64).abs() * size
    kind = FixedType.fit(x, k, affine=affine, range_name="min-max")
    assert float((kind.quantize(x).value - x).abs().max()) <= 0.52 * kind.scale.value
    if affine and 2 < k <= 8:
        assert kind.zero == -(2 ** (k - 1))  # a range that starts at 0 uses every code


def test_a_range_of_zero_width_and_one_that_underflows():
    assert FixedType.fit(torch.zeros(5), 8).quantize(torch.zeros(3)).q.tolist() == [0, 0, 0]
    constant = FixedType.fit(torch.full((5,), 3.0), 8)
    assert float(constant.quantize(torch.tensor([3.0])).value) == pytest.approx(3.0, rel=0.01)
    with pytest.raises(FixedPointError, match="0 or underflows"):
        FixedType.fit(torch.full((5,), 1e-30, dtype=torch.float64), 8)


@pytest.mark.parametrize(("x", "k", "says"), [
    (torch.zeros(0), 8, "none or not finite"), (torch.tensor([math.inf]), 8, "none or not finite"),
    (torch.ones(1), 9, "9 bits is not to be had"), (torch.ones(1), 1, "1 bits is not to be had"),
])  # fmt: skip
def test_what_has_no_type_is_refused(x, k, says):
    with pytest.raises(FixedPointError, match=says):
        FixedType.fit(x, k)


def test_a_zero_point_must_be_a_code():
    with pytest.raises(FixedPointError, match="zero point 8 is no code of 4 bits"):
        FixedType(Dyadic(1, 0), 4, 8)


@given(TYPES, TYPES, st.integers(0, 99))
def test_a_change_of_scale_is_within_half_a_unit(kind, to, seed):
    x = codes(kind, seed)
    real = held(x.value, to)
    assert ((rescale(x, to).centred - real).abs() <= 0.5 + real.abs() * 2.0**-30).all()


@given(TYPES, st.integers(0, 99))
def test_a_change_of_scale_is_the_documented_integer(kind, seed):
    x, to = codes(kind, seed), FixedType(Dyadic(5, 3), 8)
    by = Dyadic.of(kind.scale.fraction / Fraction(5, 8), 30)
    expected = [max(-127, min(127, round(Fraction(int(q) - kind.zero) * by.fraction))) for q in x.q]
    assert rescale(x, to).q.tolist() == expected


def test_the_same_type_is_left_alone():
    x = codes(FixedType(Dyadic(3, 7), 8), 0)
    assert rescale(x, x.type) is x


@settings(deadline=None)
@given(TYPES, TYPES, st.integers(0, 99))
def test_a_sum_of_two_scales_is_within_its_bound(first, second, seed):
    to = FixedType(Dyadic.of((first.scale.value * first.high + second.scale.value * second.high) / 32767), 16)
    x, y = codes(first, seed), codes(second, seed + 1)
    real = held(x.value + y.value, to)
    bound = 0.5 + 2.0**-8 + (x.value.abs() + y.value.abs()) / to.scale.value * 2.0**-30
    assert ((add(x, y, to).centred - real).abs() <= bound).all()


def test_a_sum_saturates():
    kind = FixedType(Dyadic(1, 0), 8)
    x = kind.quantize(torch.tensor([127.0, -127.0, 100.0]))
    assert add(x, x, kind).q.tolist() == [127, -127, 127]


def test_parts_are_laid_side_by_side_in_one_scale():
    first, second = codes(FixedType(Dyadic(1, 3), 8), 0), codes(FixedType(Dyadic(3, 5), 4, -8), 1)
    to = FixedType(Dyadic(1, 3), 8)
    whole = concatenate([first, second], to, dim=0)
    assert torch.equal(whole.q[:40], first.q)
    assert ((whole.centred[40:] - held(second.value, to)).abs() <= 0.5).all()
