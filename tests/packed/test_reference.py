"""The reference products: each operation against exact fractions, in the documented order; and the weight that they multiply."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kbit.formats import Encoded, Format
from kbit.formats.encoded import coded_columns
from kbit.formats.integer_levels import integer_levels
from kbit.packed import pack
from kbit.packed.reference import exact_product, fma32, integer_product, quantize_activations, segments
from tests.packed.formats import SOME, encoded, formats

VARIED = [
    "int8-row-asym",
    "int8-b16-s8",
    "int4-b40-i8",
    "int1-b40-min",
    "int4-tensor-asym",
    "int4-tensor-min",
    "int3-b200-asym-s8-o3",
    "int4-b40-min-e4m3",
    "int2-row-asym-e8m0",
    "fp4-b40-e8m0-o3",
    "fp8-b64-e8m0",
    "fp4-b16-e4m3",
    "nf4-b16-s8",
    "nf5-row-center-o3",
    "dyn8-b200",
    "binary-row-center",
    "ternary-tensor",
]


def float32(value: Fraction) -> Fraction | float:
    """A rational number rounded to float32, to nearest even; beyond the largest an infinity."""
    if value == 0:
        return value
    exponent = abs(value.numerator).bit_length() - value.denominator.bit_length()
    if abs(value) < Fraction(2) ** exponent:
        exponent -= 1
    place = Fraction(2) ** (max(exponent, -126) - 23)
    rounded = round(value / place) * place  # Python rounds halves of a Fraction to the even number
    return rounded if abs(rounded) < 2**128 else math.copysign(math.inf, rounded)


def fractions(values: Tensor) -> list:
    """Nested lists of fractions."""
    return [fractions(row) for row in values] if values.dim() else Fraction(values.item())


def activations(n: int, n_in: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, n_in, generator=generator)
    return x * 10 ** (4 * torch.rand(n, 1, generator=generator) - 2)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal, zeros by their sign too; a NaN equals a NaN."""
    nan = a.isnan() & b.isnan()
    return bool(((a.view(torch.int32) == b.view(torch.int32)) | nan).all())


# fma32


def any_bits(n: int, seed: int) -> Tensor:
    """Finite floats of every exponent, subnormal ones included, evenly."""
    bits = torch.randint(0, 2**32, (n,), generator=torch.Generator().manual_seed(seed)) - 2**31
    bits = torch.where(bits & 0x7F800000 == 0x7F800000, bits ^ 0x7F800000, bits)  # those that were no numbers become subnormal
    return bits.to(torch.int32).view(torch.float32)


def between_1_and_2(n: int, seed: int) -> Tensor:
    return (any_bits(n, seed).view(torch.int32) & 0x7FFFFF | 0x3F800000).view(torch.float32)


def assert_fma_is_exact(a: Tensor, b: Tensor, c: Tensor) -> None:
    exact = [x * y + z for x, y, z in zip(fractions(a), fractions(b), fractions(c), strict=True)]
    expected = torch.tensor([float(float32(value)) for value in exact])
    found = fma32(a, b, c)
    assert torch.equal(found, expected)
    kept_sign = torch.tensor([value != 0 for value in exact])  # fractions have one zero; the table below has both
    assert torch.equal(found.signbit()[kept_sign], torch.tensor([value < 0 for value in exact])[kept_sign])


@pytest.mark.parametrize("seed", range(3))
def test_fma_of_any_floats_is_the_exact_value_rounded_once(seed):
    assert_fma_is_exact(*(any_bits(3000, 3 * seed + i) for i in range(3)))


@pytest.mark.parametrize("scale", [100, 0, -60, -100, -126, -135, -149])
def test_fma_of_numbers_that_overlap(scale):
    """c from far above the product to far below, of either sign, down to where results are subnormal."""
    a, b, c = (between_1_and_2(3000, i) for i in range(3))
    shift = torch.randint(-60, 60, (3000,), generator=torch.Generator().manual_seed(9)) + scale
    c = torch.ldexp(c.double() * (2 * (torch.arange(3000) % 2) - 1), shift.clamp(-149, 127)).float()
    assert_fma_is_exact(torch.ldexp(a.double(), torch.tensor(scale)).float(), b, c)


@pytest.mark.parametrize("steps", range(-3, 4))
def test_fma_where_the_sum_nearly_cancels(steps):
    """c is the negative product, rounded, and its neighbours: all that is left is what a product loses to rounding."""
    a, b = between_1_and_2(1000, 1), between_1_and_2(1000, 2)
    assert_fma_is_exact(a, b, ((-a * b).view(torch.int32) + steps).view(torch.float32))


