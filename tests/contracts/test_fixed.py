"""Integer-only kernels, on every instruction set that runs here: the integers of kbit.fixedpoint, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate as ends

import pytest
import torch
from torch import Tensor

from kbit import kernels
from kbit.fixedpoint.attention import ScoreScale, attention
from kbit.fixedpoint.linear import LinearWeight, accumulate
from kbit.fixedpoint.norms import NormWeight, rms_norm
from kbit.fixedpoint.quantize import Rows, quantize_rows
from kbit.fixedpoint.tables import CURVES
from kbit.formats import Format
from kbit.methods import choose
from kbit.models.integer_program import Cache, Program
from kbit.models.integer_run import Interpreter, integers_of
from kbit.packed import PackedTensor, pack
from tests.kernels.programs import GRANULARITIES, KS, Maker, ids_of, native, program
from tests.packed.formats import encoded

ISAS = [isa.name for isa in kernels.isas() if isa.runs]
WIDTHS = [1, 3, 15, 16, 17, 64, 100, 576]
SEEDS = 40
LONG = 16_500  # positions: more than one sum of 32 bits holds


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """The instruction set and the threads come back."""
    isa, threads = kernels.isa(), torch.get_num_threads()
    yield
    kernels.set_isa(isa)
    torch.set_num_threads(threads)


def each_isa() -> Iterator[str]:
    """Every instruction set in turn, set."""
    for name in ISAS:
        kernels.set_isa(name)
        yield name


def read(made: Program, ids: Tensor, cuts: tuple[int, ...] = ()) -> Tensor:
    """Integer logits of all tokens by the kernels, in calls that end where `cuts` say."""
    decoder, parts = native(made), []
    for start, end in zip((0, *cuts), (*cuts, len(ids)), strict=True):
        logits = torch.full((end - start, made.vocabulary), 77, dtype=torch.int32)
        decoder.run(ids[start:end].contiguous(), logits)
        parts.append(logits)
    return torch.cat(parts)


def agree(make: Maker, buffer: int) -> None:
    """The kernels show what the reference shows in a buffer, where tokens 0 are read, on every instruction set."""
    made = make.shown(buffer)
    ids = torch.zeros(made.positions, dtype=torch.int64)
    expected = Interpreter(made)(ids[None])[0]
    for isa in each_isa():
        assert torch.equal(read(made, ids), expected), (isa, made.steps[-3:])


def rows_of(width: int, seed: int) -> Tensor:
    """Rows of int32 of every size, with the ends of the range, single numbers among zeros, and zeros."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor([1, 5, 9, 13, 14, 15, 16, 20, 22, 23, 24, 28, 31])
    x = torch.randint(-(2**31), 2**31, (len(sizes), width), generator=generator) >> (31 - sizes)[:, None]
    odd = torch.zeros(7, width, dtype=torch.int64)
    odd[0], odd[1], odd[2, 0], odd[3, -1], odd[4, width // 2] = -(2**31), 2**31 - 1, -(2**31), 2**31 - 1, 1
    odd[5, ::2], odd[5, 1::2] = 2**31 - 1, -(2**31)
    return torch.cat([x, odd]).int()


# ---- products
def check_product(weight: PackedTensor, q: Tensor) -> None:
    """The sums of a packed weight with codes, in place of others."""
    n_out = weight.shape[0]
    scales = torch.zeros(n_out, dtype=torch.int16), torch.zeros(n_out, dtype=torch.int8)
    reference = LinearWeight(*integers_of(weight), *scales)
    expected = accumulate(q, reference)
    for isa in each_isa():
        y = torch.full((len(q), n_out), 77, dtype=torch.int32)
        weight.native.accumulate(q, y)
        assert torch.equal(y, expected), (isa, weight.fmt, weight.shape, len(q))
    assert weight.native.largest_sum() * 127 == reference.largest_sum


@pytest.mark.parametrize("k", KS)
def test_sums_of_products_are_exact(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    for granularity in (*GRANULARITIES, "b7-i8"):
        for i, shape in enumerate(((5, 3), (16, 64), (33, 128), (19, 290), (70, 333), (129, 96))):
            for n in (1, (2, 3, 5, 8, 13, 29)[i]):
                q = torch.randint(-127, 128, (n, shape[1]), generator=generator).to(torch.int8)
                check_product(pack(encoded(f"int{k}-{granularity}", shape, seed=i)), q)


@pytest.mark.parametrize("k", [2, 7, 8])
def test_the_largest_sums_do_not_wrap(k: int) -> None:
    """131071 columns of extremes: 127 * 127 * 131071 = 2^31 - 33439745."""
    w = torch.ones(17, 131071) * torch.tensor([1.0, -1.0]).repeat(9)[:17, None]
    weight = pack(choose("rtn", w, Format.parse(f"int{k}-row")))
    for n in (1, 3):
        q = torch.full((n, 131071), 127, dtype=torch.int8)
        q[n // 2] *= -1
        check_product(weight, q)


# ---- operators
@pytest.mark.parametrize("width", WIDTHS)
def test_codes_of_rows(width: int) -> None:
    x = rows_of(width, seed=width)
    powers = [2**p for p in range(10) if width % 2**p == 0]
    for k in KS:
        for a, e in ((0, 0), (20_000, 7), (1, 0), (32_767, 31)):
            make = Maker(k)
            source, codes = make.given(x), make.program.buffer(width, "rows")
            turn = powers[(k + a) % len(powers)]
            make.step("quantize", [source], [codes], numbers=(k, a, e, turn if turn > 1 else 0))
            agree(make, codes)
    make = Maker(0)
    source, codes = make.given16(x[:13] >> 15), make.program.buffer(width, "rows")
    make.step("quantize", [source], [codes], numbers=(8, 0, 0, 0))
    agree(make, codes)
    for low in (-(2**15), 2**15 - 1, 0):
        for a, e in ((0, 0), (20_000, 3)):
            make = Maker(0)
            source, codes = make.given16(torch.full((1, width), low)), make.program.buffer(width, "rows")
            make.step("quantize", [source], [codes], numbers=(8, a, e, powers[-1]))
            agree(make, codes)


@pytest.mark.parametrize("width", WIDTHS)
def test_transforms_of_the_residual_stream(width: int) -> None:
    x = rows_of(width, seed=width)
    for power in [2**p for p in range(10) if width % 2**p == 0]:
        for shift in (0, 1, 13, 31):
            make = Maker(0)
            source = make.given(x)
            make.step("hadamard", [source], [], numbers=(power, shift))
            agree(make, source)


@pytest.mark.parametrize("op", ["rms_norm", "layer_norm"])
@pytest.mark.parametrize("width", WIDTHS)
def test_norms(width: int, op: str) -> None:
    x = rows_of(width, seed=width)
    if op == "layer_norm":
        x = torch.cat([x, x // 2**12 + 2**30])  # numbers that differ little from their mean
    for seed in range(6):
        make = Maker(seed, wild=seed > 2)
        source, normed = make.given(x), make.program.buffer(width, "int16")
        make.norm(op, source, normed, width)
        if seed % 2:  # in place, a head at a time
            make.norm("rms_norm", normed, normed, max(d for d in (1, 2, 5, 16, 17, 32) if width % d == 0))
        agree(make, normed)


@pytest.mark.parametrize("name", CURVES)
def test_every_number_of_16_bits_through_every_curve(name: str) -> None:
    g = torch.arange(-(2**15), 2**15)[None]
    u = torch.randint(-(2**15), 2**15, g.shape, generator=torch.Generator().manual_seed(0))
    for places in range(16):
        make = Maker(0)
        gate, up, active = make.given16(g), make.given16(u), make.program.buffer(2**16, "int32")
        operands = {"numbers": (places,), "table": name}
        if places % 2:
            make.step("gate", [gate, up], [active], **operands)
        else:
            make.step("activate", [gate], [active], **operands)
        agree(make, active)


@pytest.mark.parametrize(("head", "turned"), [(2, 2), (6, 4), (32, 32), (34, 34), (64, 16), (80, 66)])
def test_rotations(head: int, turned: int) -> None:
    generator = torch.Generator().manual_seed(head)
    for low, high in ((-(2**15), 2**15), (-(2**15), -(2**15) + 1), (2**15 - 1, 2**15)):
        make = Maker(0)
        buffer = make.given16(torch.randint(low, high, (1, 3 * head), generator=generator))
        tables = [torch.randint(-(2**15), 2**15, (1, turned // 2), generator=generator).short() for _ in range(2)]
        if low + 1 == high:
            tables = [torch.full_like(table, -(2**15)) for table in tables]
        make.step("rotate", [buffer], [], tensor=tuple(make.program.tensor(t) for t in tables), numbers=(head, turned))
        agree(make, buffer)


@pytest.mark.parametrize("head", [1, 2, 3, 16, 17, 64, 130, 256])
def test_attention(head: int) -> None:
    generator = torch.Generator().manual_seed(head)
    for seed, (kv_heads, share, n) in enumerate(((1, 1, 40), (2, 3, 17), (1, 4, 90))):
        for k in (8, 2 + (head + seed) % 6):
            make = Maker(seed)
            make.program.cache = Cache(1, kv_heads, head, k)
            widths = head * kv_heads * share, head * kv_heads, head * kv_heads
            size = torch.tensor([3, 9, 14])[torch.randint(3, (n, 1), generator=generator)]
            q, keys, values = (
                make.given16(torch.randint(-(2**14), 2**14, (n, width), generator=generator) >> size) for width in widths
            )
            mixed = make.program.buffer(widths[0], "int16")
            make.step("store", [keys, values], [], numbers=(0, k))
            scale = (32_767, 20) if seed == 1 else (9_000 * (seed + 1), 40)
            make.step("attend", [q], [mixed], numbers=(0, *scale, k))
            agree(make, mixed)


@pytest.mark.parametrize("share", [1, 2, 3, 5])
def test_attention_of_one_to_nine_tokens_after_others(share: int) -> None:
    """Queries that are read together see different numbers of keys, on both sides of the end of sixteen positions."""
    generator = torch.Generator().manual_seed(share)
    for lengths in ((1, 2, 3, 4, 5, 6, 7, 8, 9), (9, 8, 7, 6, 5, 4, 3, 2, 1)):
        make, n = Maker(share), sum(lengths)
        make.program.cache = Cache(1, 2, 18, 8)
        q, keys, values = (
            make.given16(torch.randint(-(2**14), 2**14, (n, 36 * heads), generator=generator)) for heads in (share, 1, 1)
        )
        mixed = make.program.buffer(36 * share, "int16")
        make.step("store", [keys, values], [], numbers=(0, 8))
        make.step("attend", [q], [mixed], numbers=(0, 20_000, 40, 8))
        made, ids = make.shown(mixed), torch.zeros(n, dtype=torch.int64)
        expected = Interpreter(made)(ids[None])[0]
        for isa in each_isa():
            for threads in (1, 2):
                torch.set_num_threads(threads)
                assert torch.equal(read(made, ids, tuple(ends(lengths))[:-1]), expected), (isa, lengths, threads)


def test_weights_of_positions_whose_digits_are_the_lowest() -> None:
    """Scores all alike make every p 2^30 and a weight a_v * 2^15: an odd a_v has a digit of -128. All codes are +-127."""
    make, n, head = Maker(0), 70, 16
    made = make.program
    made.cache = Cache(1, 1, head, 8)
    size = torch.randint(2**14, 2**15, (n, 1), generator=torch.Generator().manual_seed(0)) | 1
    signs = made.matrix(
        "signs", pack(choose("rtn", torch.tensor([[1.0], [-1.0]]).repeat(head // 2, 1), Format.parse("int8-row")))
    )
    rows, values, nothing, mixed = made.buffer(1, "rows"), *(made.buffer(head, "int16") for _ in range(3))
    make.step("quantize", [make.given(size)], [rows], numbers=(8, 0, 0, 0))
    factors = [made.tensor(torch.full((head,), m, dtype=torch.int16)) for m in (round(2**28 / 127**2), 0)]
    shifts = [made.tensor(torch.full((head,), 28, dtype=torch.int8))] * 2
    make.step("linear", [rows], [values, nothing], matrix=(signs, signs), multiplier=tuple(factors), shift=tuple(shifts))
    make.step("store", [nothing, values], [], numbers=(0, 8))
    make.step("attend", [nothing], [mixed], numbers=(0, 9_000, 40, 8))
    agree(make, mixed)


def test_attention_over_more_positions_than_one_sum_holds() -> None:
    x = torch.randint(-(2**12), 2**12, (LONG, 4), generator=torch.Generator().manual_seed(0))
    make = Maker(0)
    make.program.cache = Cache(1, 1, 4, 8)
    buffer = make.given16(x)
    mixed, scale = make.program.buffer(4, "int16"), ScoreScale.of(0.5, 2.0**-14, 2.0**-14)
    make.step("store", [buffer, buffer], [], numbers=(0, 8))
    make.step("attend", [buffer], [mixed], numbers=(0, scale.multiplier, scale.shift, 8))
    made = make.shown(mixed)
    gamma, norm = next((made.tensors[step.tensor[0]], step.numbers) for step in made.steps if step.op == "rms_norm")
    rows = quantize_rows(rms_norm(x.int() << 8, NormWeight(gamma, *norm[1:]))[None, :, None], 8)
    last = attention(Rows(*(part[:, -1:] for part in rows)), rows, rows, scale, torch.ones(1, LONG, dtype=torch.bool))
    make = Maker(0)
    expected = Interpreter(make.shown(make.given16(last[0, 0])))(torch.zeros(1, 1, dtype=torch.int64))[0]
    for isa in each_isa():
        if isa != "scalar":  # the same lines, but a minute of them
            logits = torch.empty(1, 4, dtype=torch.int32)
            native(made).run(torch.zeros(LONG, dtype=torch.int64), logits)
            assert torch.equal(logits, expected), isa


def test_sums_onto_the_residual_stream_saturate() -> None:
    x = rows_of(37, seed=1)
    for y in (x.flip(0), x, rows_of(37, seed=2)):
        make = Maker(0)
        left, right = make.given(x), make.given(y)
        make.step("add", [right], [left])
        agree(make, left)


@pytest.mark.parametrize("kind", ["int16", "int32"])
def test_rescaled_products_with_multipliers_and_shifts_of_every_size(kind: str) -> None:
    x = rows_of(33, seed=3)
    for seed in range(8):
        make = Maker(seed, wild=True)
        source, codes, y = make.given(x), make.program.buffer(33, "rows"), make.program.buffer(70, kind)
        make.step("quantize", [source], [codes], numbers=(8, 0, 0, 0))
        make.linear(codes, y, biased=seed % 2 == 0)
        agree(make, y)


def test_rows_of_the_embedding() -> None:
    for seed, k in enumerate(KS):
        for granularity in GRANULARITIES:
            make = Maker(seed, wild=seed % 2 == 0)
            made = make.program
            made.positions, made.cache = 50, Cache(1, 1, 1, 8)
            matrix, to = make.matrix(50, 75, f"int{k}-{granularity}"), made.buffer(75, "int32")
            make.step("embed", [], [to], matrix=(matrix,), **make.scales(matrix, 2 ** (k + 7), 20))
            make.shown(to)
            ids = ids_of(made, 50) % 50
            expected = Interpreter(made)(ids[None])[0]
            for isa in each_isa():
                assert torch.equal(read(made, ids), expected), isa


# ---- whole programs
@pytest.mark.parametrize("wild", [False, True])
def test_programs_give_the_logits_of_the_interpreter_in_any_cut_on_any_number_of_threads(wild: bool) -> None:
    for seed in range(SEEDS):
        made = program(seed, wild)
        ids = ids_of(made, 24, seed)
        expected = Interpreter(made)(ids[None])[0]
        for isa in each_isa():
            for threads, cuts in ((1, ()), (2, ()), (2, (1, 2, 9, 10)), (3, tuple(range(1, 24)))):
                torch.set_num_threads(threads)
                assert torch.equal(read(made, ids, cuts), expected), (isa, seed, threads, cuts)
            last = torch.empty(1, made.vocabulary, dtype=torch.int32)
            native(made, capacity=24).run(ids, last)
            assert torch.equal(last, expected[-1:]), (isa, seed)


def test_a_text_longer_than_what_goes_through_the_steps_at_once() -> None:
    make = Maker(0)
    x = torch.randint(-(2**14), 2**14, (600, 16), generator=torch.Generator().manual_seed(0))
    make.program.cache = Cache(1, 2, 8, 8)
    buffer, mixed = make.given16(x), make.program.buffer(16, "int16")
    make.step("store", [buffer, buffer], [], numbers=(0, 8))
    make.step("attend", [buffer], [mixed], numbers=(0, 20_000, 41, 8))
    agree(make, mixed)
