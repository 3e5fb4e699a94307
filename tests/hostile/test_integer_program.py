"""Programs whose numbers were changed at random: refused in one line, or run by both interpreters to the same integers."""

import json
import random

import pytest
import torch

from kbit.errors import KbitError
from kbit.models.integer_check import check
from kbit.models.integer_model import native
from kbit.models.integer_program import Program
from kbit.models.integer_run import Interpreter
from tests.models.integer_models import converted, ids_of

VALUES = (-(2**63), -(2**31), -2, -1, 0, 1, 2, 3, 5, 8, 16, 31, 32, 48, 62, 63, 127, 128, 2**15, 2**24, 2**31, 2**61, 2**63)


def mutated(text, draw):
    """The program with one to three of its numbers, or operators, changed."""
    program = json.loads(text)
    for _ in range(draw.choice((1, 1, 2, 3))):
        step = draw.choice(program["steps"])
        what = draw.choice(("numbers", "number", "number", "op", "drop", "twice", "head"))
        lists = [name for name, value in step.items() if isinstance(value, list) and value]
        if what in ("number", "numbers") and lists:
            values = step[draw.choice(lists)]
            near = values[0] + draw.choice((-1, 1))
            values[draw.randrange(len(values))] = draw.choice((near, draw.choice(VALUES)))
        elif what == "op":
            step["op"] = draw.choice(program["steps"])["op"]
        elif what == "drop" and len(program["steps"]) > 1:
            program["steps"].remove(step)
        elif what == "twice":
            program["steps"].insert(draw.randrange(len(program["steps"])), dict(step))
        else:
            name = draw.choice(("positions", "logits_shift", "tensors"))
            program[name] = draw.choice(VALUES)
    return json.dumps(program)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3"])
def test_a_changed_program_is_refused_or_runs(kind):
    program = converted(kind, 4, 6).program
    weights = dict(zip(program.names, program.weights, strict=True))
    text, ids = program.to_json(), ids_of(batch=1, n=6)
    draw, ran = random.Random(kind), 0

    def tensor(number):
        return program.tensors[number % len(program.tensors)]

    for _ in range(150):
        try:
            changed = Program.from_json(mutated(text, draw), weights.__getitem__, tensor)
            check(changed)
        except KbitError:
            continue
        found = torch.empty(6, changed.vocabulary, dtype=torch.int32)
        try:
            expected = Interpreter(changed)(ids)[0]
        except KbitError:  # a sum that could overflow
            with pytest.raises(KbitError):
                native(changed, 6).run(ids[0], found)
            continue
        native(changed, 6).run(ids[0], found)
        assert torch.equal(found, expected)
        ran += 1
    assert ran > 5