@pytest.mark.parametrize("tiny", [2.0**-149, -(2.0**-149), 2.0**-60, -(2.0**-60), 0.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_fma_of_halves_that_a_tiny_part_decides(tiny, sign):
    """An odd product of 25 bits lies halfway between two floats; float64 cannot hold it and c, and would say even."""
    b = torch.arange(2**24 // 3 + 1, 2**25 // 3, 5003)
    b = (b | 1).float() * sign
    assert_fma_is_exact(torch.full(b.shape, 3.0), b, torch.full(b.shape, tiny))


@pytest.mark.parametrize(
    ("a", "b", "c", "expected"),
    [
        (math.inf, 2.0, 1.0, math.inf),
        (math.inf, -2.0, 1.0, -math.inf),
        (2.0, 2.0, -math.inf, -math.inf),
        (math.inf, 0.0, 1.0, math.nan),
        (math.inf, 1.0, -math.inf, math.nan),
        (math.nan, 0.0, 1.0, math.nan),
        (0.0, 1.0, math.nan, math.nan),
        (3e38, 3e38, 0.0, math.inf),
        (3e38, 3e38, -math.inf, -math.inf),
        (-3e38, 2.0, 3e38, -3e38),
        (0.0, -1.0, 0.0, 0.0),
        (0.0, -1.0, -0.0, -0.0),
        (1.0, 1.0, -1.0, 0.0),
        (2.0**-149, 0.25, 0.0, 0.0),
        (-(2.0**-149), 0.25, 0.0, -0.0),
    ],
)
def test_fma_of_infinities_nan_and_zeros(a, b, c, expected):
    assert same_bits(fma32(torch.tensor(a), torch.tensor(b), torch.tensor(c)), torch.tensor(expected))


# segments and activations


@pytest.mark.parametrize("granularity", ["tensor", "row", "b1", "b16", "b40", "b128", "b200", "b300"])
@pytest.mark.parametrize("n_coded", [1, 16, 127, 128, 129, 450])
def test_segments_cut_blocks_every_128_columns(granularity, n_coded):
    fmt = Format.parse(f"int4-{granularity}")
    block = fmt.block_size(n_coded)
    starts = [column for column in range(n_coded) if column % block % 128 == 0]
    assert [s.start for s in segments(fmt, n_coded)] == starts
    assert [s.stop for s in segments(fmt, n_coded)] == [*starts[1:], n_coded]


def near_halves(n: int, n_in: int) -> Tensor:
    """Activations that lie about half a step of int8 from a whole one, so that every rounding before shows in q."""
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(n, 1, generator=generator) + 0.5
    halves = torch.randint(-127, 127, (n, n_in), generator=generator) + 0.5
    x = (halves.double() * a.double() / 127).float()
    x = (x.view(torch.int32) + torch.randint(-1, 2, x.shape, generator=generator).int()).view(torch.float32)
    return torch.where(torch.arange(n_in) % 40 == 0, a, x)


@pytest.mark.parametrize("x", [activations(20, 450), near_halves(20, 450)], ids=["random", "near halves"])
def test_activations_are_rounded_as_written(x):
    pieces = segments(Format.parse("int4-b200"), 450)
    q, scale, total = quantize_activations(x, pieces)
    for token, values in enumerate(fractions(x)):
        for i, columns in enumerate(pieces):
            part = values[columns]
            a = max(abs(value) for value in part)
            inverse = float32(127 / a)
            assert q[token, columns].tolist() == [round(float32(value * inverse)) for value in part]
            assert Fraction(scale[token, i].item()) == float32(a / 127)
            assert total[token, i] == sum(q[token, columns].tolist())
    assert all(bool((q[:, columns].abs().amax(1) == 127).all()) for columns in pieces)


def test_halves_go_to_the_even_number():
    q, scale, total = quantize_activations(torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5]]), [slice(0, 6)])
    assert q.tolist() == [[127, 0, 2, 2, 0, -2]]
    assert (scale.tolist(), total.tolist()) == ([[1.0]], [[129]])


@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
def test_a_segment_that_is_not_finite_has_a_scale_that_is_no_number(bad):
    x = torch.ones(2, 6)
    x[0, 1] = bad
    q, scale, total = quantize_activations(x, [slice(0, 4), slice(4, 6)])
    assert scale.isnan().tolist() == [[True, False], [False, False]]
    assert q.tolist() == [[0, 0, 0, 0, 127, 127], [127] * 6]
    assert total.tolist() == [[0, 254], [508, 254]]


