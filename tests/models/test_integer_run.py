"""A program of integers against the same weights in floating point, itself cut otherwise, and the native kernels."""

import pytest
import torch

from kbit.errors import FixedPointError, ModelError
from kbit.fixedpoint import IntegerOnly
from kbit.models.integer_float import hadamard, run
from kbit.models.integer_model import native
from kbit.models.integer_run import Interpreter
from kbit.recipes.rotation import ROTATIONS
from tests.models.integer_models import KINDS, converted, distance, doubled, ids_of, rounding


def logits_of(made, ids):
    return Interpreter(made.program)(ids).double() * 2.0**-made.program.logits_shift


@pytest.mark.parametrize("rotate", ROTATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_integers_add_no_error_to_that_of_quantization(kind, rotate):
    """The noise of 8-bit activations is simulated in float64 from its definition; the integers may have a little more."""
    made, ids = converted(kind, rotate=rotate), ids_of()
    blueprint = doubled(made.in_floats())
    exact, simulated = run(blueprint, ids), run(blueprint, ids, rounding(8))
    assert distance(logits_of(made, ids), exact) < 1.25 * distance(simulated, exact) < 0.05


@pytest.mark.parametrize("kind", ["llama-ragged", "gpt2", "gpt_neox"])
def test_so_it_is_with_few_bits(kind):
    made, ids = converted(kind, 4, 4), ids_of()
    blueprint = doubled(made.in_floats())
    exact, simulated = run(blueprint, ids), run(blueprint, ids, rounding(4))
    assert distance(logits_of(made, ids), exact) < 1.25 * distance(simulated, exact)


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_in_pieces_gives_the_same_bytes(kind):
    made, ids = converted(kind, 4), ids_of()
    whole = Interpreter(made.program)(ids)
    for cuts in ([7, 1, 32], [1] * 40):
        pieces = Interpreter(made.program)
        assert torch.equal(torch.cat([pieces(part) for part in ids.split(cuts, 1)], 1), whole)


@pytest.mark.parametrize("kind", ["llama-tied", "gpt2"])
def test_what_is_embedded_of_a_tied_head_is_turned_back(kind):
    """The rows are stored under the transform; each of its sums has `width` roundings in it, in units of 2^-shift, and as many
    multipliers of 15 bits.
    """
    made, reader, ids = converted(kind), Interpreter(converted(kind).program), ids_of()
    embed, turn = made.program.steps[:2]
    assert (embed.op, turn.op) == ("embed", "hadamard")
    width, shift = turn.numbers
    buffers = {}
    for step in reader._steps[:2]:
        step(reader, ids, buffers)
    rows = made.in_floats().embedding.weight.double()[ids]
    back = rows.unflatten(-1, (-1, width)) @ hadamard(torch.eye(width, dtype=torch.float64), width) * width**-0.5
    (unit,) = made.origins[1].units
    found = buffers[embed.to[0]].double().unflatten(-1, (-1, width)) * unit
    sizes = rows.abs().unflatten(-1, (-1, width)).sum(-1, keepdim=True)
    bound = (width / 2 * 2.0**-shift + 0.5) * unit + 2.0**-15 * width**-0.5 * sizes
    assert bool(((found - back).abs() <= bound).all())
    assert float((found.flatten(-2) - rows).abs().max()) > 0.1  # turned it is another


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_batch_gives_the_same_bytes_as_each_of_it(kind):
    made, ids = converted(kind, 4), ids_of(batch=3)
    whole = Interpreter(made.program)(ids)
    assert torch.equal(torch.cat([Interpreter(made.program)(text[None]) for text in ids]), whole)


def test_the_last_row_alone_is_the_last_of_all():
    made, ids = converted("llama"), ids_of()
    assert torch.equal(Interpreter(made.program)(ids, every=False), Interpreter(made.program)(ids)[:, -1:])


def test_rewinding_forgets():
    made, ids = converted("llama"), ids_of()
    reader = Interpreter(made.program)
    first = reader(ids)
    reader.rewind(10)
    assert torch.equal(reader(ids[:, 10:]), first[:, 10:])
    reader.rewind(0)
    assert torch.equal(reader(ids), first)


@pytest.mark.parametrize("kind", KINDS)
def test_native_kernels_give_the_same_bytes(kind):
    for settings in ({"rotate": "none", "ranges": "min-max"}, {"rotate": "down"}, {"rotate": "inputs", "ranges": "mse"}):
        program = converted(kind, 4, 6, **settings).program
        ids = ids_of(batch=1)
        decoder = native(program, 40)
        logits = torch.empty(40, program.vocabulary, dtype=torch.int32)
        decoder.run(ids[0], logits)
        assert torch.equal(logits, Interpreter(program)(ids)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_no_float_is_made(kind):
    for settings in ({}, {"ranges": "mse", "rotate": "none"}, {"ranges": "min-max", "rotate": "all"}):
        program, ids = converted(kind, 4, 6, **settings).program, ids_of(n=9)
        reader = Interpreter(program)
        with IntegerOnly() as watch:
            reader(ids[:, :8])
            reader(ids[:, 8:], every=False)
        assert watch.operations > 100


def test_a_float_that_is_planted_is_caught(monkeypatch):
    made = converted("llama")
    monkeypatch.setattr("kbit.models.integer_run.add", lambda x, y: (x.float() + y.float()).int())
    reader = Interpreter(made.program)
    with pytest.raises(FixedPointError, match="float32"), IntegerOnly():
        reader(ids_of())


def test_more_tokens_than_positions_are_refused():
    with pytest.raises(ModelError, match=r"0 \+ 129 tokens do not fit the model's 128 positions\. Read fewer\."):
        Interpreter(converted("llama").program)(ids_of(n=129))
