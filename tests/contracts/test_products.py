"""Every instruction set that runs here, every codebook, option, shape, batch and number of threads, against the definition."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit import kernels
from kbit.packed import pack
from kbit.packed.reference import exact_product, integer_product
from tests.kernels.make_vectors import activations, bound
from tests.kernels.matrices import matrix_fields
from tests.packed.formats import ALL, HEADS, encoded

ISAS = [isa.name for isa in kernels.isas() if isa.runs]
SLOW_SHAPES = 20_000
BLOCKS = ["b7", "b16", "b24", "b32", "b40", "b64", "b100", "b128", "b200", "row", "tensor"]


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set in turn; the one before comes back."""
    before = kernels.isa()
    kernels.set_isa(request.param)
    yield request.param
    kernels.set_isa(before)


def check(text: str, shape: tuple[int, int], n: int, seed: int) -> None:
    """Both products and the weight itself; the native ones in place of NaN, so that what is not written shows."""
    weight = encoded(text, shape, seed)
    packed = pack(weight)
    weight = packed.unpack()
    matrix = kernels.Matrix(**matrix_fields(packed))
    x = activations(n, shape[1], seed)
    case = f"{text} {shape} x {n}, seed {seed}"
    y = torch.full((n, shape[0]), torch.nan)
    matrix.product(x, y, "int8")
    assert torch.equal(y.nan_to_num(7.0), integer_product(weight, x).nan_to_num(7.0)), case
    y.fill_(torch.nan)
    matrix.product(x, y, "exact")
    expected = exact_product(weight, x)
    assert torch.equal(y.isfinite(), expected.isfinite()), case
    off = (y - expected).abs()
    assert bool((off <= bound(packed, x))[expected.isfinite()].all()), f"{case}: {off.nan_to_num().max()}"
    w = torch.full(shape, torch.nan)
    matrix.dequantize(w)
    assert torch.equal(w, weight.dequantize()), case


@pytest.mark.parametrize("head", HEADS)
def test_every_codebook(isa: str, head: str) -> None:
    for i, (granularity, n) in enumerate((("b64", 1), ("b64", 14), ("b40", 3), ("b16", 1), ("row", 5), ("row", 1))):
        check(f"{head}-{granularity}", ((5, 3), (33, 128), (19, 290), (70, 64), (17, 333), (129, 96))[i], n, seed=i)


def test_every_option(isa: str) -> None:
    for i, text in enumerate(random.Random(isa).sample(ALL, 120)):
        check(text, (1 + 7 * i % 37, 1 + 31 * i % 211), 1 + i % 6, seed=i)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(ISAS),
    st.sampled_from(ALL),
    st.tuples(st.integers(1, 80), st.integers(1, 300)),
    st.integers(1, 15),
    st.integers(1, 3),
    st.integers(0, 2**20),
)
def test_any_shape_batch_and_number_of_threads(
    name: str, text: str, shape: tuple[int, int], n: int, threads: int, seed: int
) -> None:
    before, threads_before = kernels.isa(), torch.get_num_threads()
    kernels.set_isa(name)
    torch.set_num_threads(threads)
    try:
        check(text, shape, n, seed)
    finally:
        kernels.set_isa(before)
        torch.set_num_threads(threads_before)


@pytest.mark.parametrize("compute", ["int8", "exact"])
@pytest.mark.parametrize(
    "text", ["int4-b64", "int2-b32-asym", "nf3-b64", "nf6-b40", "int8-row", "ternary-b64", "int5-b64-min-o2"]
)
def test_a_row_is_the_same_bits_in_any_batch_on_any_number_of_threads(isa: str, text: str, compute: str) -> None:
    packed = pack(encoded(text, (83, 224), seed=3))
    matrix = kernels.Matrix(**matrix_fields(packed))
    x = torch.randn(140, 224, generator=torch.Generator().manual_seed(4))
    alone = torch.empty(140, 83)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        for i in range(len(x)):
            matrix.product(x[i : i + 1], alone[i : i + 1], compute)
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            for n in (2, 9, 13, 140):
                y = torch.empty(n, 83)
                matrix.product(x[:n].contiguous(), y, compute)
                assert torch.equal(y, alone[:n]), (threads, n)
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
def test_twenty_thousand_shapes() -> None:
    draw = random.Random(20)
    before = kernels.isa()
    try:
        for i in range(SLOW_SHAPES):
            kernels.set_isa(ISAS[i % len(ISAS)])
            text = draw.choice(ALL) if i % 3 else f"{draw.choice(HEADS)}-{draw.choice(BLOCKS)}"
            largest = 40 if i % 10 else 200
            check(text, (draw.randint(1, largest), draw.randint(1, 4 * largest)), draw.choice((1, 1, 2, 3, 5, 13)), seed=i)
    finally:
        kernels.set_isa(before)
