"""Rotations: the model stays the same function, and its outliers are gone."""

import pytest
import torch

from kbit.errors import FormatError
from kbit.models.integer_blueprint import blueprint_of
from kbit.models.integer_float import run
from kbit.recipes.calibration import calibrate
from kbit.recipes.rotation import orthogonal, rotate
from tests.models.integer_models import KINDS, ids_of, tiny_of
from tests.recipes.test_migration import outlying


@pytest.mark.parametrize("which", ["none", "down", "all"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_model_stays_the_same_function(kind, which):
    blueprint, ids = blueprint_of(tiny_of(kind)), ids_of()
    before = run(blueprint, ids)
    rotate(blueprint, which)
    torch.testing.assert_close(run(blueprint, ids), before, rtol=0, atol=2e-4)
    if which == "all":
        assert not blueprint.tied
        assert all(bool((layer.attention_norm.weight == 1).all()) for layer in blueprint.layers)


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
    with pytest.raises(FormatError, match=r"'up' is no rotation\. There are none, down, all\."):
        rotate(blueprint_of(tiny_of("llama")), "up")
