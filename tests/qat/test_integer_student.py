"""A model of integers in training: its logits are those of the program that it becomes, and its gradients those of the floats."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch.nn import functional

from kbit.errors import FormatError
from kbit.models.integer_check import OPERATORS
from kbit.models.integer_float import run
from kbit.models.integer_model import native
from kbit.models.integer_run import Interpreter
from kbit.qat import integer_student, prepare_qat
from kbit.recipes import FixedPoint, convert, fixed_point_recipe
from tests.models.integer_models import KINDS, TEXT, converted, doubled, ids_of, tiny_of
from tests.tiny_models import tiny_tokenizer

SETTINGS = [
    (2, 4, {}),
    (3, 8, {"rotate": "none", "ranges": "min-max"}),
    (4, 8, {"rotate": "all"}),
    (8, 4, {"ranges": "mse", "smooth": 0.5}),
    (4, 4, {"rotate": "inputs", "ranges": "percentile"}),
]


def student_of(kind, weights=8, activations=8, method="rtn-mse", **settings):
    settings = {"smooth": 0.0, **settings}
    recipe = fixed_point_recipe(weights, FixedPoint(activations, **settings), method=method)
    return integer_student(converted(kind, weights, activations, **settings), recipe)[0]


def loss_of(logits, ids):
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def train(student, ids, steps=3, rate=3e-3):
    optimizer = torch.optim.AdamW(student.parameters(), lr=rate)
    losses = []
    for _ in range(steps):
        loss = loss_of(student(input_ids=ids).logits, ids)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_every_operator_of_a_program_is_taught():
    assert {taught.step.op for kind in KINDS for taught in student_of(kind).steps} == set(OPERATORS)


@pytest.mark.parametrize(("weights", "activations", "settings"), SETTINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_program(kind, weights, activations, settings):
    """In training mode with gradients, in evaluation without, by the reference interpreter, and by the native kernels."""
    student, ids = student_of(kind, weights, activations, **settings), ids_of(batch=2, n=30)
    before = student(input_ids=ids).logits
    train(student, ids)
    logits = student.train()(input_ids=ids, use_cache=False).logits
    assert not torch.equal(logits, before)
    with torch.no_grad():
        assert torch.equal(student.eval()(input_ids=ids).logits, logits)
    program = student.program()
    integers = Interpreter(program)(ids)
    assert int(integers.abs().max()) < 2**24
    assert torch.equal(integers.float() * 2.0**-program.logits_shift, logits)
    kernels = torch.empty(30, program.vocabulary, dtype=torch.int32)
    native(program, 30).run(ids[1], kernels)
    assert torch.equal(kernels, integers[1])


@pytest.mark.parametrize("kind", ["llama-tied", "gpt2", "gpt_neox", "qwen3"])
def test_gradients_are_the_slopes_of_the_floats(kind):
    """With 8 bits everywhere. The slope along a direction, by finite differences of the same weights run in float64."""
    student, ids = student_of(kind, ranges="min-max"), ids_of()
    loss_of(student(input_ids=ids).logits, ids).backward()
    blueprint = doubled(student_in_floats(student, kind))
    generator = torch.Generator().manual_seed(0)
    matrices = student.matrices()
    for linear in (*blueprint.linears(), blueprint.embedding):
        gradient = matrices[linear.name].latent.grad
        direction = gradient.double() / gradient.norm() + torch.randn(gradient.shape, generator=generator).double() * 0.01
        expected = slope(blueprint, linear, direction, ids)
        assert float((gradient * direction).sum()) == pytest.approx(expected, rel=0.05), linear.name
    for norm in [blueprint.norm, *(layer.mlp_norm for layer in blueprint.layers)]:
        parts = [module for module in student.modules() if getattr(module, "name", None) == norm.name]
        gradient = parts[0].weight.grad
        assert float(gradient.norm()) == pytest.approx(slope(blueprint, norm, gradient / gradient.norm(), ids), rel=0.05), (
            norm.name
        )


def student_in_floats(student, kind):
    """The blueprint with the values that the student's codes stand for; a tied head stays tied."""
    made = converted(kind, ranges="min-max")
    weights = student.program()
    values = {name: weight.dequantize() for name, weight in zip(weights.names, weights.weights, strict=True)}
    blueprint = made.in_floats()
    for linear in (*blueprint.linears(), blueprint.embedding, blueprint.head):
        linear.weight = values[linear.name]
    return blueprint


