"""Rotations: the model stays the same function, and its outliers are gone."""

import pytest
import torch

from kbit.errors import FormatError
from kbit.models.integer_blueprint import blueprint_of
from kbit.models.integer_float import run
from kbit.recipes.calibration import calibrate
from kbit.recipes.rotation import ROTATIONS, orthogonal, rotate
from tests.models.integer_models import KINDS, ids_of, tiny_of
from tests.recipes.test_migration import outlying


@pytest.mark.parametrize("which", ROTATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_model_stays_the_same_function(kind, which):
    blueprint, ids = blueprint_of(tiny_of(kind)), ids_of()
    before, tied = run(blueprint, ids), blueprint.tied
    rotate(blueprint, which)
    torch.testing.assert_close(run(blueprint, ids), before, rtol=0, atol=2e-4)
    if which == "all":
        assert not blueprint.tied
        assert all(bool((layer.attention_norm.weight == 1).all()) for layer in blueprint.layers)
    else:
        assert blueprint.tied == tied
        assert not tied or blueprint.embedding.weight is blueprint.head.weight


@pytest.mark.parametrize("kind", ["llama", "llama-tied", "gpt2"])
def test_outliers_before_the_head_spread_whether_it_is_tied_or_not(kind):
    blueprint, ids = blueprint_of(tiny_of(kind)), ids_of()
    blueprint.norm.weight[3] *= 40
    before = run(blueprint, ids)
    columns = calibrate(blueprint, ids).columns("head")
    rotate(blueprint, "down")
    seen = calibrate(blueprint, ids)
    assert columns.max() / columns.median() > 10
    assert seen.columns("head").max() / seen.columns("head").median() < 3
    assert seen.largest["norm"] == pytest.approx(float(columns.max()), rel=1e-3)
    torch.testing.assert_close(run(blueprint, ids), before, rtol=0, atol=1e-5 * float(before.abs().max()) + 1e-4)


def test_inputs_are_those_of_every_matrix():
    blueprint = blueprint_of(tiny_of("llama"))
    rotate(blueprint, "inputs")
    assert set(blueprint.rotated) == {place for place, _ in blueprint.readers()}
    assert {linear.name for _, matrices in blueprint.readers() for linear in matrices} == {
        linear.name for linear in (*blueprint.linears(), blueprint.head)
    }


@pytest.mark.parametrize("n", [1, 8, 12, 36, 7, 576])
def test_the_matrix_is_orthogonal(n):
    matrix = orthogonal(n, seed=3)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(n, dtype=torch.float64), rtol=0, atol=1e-12)
    assert torch.equal(matrix, orthogonal(n, seed=3))


def test_outliers_of_the_stream_spread():
    blueprint, ids = outlying("llama"), ids_of()
    columns = calibrate(blueprint, ids).columns("0.mlp")
    rotate(blueprint, "all")
    after = calibrate(blueprint, ids).columns("0.mlp")
    assert columns.max() / columns.median() > 10
    assert after.max() / after.median() < 3


def test_a_rotation_that_is_none_is_refused():
    with pytest.raises(FormatError, match=r"'up' is no rotation\. There are none, down, inputs, all\."):
        rotate(blueprint_of(tiny_of("llama")), "up")