@pytest.mark.parametrize(
    ("largest", "held"), [(0.0, False), (2.0**-149, False), (2.0**-101 * 1.99, False), (2.0**-100, True), (3.4e38, True)]
)
def test_a_segment_counts_as_zero_below_2_to_the_minus_100(largest, held):
    q, scale, _ = quantize_activations(torch.tensor([[0.0, -largest]]), [slice(0, 2)])
    assert q.tolist() == [[0, -127 if held else 0]]
    assert (scale.item() > 0) == held


# products, number by number


def add(a: Fraction, b: Fraction, c: Fraction) -> Fraction:
    return float32(a * b + c)


def numbers(e: Encoded, row: int, column: int) -> tuple[Fraction, int, Fraction | None]:
    """(scale, zero, minimum or mean) of a row and coded column."""
    block = 0 if e.fmt.granularity in ("row", "tensor") else column // e.fmt.block
    row = 0 if e.fmt.granularity == "tensor" else row
    shift = e.minimum if e.minimum is not None else e.mean
    scale, zero, shift = (None if v is None else Fraction(v[row, block].item()) for v in (e.scale, e.zero, shift))
    return scale, 0 if zero is None else int(zero), shift


def integer_dot(e: Encoded, row: int, x: list[Fraction]) -> Fraction:
    levels = integer_levels(e.fmt, e.levels)
    whole, codes = levels.values.tolist(), e.codes[row].tolist()
    acc = Fraction(0)
    for columns in segments(e.fmt, len(x)):
        scale, zero, shift = numbers(e, row, columns.start)
        a = max(abs(value) for value in x[columns])
        q = [0 if a == 0 else round(float32(value * float32(127 / a))) for value in x[columns]]
        x_scale = float32(a / 127)
        isum = sum((whole[code] - zero) * q_j for code, q_j in zip(codes[columns], q, strict=True))
        weight = float32(float32(scale * Fraction(levels.step)) * x_scale)
        acc = add(float32(Fraction(isum)), weight, acc)
        if shift is not None:
            acc = add(shift, float32(x_scale * sum(q)), acc)
    return acc


def exact_dot(e: Encoded, row: int, x: list[Fraction]) -> Fraction:
    levels, codes = fractions(e.levels), e.codes[row].tolist()
    acc = Fraction(0)
    for columns in segments(e.fmt, len(x)):
        scale, zero, shift = numbers(e, row, columns.start)
        s = x_sum = Fraction(0)
        for code, x_j in zip(codes[columns], x[columns], strict=True):
            s = add(levels[code] - zero, x_j, s)
            x_sum = float32(x_sum + x_j)
        acc = add(scale, s, acc)
        if shift is not None:
            acc = add(shift, x_sum, acc)
    return acc


Dot = Callable[[Encoded, int, list[Fraction]], Fraction]


def by_fractions(e: Encoded, x: Tensor, dot: Dot) -> Tensor:
    """The product by `dot`, kept columns added last."""
    kept = [] if e.kept_columns is None else e.kept_columns.tolist()
    y = torch.zeros(len(x), e.shape[0])
    for token, values in enumerate(fractions(x)):
        for row in range(e.shape[0]):
            acc = dot(e, row, [value for column, value in enumerate(values) if column not in kept])
            for i, column in enumerate(kept):
                acc = add(Fraction(e.kept_weight[row, i].item()), values[column], acc)
            y[token, row] = float(acc)
    return y


PRODUCTS = [pytest.param(integer_product, integer_dot, id="int8"), pytest.param(exact_product, exact_dot, id="exact")]


@pytest.mark.parametrize(("product", "dot"), PRODUCTS)
@pytest.mark.parametrize("text", SOME + VARIED)
def test_products_are_the_documented_operations_in_their_order(text, product, dot):
    e = encoded(text, (3, 150))
    x = activations(2, 150)
    x[1, 32:88] = 0  # a segment of zeros with blocks of 40, and blocks of 16
    assert torch.equal(product(e, x), by_fractions(e, x, dot))


@pytest.mark.parametrize(("product", "dot"), PRODUCTS)
@settings(max_examples=60, deadline=None)
@given(formats, st.tuples(st.integers(1, 4), st.integers(1, 140)), st.integers(1, 3), st.integers(0, 2**31))
def test_products_of_any_format_and_shape(product, dot, text, shape, n, seed):
    e = encoded(text, shape, seed)
    x = activations(n, shape[1], seed)
    assert torch.equal(product(e, x), by_fractions(e, x, dot))


