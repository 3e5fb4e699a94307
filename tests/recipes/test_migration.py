"""Migration of outliers: the model stays the same function, and what is hard to round becomes easier."""

import pytest
import torch

from kbit.formats import Format
from kbit.models.integer_blueprint import Linear, blueprint_of
from kbit.models.integer_float import run
from kbit.recipes.calibration import calibrate
from kbit.recipes.encoding import decoded_weight
from kbit.recipes.migration import PLACES, STRENGTHS, factors, migrate
from tests.models.integer_models import KINDS, ids_of, rounded, tiny_of


def floats(linear: Linear):
    return linear.weight


def in_8_bits(linear: Linear):
    return decoded_weight(linear.weight, Format.parse("int8-row"), "rtn", where="test")


def outlying(kind):
    """A blueprint with outlier channels where a norm makes them, as trained models have."""
    model = tiny_of(kind)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ("norm" in name or "ln_" in name) and name.endswith("weight") and parameter.numel() > 20:
                parameter[[3, 17]] *= 40
    return blueprint_of(model)


@pytest.mark.parametrize("strength", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_the_model_stays_the_same_function(kind, strength):
    blueprint, ids = blueprint_of(tiny_of(kind)), ids_of()
    before = run(blueprint, ids)
    weights = {linear.name: linear.weight.clone() for linear in blueprint.linears()}
    done = migrate(blueprint, calibrate(blueprint, ids), floats, 8, strength)
    assert {each.strength for each in done} == {strength}
    same = {linear.name for linear in blueprint.linears() if torch.equal(linear.weight, weights[linear.name])}
    ungated = {layer.mlp.down.name for layer in blueprint.layers if layer.mlp.gate is None}
    assert same == ungated  # an activation is no product, so nothing can be divided before it
    torch.testing.assert_close(run(blueprint, ids), before, rtol=0, atol=1e-4)


def test_factors_are_equation_4():
    x, w = torch.tensor([4.0, 1.0, 0.0, 2.0]), torch.tensor([1.0, 4.0, 3.0, 0.5])
    s = factors(x, w, 0.5)
    assert s[2] == 1  # a dead column
    alive = torch.tensor([0, 1, 3])
    expected = x[alive].sqrt() / w[alive].sqrt()
    torch.testing.assert_close(s[alive] / s[0], expected / expected[0])
    assert float(s[alive].log().mean()) == pytest.approx(0, abs=1e-6)


def test_strength_a_half_balances_both_sides():
    """Xiao et al. 2023, section 4: at 0.5 a column of x and one of w have the same largest value, up to one factor for all."""
    blueprint = outlying("llama")
    ids = ids_of()
    migrate(blueprint, calibrate(blueprint, ids), floats, 8, 0.5, places=("mlp",))
    after = calibrate(blueprint, ids).columns("0.mlp")
    mlp = blueprint.layers[0].mlp
    largest = torch.stack([mlp.gate.weight.abs().amax(0), mlp.up.weight.abs().amax(0)]).amax(0)
    torch.testing.assert_close(after / largest, (after / largest)[:1].expand(len(after)), rtol=1e-3, atol=0)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_best_strength_is_found_or_none(kind):
    blueprint, ids = outlying(kind), ids_of(batch=4)
    done = migrate(blueprint, calibrate(blueprint, ids), in_8_bits, 8)
    norms = [each for each in done if each.place.endswith(("attention", "mlp"))]
    assert all(each.strength in STRENGTHS and each.error_after < 0.7 * each.error_before for each in norms)
    assert all(each.error_after <= each.error_before for each in done)


def test_errors_are_those_of_rounding():
    blueprint, ids = outlying("llama"), ids_of(batch=4)
    calibration = calibrate(blueprint, ids)
    x, w = calibration.rows("1.inner"), blueprint.layers[1].mlp.down.weight.clone()
    (done,) = [each for each in migrate(blueprint, calibration, in_8_bits, 6, 0.5) if each.place == "1.inner"]
    exact = x @ w.T
    noise = rounded(x, 6) @ in_8_bits(Linear("down", w)).T - exact
    assert done.error_before == pytest.approx(float((noise.square().sum() / exact.square().sum()).sqrt()), rel=1e-4)


def test_only_the_places_that_are_asked_for_change():
    blueprint, ids = blueprint_of(tiny_of("llama")), ids_of()
    norm, down = blueprint.layers[0].mlp_norm.weight.clone(), blueprint.layers[0].mlp.down.weight.clone()
    done = migrate(blueprint, calibrate(blueprint, ids), floats, 8, 0.5, places=("mixed", "inner"))
    assert {each.place.rpartition(".")[2] for each in done} == {"mixed", "inner"}
    assert torch.equal(norm, blueprint.layers[0].mlp_norm.weight)
    assert not torch.equal(down, blueprint.layers[0].mlp.down.weight)
    assert set(PLACES) == {"attention", "mixed", "mlp", "inner", "head"}