def slope(blueprint, part, direction, ids, size=1e-4):
    """(loss(w + size d) - loss(w - size d)) / (2 size) in float64."""
    floats = inspect.unwrap(run)
    kept, tied = part.weight, blueprint.head.name == blueprint.embedding.name
    losses = []
    with torch.no_grad():
        for sign in (1, -1):
            part.weight = kept + sign * size * direction
            head = blueprint.head.weight
            if tied and part is blueprint.embedding:
                blueprint.head.weight = part.weight
            losses.append(loss_of(floats(blueprint, ids), ids).item())
            part.weight, blueprint.head.weight = kept, head
    return (losses[0] - losses[1]) / (2 * size)


@pytest.mark.parametrize("kind", ["llama-ragged", "gpt2", "qwen3"])
def test_every_parameter_learns(kind):
    student, ids = student_of(kind, 4), ids_of()
    loss_of(student(input_ids=ids).logits, ids).backward()
    for name, parameter in student.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert bool(parameter.grad.any()), name


@pytest.mark.parametrize(("kind", "activations"), [("llama", 8), ("gpt2", 4)])
def test_training_lowers_the_loss(kind, activations):
    ids = tiny_tokenizer()(TEXT, return_tensors="pt")["input_ids"][:, :128].view(4, 32)
    losses = train(student_of(kind, 2, activations), ids, steps=25, rate=1e-2)
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("kind", ["llama-tied", "gpt2"])
def test_a_tied_head_is_one_matrix_that_learns_from_both_ends(kind):
    student, ids = student_of(kind), ids_of()
    program = student.program()
    (embed,), (last,) = program.steps[0].matrix, program.steps[-1].matrix
    assert embed == last
    loss_of(student(input_ids=ids).logits, ids).backward()
    gradient = student.matrices()[program.names[embed]].latent.grad
    never = next(token for token in range(len(gradient)) if token not in ids)  # embedded nowhere, but a logit everywhere
    assert bool(gradient[never].any())


def test_no_block_is_lost_and_no_scale_outgrows_its_multiplier():
    student, ids = student_of("llama", 4), ids_of()
    for matrix in student.matrices().values():
        with torch.no_grad():
            matrix.quantizer.scale[0, :1] = 1e-30
            matrix.quantizer.scale[1] = 1e4
    logits = student(input_ids=ids).logits
    loss_of(logits, ids).backward()
    assert all(parameter.grad.isfinite().all() for parameter in student.parameters())
    program = student.program()
    assert all(bool((weight.parts()["_scale"].view(torch.uint8) > 0).any()) for weight in program.weights)
    assert torch.equal(Interpreter(program)(ids).float() * 2.0**-program.logits_shift, logits)


def test_blocks_whose_sums_could_grow_too_large_have_one_scale_a_row():
    """8-bit codes times 8-bit scales of blocks times 8-bit activations: 522 columns reach 2^31 - 1."""
    recipe = fixed_point_recipe(8, FixedPoint(8, smooth=0.0))
    made = convert(tiny_of("llama", intermediate_size=576), recipe, TEXT, tokenizer=tiny_tokenizer())
    student, fallbacks = integer_student(made, recipe)
    formats = {name: str(matrix.fmt) for name, matrix in student.matrices().items()}
    assert {name for name, fmt in formats.items() if fmt == "int8-row" and "layers" in name} == {
        f"model.layers.{layer}.mlp.down_proj" for layer in (0, 1)
    }
    assert len(fallbacks) == 2
    assert "model.layers.0.mlp.down_proj in int8-row" in fallbacks[0]
    program, ids = student.program(), ids_of()
    assert torch.equal(Interpreter(program)(ids).float() * 2.0**-program.logits_shift, student(input_ids=ids).logits)
    stored = sum(8 * weight.nbytes for name, weight in zip(program.names, program.weights, strict=True) if "layers" in name)
    assert vars(student)["kbit_bits"].linear_bits == stored


def test_prepare_qat_says_where_integers_are_trained():
    with pytest.raises(FormatError, match="is trained by qat_fixed_point, or kbit qat --fixed-point"):
        prepare_qat(tiny_of("llama"), fixed_point_recipe(4))