# products, as a whole


def float64_weight(e: Encoded) -> tuple[Tensor, Tensor]:
    """(weight (n_out, n_in), sum of the magnitudes of its terms), not rounded."""
    n_coded = e.codes.shape[1]
    block = torch.arange(n_coded) // e.fmt.block_size(n_coded)

    def spread(values: Tensor | None) -> Tensor:
        return torch.zeros(()) if values is None else values.double()[:, block if values.shape[1] > 1 else 0 * block]

    scaled = (e.levels.double()[e.codes.long()] - spread(e.zero)) * spread(e.scale)
    shift = spread(e.minimum if e.minimum is not None else e.mean)
    w, terms = torch.empty(e.shape, dtype=torch.float64), torch.empty(e.shape, dtype=torch.float64)
    columns = torch.arange(n_coded)
    if e.kept_columns is not None:
        columns = coded_columns(e.shape[1], e.kept_columns)
        w[:, e.kept_columns.long()] = e.kept_weight.double()
    terms[:] = w.abs()
    w[:, columns], terms[:, columns] = scaled + shift, scaled.abs() + shift.abs()
    return w, terms


@pytest.mark.parametrize("text", SOME + VARIED)
def test_the_exact_product_is_that_of_the_weight_to_rounding(text):
    """Each term passes at most n_in + 2 * segments + 2 roundings, each off by 2^-24 (Higham 2002, section 3.1)."""
    e = encoded(text, (19, 450))
    x = activations(5, 450)
    w, terms = float64_weight(e)
    torch.testing.assert_close(w.float(), e.dequantize(), rtol=1e-6, atol=1e-6)
    bound = (450 + 2 * 450 + 2) * 2**-24 * (x.double().abs() @ terms.T)
    assert bool(((exact_product(e, x).double() - x.double() @ w.T).abs() <= bound).all())


@pytest.mark.parametrize("text", SOME + VARIED)
def test_the_integer_product_is_off_by_half_a_step_of_x_and_by_its_levels(text):
    e = encoded(text, (19, 450))
    x = activations(5, 450)
    w, terms = float64_weight(e)
    columns = torch.arange(450) if e.kept_columns is None else coded_columns(450, e.kept_columns)
    pieces = segments(e.fmt, len(columns))
    _, x_scale, _ = quantize_activations(x[:, columns], pieces)
    half_step = torch.zeros(5, 450, dtype=torch.float64)  # of each x; those of kept columns are not rounded
    for i, piece in enumerate(pieces):
        half_step[:, columns[piece]] = x_scale[:, i, None].double() / 2
    levels = integer_levels(e.fmt, e.levels)
    level_off = float((levels.values.double() * levels.step - e.levels.double()).abs().max())
    level_error = level_off * float(e.scale.max()) * x.double().abs().sum(1, keepdim=True)
    size = x.double().abs() + half_step
    bound = half_step @ w.abs().T + 1.01 * level_error + (4 * len(pieces) + 30) * 2**-24 * (size @ terms.T)
    assert bool(((integer_product(e, x).double() - x.double() @ w.T).abs() <= bound).all())


@pytest.mark.parametrize("product", [integer_product, exact_product])
@pytest.mark.parametrize("text", VARIED)
def test_a_row_of_a_batch_is_that_row_alone(text, product):
    e = pack(encoded(text, (19, 150))).unpack()
    x = activations(4, 150)
    assert same_bits(product(e, x), torch.cat([product(e, row[None]) for row in x]))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("column", [0, 70, 149])
@pytest.mark.parametrize("text", VARIED)
def test_what_is_not_finite_in_x_reaches_every_output_of_its_token_and_no_other(text, column, bad):
    e = encoded(text, (19, 150))
    x = activations(3, 150)
    clean_int8, clean_exact = integer_product(e, x), exact_product(e, x)
    x[1, column] = bad
    found_int8, found_exact = integer_product(e, x), exact_product(e, x)
    assert not bool(found_int8[1].isfinite().any())
    assert not bool(found_exact[1].isfinite().any())
    if e.kept_columns is None or column not in e.kept_columns:
        assert bool(found_int8[1].isnan().all())
    others = torch.tensor([0, 2])
    assert same_bits(found_int8[others], clean_int8[others])
    assert same_bits(found_exact[others], clean_exact[others])


@pytest.mark.parametrize("product", [integer_product, exact_product])
@pytest.mark.parametrize("text", VARIED)
def test_zeros_give_zeros(text, product):
    assert not bool(product(encoded(text, (19, 150)), torch.zeros(2, 150)).any())
