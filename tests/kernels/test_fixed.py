"""Integer-only kernels from Python: what they refuse, and that nothing runs unchecked. Their integers: tests/contracts."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from kbit import kernels
from kbit.errors import KernelError
from kbit.fixedpoint.tables import curve, exp2_table
from kbit.formats import Format
from kbit.kernels import FixedDecoder
from kbit.methods import choose
from kbit.models.integer_check import check
from kbit.models.integer_program import Program
from kbit.models.integer_run import Interpreter
from kbit.packed import PackedTensor, pack
from tests.kernels.programs import Maker, ids_of, native, program
from tests.packed.formats import encoded

DRAWS = 400


def packed(text: str, n_out: int = 5, n_in: int = 40) -> PackedTensor:
    return pack(encoded(text, (n_out, n_in)))


def ones(k: int, n_out: int, n_in: int) -> PackedTensor:
    """Every code the largest, every scale of a block 255."""
    return pack(choose("rtn", torch.ones(n_out, n_in), Format.parse(f"int{k}-b64-i8")))


# ---- products
@pytest.mark.parametrize(
    ("q", "y", "says"),
    [
        (torch.zeros(2, 40), (2, 5), "q is float32 (2, 40) and must be int8 (any, 40)."),
        (torch.zeros(2, 39, dtype=torch.int8), (2, 5), "q is int8 (2, 39) and must be int8 (any, 40)."),
        (torch.zeros(2, 40, dtype=torch.int8), (3, 5), "y is int32 (3, 5) and must be int32 (2, 5)."),
        (torch.full((2, 40), -128, dtype=torch.int8), (2, 5), "q has a code of -128, not -127 to 127."),
    ],
)
def test_a_product_says_what_does_not_fit(q: torch.Tensor, y: tuple[int, int], says: str) -> None:
    with pytest.raises(KernelError) as fault:
        packed("int4-row").native.accumulate(q, torch.zeros(y, dtype=torch.int32))
    assert str(fault.value) == f"exact product with a weight of shape (5, 40): {says}"


@pytest.mark.parametrize(
    "text", ["nf4-b64", "int4-b16", "int4-b64-asym-i8", "int4-b64-s8", "int4-row-o5", "int1-row", "ternary-row"]
)
def test_products_of_other_formats_are_refused(text: str) -> None:
    for call in (lambda w: w.largest_sum(), lambda w: w.accumulate(torch.zeros(1, 40).to(torch.int8), torch.zeros(1, 5).int())):
        with pytest.raises(KernelError, match="codes are not whole numbers from -L to L under scales of a row, or 8-bit ones of"):
            call(packed(text).native)


def test_sums_that_could_wrap_are_refused_with_the_largest() -> None:
    weight, q = ones(8, 3, 600), torch.full((1, 600), 127, dtype=torch.int8)
    assert weight.native.largest_sum() == 600 * 127 * 255
    y = torch.zeros(1, 3, dtype=torch.int32)
    with pytest.raises(KernelError, match=r"sums of products can reach 19431000 \* 127, beyond 2\^31 - 1"):
        weight.native.accumulate(q, y)
    weight.native.accumulate(q.clamp(max=110), y)
    assert y.tolist() == [[600 * 127 * 255 * 110] * 3]


# ---- decoders
def test_the_cache_is_as_large_as_it_says_and_no_larger() -> None:
    made = program(0)
    decoder, cache = native(made, capacity=17), made.cache
    numbers = -(-cache.head // 4) * 4 + -(-cache.head // 16) * 16
    assert decoder.cache_bytes == cache.layers * cache.kv_heads * 32 * (numbers + 4)  # 17 positions take two tiles of 16
    logits = torch.empty(1, made.vocabulary, dtype=torch.int32)
    decoder.run(ids_of(made, 16), logits)
    assert decoder.position == 16
    with pytest.raises(KernelError, match="cannot take more tokens than its cache holds"):
        decoder.run(ids_of(made, 2), logits)
    decoder.run(ids_of(made, 1), logits)


def test_what_was_read_after_a_position_is_forgotten() -> None:
    made = program(2)
    decoder, ids = native(made), ids_of(made, 9)
    first, second = (torch.empty(9, made.vocabulary, dtype=torch.int32) for _ in range(2))
    decoder.run(ids, first)
    decoder.rewind(4)
    decoder.run(ids[4:].clone(), second[4:])
    assert torch.equal(second[4:], first[4:])
    for position in (-1, 10):
        with pytest.raises(KernelError, match="a position beyond what it has read"):
            decoder.rewind(position)


@pytest.mark.parametrize(
    ("ids", "logits", "says"),
    [
        ([], (1, None), "an empty row of tokens"),
        ([0, -1], (1, None), "a token that is not of its vocabulary"),
        ([0, 10**6], (1, None), "a token that is not of its vocabulary"),
        ([0, 0, 0], (2, None), "logits of neither one row nor a row to a token"),
        ([0], (1, 1), "and must be int32"),
    ],
)
def test_a_decoder_refuses_tokens_and_logits_that_do_not_fit(ids: list[int], logits: tuple[int, int | None], says: str) -> None:
    made = program(1)
    with pytest.raises(KernelError, match=says):
        native(made).run(torch.tensor(ids, dtype=torch.int64), torch.empty(logits[0], logits[1] or made.vocabulary).int())


def with_step(op: str, **change: Any) -> Callable[[Program], None]:
    """A change of the first step of an operator."""

    def apply(made: Program) -> None:
        at = next(i for i, step in enumerate(made.steps) if step.op == op)
        made.steps[at] = replace(made.steps[at], **change)

    return apply


def first_tensor(op: str, operand: str, value: int) -> Callable[[Program], None]:
    """A number of a tensor that the first step of an operator names."""

    def apply(made: Program) -> None:
        step = next(step for step in made.steps if step.op == op)
        number = getattr(step, operand)[0]
        made.tensors[number] = made.tensors[number].clone()
        made.tensors[number].view(-1)[-1] = value

    return apply


def drop(op: str) -> Callable[[Program], None]:
    """All steps but those of an operator."""

    def apply(made: Program) -> None:
        made.steps = [step for step in made.steps if step.op != op]

    return apply


def twice(op: str) -> Callable[[Program], None]:
    """The first step of an operator, and again."""

    def apply(made: Program) -> None:
        at = next(i for i, step in enumerate(made.steps) if step.op == op)
        made.steps.insert(at, made.steps[at])

    return apply


def with_cache(**change: int) -> Callable[[Program], None]:
    """Another size of the cache."""
    return lambda made: setattr(made, "cache", replace(made.cache, **change))


def wider(made: Program) -> None:
    made.weights[0] = packed("int4-row", *made.weights[0].shape[:1], made.weights[0].shape[1] + 1)


def looked_up(made: Program) -> None:
    made.weights[0] = packed("nf4-b64")


def turned_to_16_bits(made: Program) -> None:
    normed = next(step.to for step in made.steps if step.op == "rms_norm")
    with_step("hadamard", from_=normed)(made)


def with_a_code_too_many(made: Program) -> None:
    weight = made.weights[0]
    parts = {name: part.clone() for name, part in weight.parts().items()}
    parts[""].view(-1)[:] = 0xFF
    made.weights[0] = PackedTensor.from_parts(weight.fmt, weight.shape, parts)


HOSTILE: dict[str, tuple[Callable[[Program], None], str]] = {
    "no such buffer": (with_step("add", from_=(99,)), r"step \d+ \(add\): it names a buffer that there is not"),
    "a buffer before the first": (with_step("add", to=(-1,)), "it names a buffer that there is not"),
    "no such matrix": (with_step("linear", matrix=(99, 99, 99)), "it names no matrix"),
    "no such tensor": (with_step("rms_norm", tensor=(10**6,)), "it names a tensor that there is not"),
    "a tensor is missing": (with_step("rms_norm", tensor=(-1,)), "it lacks a tensor"),
    "a tensor of another type": (with_step("rms_norm", tensor=(1,)), r"tensor 1 is of another type or shape"),
    "too few operands": (with_step("rms_norm", numbers=(16, 0, 0)), "it has too few or too many operands"),
    "biases of a sum": (with_step("add", bias=(-1,) * 9), "it has too few or too many operands"),
    "too many products": (with_step("linear", to=(0, 0, 0, 0)), "it has none or more than three products"),
    "a norm of no width": (with_step("rms_norm", numbers=(0, 40, 0, 0)), "number 0 is 0, not 1 to 131072"),
    "an epsilon that overflows": (with_step("rms_norm", numbers=(16, 40, 2**61, 0)), "number 2 is 2305843009213693952"),
    "codes of nine bits": (with_step("quantize", numbers=(9, 0, 0, 0)), "number 0 is 9, not 2 to 8"),
    "a step of no size": (with_step("quantize", numbers=(8, -1, 0, 0)), "number 1 is -1, not 0 to 32767"),
    "an exponent that is none": (with_step("quantize", numbers=(8, 1, 32, 0)), "number 2 is 32, not 0 to 31"),
    "a transform of 3": (with_step("quantize", numbers=(8, 0, 0, 3)), "its transform is no power of two that divides the row"),
    "a turn of 3": (with_step("hadamard", numbers=(3, 0)), "its transform is no power of two that divides the row"),
    "a turn of nothing": (with_step("hadamard", numbers=(0, 0)), "number 0 is 0, not 1 to 32768"),
    "a turn too wide": (with_step("hadamard", numbers=(2**16, 0)), "number 0 is 65536, not 1 to 32768"),
    "a turn by too many places": (with_step("hadamard", numbers=(1, 32)), "number 1 is 32, not 0 to 31"),
    "a turn of 16 bits": (turned_to_16_bits, "its buffers are of other kinds"),
    "a layer beyond the cache": (with_step("store", numbers=(7, 8)), r"\(store\): number 0 is 7, not 0 to"),
    "a layer before the first": (with_step("attend", numbers=(-1, 1, 1, 8)), r"\(attend\): number 0 is -1, not 0 to"),
    "a layer that nobody stores": (drop("store"), r"\(attend\): its layer is stored after it, or never"),
    "a layer that is stored twice": (twice("store"), r"\(store\): its layer is stored already"),
    "values of other bits": (with_step("attend", numbers=(0, 1, 1, 3)), r"\(attend\): number 3 is 3, not"),
    "a shift of scores": (with_step("attend", numbers=(0, 1, 63, 8)), "number 2 is 63, not 0 to 62"),
    "heads of no width": (with_step("rotate", numbers=(0, 2)), "number 0 is 0, not 1 to 131072"),
    "a rotation beyond the head": (with_step("rotate", numbers=(2, 4)), "its heads do not divide the row, or its pairs no head"),
    "places of a curve": (with_step("gate", numbers=(16,)), "number 0 is 16, not 0 to 15"),
    "no such curve": (with_step("gate", table="relu"), "it has no curve that there is"),
    "a negative multiplier": (first_tensor("linear", "multiplier", -1), "a multiplier is negative"),
    "a shift of 63": (first_tensor("linear", "shift", 63), "a shift is none of 0 to 62"),
    "a negative shift": (first_tensor("embed", "shift", -1), "a shift is none of 0 to 62"),
    "no embedding": (drop("embed"), "its first step does not embed tokens"),
    "nothing written": (drop("linear"), "it reads a buffer that no step before it wrote"),
    "no last": (drop("last"), "it reads a buffer that no step before it wrote|it needs one step 'last'"),
    "no steps": (lambda made: made.steps.clear(), "its first step does not embed tokens"),
    "no buffers": (lambda made: made.buffers.clear(), "its last buffer is not one of logits"),
    "logits of 16 bits": (lambda made: made.buffers.append(replace(made.buffers[0], kind="int16")), "its last buffer is not one"),
    "no room": (lambda made: setattr(made, "positions", 0), "its positions are none of 1 to 131071"),
    "more positions than tables": (lambda made: setattr(made, "positions", 41), "is of another type or shape"),
    "a cache of nothing": (with_cache(head=0), "its cache has no size that there is"),
    "a head too wide": (with_cache(head=257), "its cache has no size that there is"),
    "a cache too large": (with_cache(layers=2**40), "its cache has no size that there is"),
    "a matrix that is too wide": (wider, "its matrix is of another shape"),
    "a matrix of another format": (looked_up, "a matrix has levels that are not the whole numbers from -L to L"),
    "a code without a level": (with_a_code_too_many, "its matrix has a code without a level"),
}  # fmt: skip


@cache
def base(seed: int, wild: bool = False) -> Program:
    """A random program, made once; to be copied before a change."""
    return program(seed, wild)


def copy_of(made: Program) -> Program:
    """One whose lists can be changed."""
    lists = {name: list(value) for name, value in vars(made).items() if isinstance(value, list)}
    return replace(made, **lists)


def gated() -> Program:
    """A program with RMSNorm, a transform, rotations and a gate."""
    wanted = {"hadamard", "rms_norm", "rotate", "gate"}
    return copy_of(next(base(seed) for seed in range(99) if wanted <= {step.op for step in base(seed).steps}))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_program_that_does_not_fit_itself_is_refused_before_it_runs(name: str) -> None:
    made = gated()
    native(made)
    change, says = HOSTILE[name]
    change(made)
    with pytest.raises(KernelError, match=rf"^an integer program: .*(?:{says})"):
        native(made)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ({"exp2": exp2_table()[:-1].clone()}, "its table of 2^-x is another"),
        ({"exp2": exp2_table().flip(0).contiguous()}, "its table of 2^-x is another"),
        ({"curves": {"silu": curve("silu")[1:].clone()}}, "a curve has not 2049 knots"),
        ({"curves": {"silu": curve("silu") - 1}}, "a knot of a curve is none of 0 to 32768"),
        ({"curves": {"silu": curve("silu").float()}}, "a table is float32"),
        ({"capacity": 41}, "there is room for no positions, or more than it has"),
        ({"capacity": 0}, "there is room for no positions, or more than it has"),
        ({"tensors": [torch.zeros(3)]}, "it names a tensor|a tensor has no type or shape that there is"),
    ],
)
def test_tables_and_sizes_that_are_none_are_refused(what: dict[str, Any], says: str) -> None:
    made = gated()
    given = {
        "steps": made.steps,
        "buffers": [(buffer.width, buffer.kind) for buffer in made.buffers],
        "matrices": [weight.native for weight in made.weights],
        "tensors": made.tensors,
        "curves": {"silu": curve("silu")},
        "exp2": exp2_table(),
        "cache": (made.cache.layers, made.cache.kv_heads, made.cache.head, made.cache.k),
        "positions": made.positions,
    }
    with pytest.raises(KernelError, match=says.replace("^", r"\^")):
        FixedDecoder(**{**given, **what})


def test_sums_of_a_step_that_could_overflow_are_refused_for_as_many_bits_as_it_multiplies() -> None:
    for k, fits in ((8, False), (7, True)):
        make = Maker(0)
        made, source = make.program, make.given(torch.ones(1, 600, dtype=torch.int32))
        codes, to = made.buffer(600, "rows"), made.buffer(3, "int32")
        make.step("quantize", [source], [codes], numbers=(k, 0, 0, 0))
        matrix = made.matrix("ones", ones(8, 3, 600))
        make.step("linear", [codes], [to], matrix=(matrix,), **make.scales(matrix, 2**30, 20))
        make.shown(to)
        if fits:
            native(made)
        else:
            with pytest.raises(KernelError, match=r"\(linear\): sums of its products can overflow"):
                native(made)


def test_whatever_numbers_a_program_has_it_is_refused_or_runs_as_the_interpreter_does() -> None:
    """A few numbers, out of hundreds that say which operand or how large, are changed, again and again."""
    draw, ran = random.Random(0), 0
    for _ in range(DRAWS):
        made = copy_of(base(draw.randrange(8), draw.random() < 0.5))
        for _ in range(draw.randint(1, 3)):
            at = draw.randrange(len(made.steps))
            step = made.steps[at]
            name = draw.choice([name for name, value in vars(step).items() if isinstance(value, tuple) and value])
            numbers = list(getattr(step, name))
            numbers[draw.randrange(len(numbers))] = draw.choice((-1, 0, 1, 2, 3, 8, 16, 40, 2**31 - 1, draw.randrange(12)))
            made.steps[at] = replace(step, **{name: tuple(numbers)})
        try:
            decoder = native(made)
        except KernelError:
            continue
        check(made)
        ids = ids_of(made, 6) % 5
        logits = torch.full((6, made.vocabulary), 77, dtype=torch.int32)
        decoder.run(ids, logits)
        assert torch.equal(logits, Interpreter(made)(ids[None])[0])
        ran += 1
    assert DRAWS // 20 < ran < DRAWS // 2


def test_each_instruction_set_counts_the_products_that_it_makes() -> None:
    before = kernels.isa()
    try:
        for isa in kernels.isas():
            if isa.runs:
                kernels.set_isa(isa.name)
                counts = dict(kernels._native.isa_shares())
                packed("int4-row").native.accumulate(torch.zeros(1, 40).to(torch.int8), torch.zeros(1, 5).int())
                after = dict(kernels._native.isa_shares())
                assert {name for name in after if after[name] > counts[name]} == {isa.name}
    finally:
        kernels.set_isa(before)
