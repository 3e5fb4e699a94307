"""The Walsh-Hadamard transform of integers against its matrix, and codes of it against float64."""

from fractions import Fraction

import pytest
import torch

from kbit.errors import FixedPointError
from kbit.fixedpoint.hadamard import hadamard, quantize_rotated, turn
from kbit.fixedpoint.rounding import largest


def matrix(width):
    """H of 2n is [[H, H], [H, -H]]."""
    h = torch.ones(1, 1, dtype=torch.int64)
    while len(h) < width:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return h


def integers(*shape, high, seed=0):
    return torch.randint(-high, high + 1, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("n", "width"), [(1, 1), (2, 2), (48, 16), (96, 32), (64, 64), (60, 4)])
def test_it_is_the_product_with_its_matrix(n, width):
    x = integers(3, 5, n, high=2**40)
    expected = (x.view(3, 5, n // width, 1, width) * matrix(width)).sum(-1).view(3, 5, n)
    assert torch.equal(hadamard(x, width), expected)
    assert torch.equal(hadamard(hadamard(x, width), width), x * width)


@pytest.mark.parametrize("width", [0, 3, 12, 32, -4])
def test_a_width_that_does_not_fit_is_refused(width):
    with pytest.raises(FixedPointError, match=r"does not fit rows of 48\. Give a power of two that divides\."):
        hadamard(torch.zeros(2, 48, dtype=torch.int64), width)


@pytest.mark.parametrize("high", [1, 100, 2**15, 2**24, 2**31 - 1])
@pytest.mark.parametrize("k", [2, 4, 8])
@pytest.mark.parametrize("width", [2, 16, 64])
def test_codes_are_those_of_the_transformed_row(width, k, high):
    x = integers(7, 128, high=high, seed=width).to(torch.int32)
    rows = quantize_rotated(x, k, width)
    exact = (x.double().view(7, -1, 1, width) * matrix(width).double()).sum(-1).view(7, 128)
    step = rows.a.double() * 2.0 ** rows.e.double() / largest(k)
    shift = max(0, int(x.abs().max()).bit_length() + width.bit_length() - 1 - 30)  # what x lost before it was added up
    bound = 0.512 * step + (width / 2 * 2.0**shift if shift else 0)
    assert bool(((rows.q * step - exact).abs() <= bound).all())
    assert bool((rows.q.abs().amax(-1) == largest(k)).all())  # the row's largest has the end code


def test_extremes_do_not_wrap():
    """A row of the least int32: its transform is the largest that there is."""
    for width in (2, 256, 2**15):
        x = torch.full((1, width), -(2**31), dtype=torch.int32)
        rows = quantize_rotated(x, 8, width)
        assert rows.q[0, 0] == -127
        assert not rows.q[0, 1:].any()
        value = int(rows.a) * 2 ** int(rows.e)
        assert abs(value / (2**31 * width) - 1) < 2**-13


@pytest.mark.parametrize("shift", [0, 1, 7, 31])
@pytest.mark.parametrize("width", [1, 2, 16, 64])
def test_a_row_that_is_turned_is_the_product_with_its_matrix(width, shift):
    """Held to 2^30 / width first; the halves that division leaves go to the even side."""
    x = torch.cat([integers(5, 128, high=2**29 // width), integers(5, 128, high=2**31 - 1)]).to(torch.int32)
    x[0, :] = -(2**31)
    most = 2**30 // width
    sums = (x.long().clamp(-most, most).view(10, -1, 1, width) * matrix(width)).sum(-1).view(10, 128)
    expected = [[int(Fraction(int(each), 2**shift).__round__()) for each in row] for row in sums]
    assert turn(x, width, shift).tolist() == expected
    assert torch.equal(turn(turn(x[1:5] // width, width, 0), width, width.bit_length() - 1), x[1:5] // width)


@pytest.mark.parametrize("width", [2, 64])
def test_rows_of_16_bits_lose_nothing_before_they_are_added_up(width):
    """However a step is found: e of a static one stays as it was given."""
    x = integers(7, 128, high=2**15 - 1, seed=width).to(torch.int16)
    exact = (x.double().view(7, -1, 1, width) * matrix(width).double()).sum(-1).view(7, 128)
    for rows in (quantize_rotated(x, 8, width), quantize_rotated(x, 8, width, 2**14 + 5, width.bit_length())):
        step = rows.a.double() * 2.0 ** rows.e.double() / 127
        inside = exact.abs() <= 127 * step
        assert bool(((rows.q * step - exact).abs() <= 0.512 * step)[inside].all())
    assert bool((rows.e == width.bit_length()).all())
    assert bool(inside.any())


@pytest.mark.parametrize("width", [2, 16, 64])
def test_a_step_that_is_given_is_kept(width):
    x = integers(7, 128, high=2**22, seed=1).to(torch.int32)
    free = quantize_rotated(x, 8, width)
    shift = width.bit_length()  # log2(width) + 1
    a, e = 2**14 + 77, int(free.e.max()) - shift + 1
    rows = quantize_rotated(x, 8, width, a, e)
    assert bool((rows.a == a).all())
    assert bool((rows.e == e + shift).all())
    exact = (x.double().view(7, -1, 1, width) * matrix(width).double()).sum(-1).view(7, 128)
    step = a * 2.0 ** (e + shift) / 127
    inside = exact.abs() <= 127 * step
    assert bool(((rows.q * step - exact).abs() <= 0.512 * step + width / 2 * 2**shift)[inside].all())
    assert bool((rows.q.abs() == 127)[exact.abs() > 128 * step].all())
