"""A program as a file: it comes back as it was, and a damaged one is refused."""

import json

import pytest

from kbit.models.integer_program import Program, Step, WrongProgramError
from tests.models.integer_models import KINDS, converted


def again(program, text):
    """The program of `text`, with the matrices and tensors of another."""
    weights = dict(zip(program.names, program.weights, strict=True))
    return Program.from_json(text, weights.__getitem__, program.tensors.__getitem__)


@pytest.mark.parametrize("kind", KINDS)
def test_a_program_comes_back_from_its_json(kind):
    program = converted(kind).program
    back = again(program, program.to_json())
    assert back == program
    assert back.to_json() == program.to_json()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text[:100], "it is no list of steps"),
        (lambda text: "[" * 100_000, "it is no list of steps"),
        (lambda text: "[]", "it is not of version 1"),
        (lambda text: text.replace('"version": 1', '"version": 2'), "it is not of version 1"),
        (lambda text: text.replace('"positions": 128', '"positions": 128.5'), "it is no list of steps"),
        (lambda text: text.replace('"positions": 128', '"positions": true'), "it is no list of steps"),
        (lambda text: text.replace('"op": "embed"', '"op": 3'), "a step is no object with an op"),
        (lambda text: text.replace('"op": "embed"', '"of": "embed"'), "a step is no object with an op"),
        (lambda text: text.replace('"numbers": [', '"numbers": [0.5, ', 1), "'numbers' that is no list of whole numbers"),
        (lambda text: text.replace('"multiplier"', '"multiply"', 1), "'multiply' that is no list of whole numbers"),
        (lambda text: json.dumps(json.loads(text) | {"tensors": 10**9}), "it names more tensors than there can be"),
        (lambda text: json.dumps(json.loads(text) | {"tensors": -1}), "it names more tensors than there can be"),
        (lambda text: json.dumps(json.loads(text) | {"cache": {}}), "it is no list of steps"),
    ],
)
def test_a_damaged_file_is_refused(change, said):
    program = converted("llama").program
    with pytest.raises(WrongProgramError, match=said):
        again(program, change(program.to_json()))


def test_a_step_writes_what_it_says():
    step = Step("linear", (3,), (4, 5), (0, 1), (2, 3), (4, 5), (-1, -1))
    assert Step.from_json(json.loads(json.dumps(step.to_json()))) == step
