"""What a damaged program is refused for: nothing in one can make a step read or write where it may not."""

from dataclasses import replace

import pytest
import torch

from kbit.models.integer_check import OPERATORS, check
from kbit.models.integer_program import Buffer, WrongProgramError
from kbit.models.integer_run import MAKERS
from kbit.recipes import pack
from tests.models.integer_models import KINDS, converted


def test_every_operator_can_be_run():
    assert set(OPERATORS) == set(MAKERS)
    assert {step.op for kind in KINDS for step in converted(kind).program.steps} == set(OPERATORS)


def step_of(program, op):
    """Number of the first step with this operator."""
    return next(number for number, step in enumerate(program.steps) if step.op == op)


def changed(program, op, /, **changes):
    """The program with one step changed."""
    number = step_of(program, op)
    steps = list(program.steps)
    steps[number] = replace(steps[number], **changes)
    return replace(program, steps=steps)


WRONG_STEPS = [
    ("rms_norm", {"op": "rms"}, "there is no operator 'rms'"),
    ("embed", {"matrix": (1,)}, "its scales|is not torch.int16|of another shape"),
    ("embed", {"matrix": (10**6,)}, "it names a buffer or matrix that there is not"),
    ("embed", {"matrix": (-1,)}, "it names a buffer or matrix that there is not"),
    ("embed", {"to": ()}, "it has too few or too many operands"),
    ("embed", {"multiplier": (-1,)}, "it lacks a tensor"),
    ("embed", {"shift": (10**6,)}, "it names a tensor that there is not"),
    ("rms_norm", {"numbers": (31, 40, 0, 0)}, "its width does not divide the row"),
    ("rms_norm", {"numbers": (32, 40, 2**61, 0)}, "its shift or epsilon is none"),
    ("rms_norm", {"numbers": (32, 400, 0, 0)}, "its shift or epsilon is none"),
    ("rms_norm", {"tensor": ()}, "it has too few or too many operands"),
    ("quantize", {"numbers": (9, 0, 0, 0)}, "its bits or its step are none"),
    ("quantize", {"numbers": (8, 2**15, 0, 0)}, "its bits or its step are none"),
    ("quantize", {"numbers": (8, 0, 0, 3)}, "its transform does not divide the row"),
    ("quantize", {"numbers": (8, 0, 0, 64)}, "its transform does not divide the row"),
    ("linear", {"to": (0, 0, 0)}, "of another shape|it reads a buffer"),
    ("linear", {"from_": (0,)}, "it does not read codes|names a buffer"),
    ("linear", {"bias": (0,)}, "it has too few or too many operands|it has biases for some"),
    ("hadamard", {"numbers": (3, 0)}, "its transform does not divide the row"),
    ("hadamard", {"numbers": (256, 0)}, "its transform does not divide the row"),
    ("hadamard", {"numbers": (0, 0)}, "its transform does not divide the row"),
    ("hadamard", {"numbers": (8, 32)}, "its shift is none of 0 to 31"),
    ("hadamard", {"numbers": (8,)}, "it has too few or too many operands"),
    ("rotate", {"numbers": (7, 4)}, "its heads do not divide the row"),
    ("rotate", {"numbers": (8, 10)}, "its pairs do not fit a head"),
    ("rotate", {"tensor": (0, 0)}, "is not torch.int16 of shape"),
    ("store", {"numbers": (2, 8)}, "it has no layer of the cache, or other bits"),
    ("store", {"numbers": (0, 4)}, "it has no layer of the cache, or other bits"),
    ("attend", {"numbers": (1, 1, 1, 8)}, "its layer is stored after it, or never"),
    ("attend", {"op": "store", "numbers": (0, 8), "to": (), "from_": (5, 5)}, "its layer is stored already|do not fit the cache"),
    ("attend", {"numbers": (-1, 1, 1, 8)}, "it has no layer of the cache, or other bits"),
    ("attend", {"numbers": (0, 2**15, 1, 8)}, "its scale of scores is none"),
    ("attend", {"numbers": (0, 1, 63, 8)}, "its scale of scores is none"),
    ("gate", {"table": "relu"}, "it has no table or places that there are"),
    ("gate", {"numbers": (16,)}, "it has no table or places that there are"),
    ("add", {"from_": (3,)}, "its buffers are of other kinds"),
    ("last", {"op": "add"}, "it reads a buffer that no step before it wrote|no step writes|comes once"),
]


@pytest.mark.parametrize(("op", "changes", "said"), WRONG_STEPS)
def test_a_wrong_step_is_refused(op, changes, said):
    with pytest.raises(WrongProgramError, match=said):
        check(changed(converted("llama-tied").program, op, **changes))


def test_what_is_read_was_written_before():
    program = converted("llama").program
    for op in ("rms_norm", "quantize", "linear"):
        steps = [step for number, step in enumerate(program.steps) if number != step_of(program, op)]
        with pytest.raises(WrongProgramError, match="reads a buffer that no step before it wrote"):
            check(replace(program, steps=steps))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"positions": 0}, "its positions or logits_shift are none"),
        ({"logits_shift": 40}, "its positions or logits_shift are none"),
        ({"steps": []}, "its first step does not embed tokens"),
        ({"buffers": []}, "its last buffer is not one of logits"),
        ({"buffers": [Buffer(2**30, "int32")]}, "a buffer has no kind or width that there is"),
        ({"buffers": [Buffer(8, "float"), Buffer(8, "int32")]}, "a buffer has no kind or width that there is"),
    ],
)
def test_a_wrong_program_is_refused(changes, said):
    with pytest.raises(WrongProgramError, match=said):
        check(replace(converted("llama").program, **changes))


def test_a_weight_without_whole_numbers_is_refused():
    program = converted("llama").program
    weights = [pack(torch.randn(weight.shape), "nf4-b64") for weight in program.weights]
    with pytest.raises(WrongProgramError, match="a matrix is in nf4-b64, which has no whole numbers in 8 bits"):
        check(replace(program, weights=weights))
