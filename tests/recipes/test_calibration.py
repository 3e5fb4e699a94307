"""What calibration sees, and the ranges that each estimator makes of it."""

import pytest
import torch

from kbit.errors import FormatError, ModelError, TextError
from kbit.formats import RANGES, Format
from kbit.formats.tracking import MovingRange, update
from kbit.models.integer_blueprint import blueprint_of
from kbit.models.integer_float import run
from kbit.recipes.calibration import ESTIMATORS, MOMENTUM, Seen, calibrate, calibration_windows, clips, is_input, watch
from tests.models.integer_models import ids_of, tiny_of
from tests.tiny_models import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def blueprint():
    return blueprint_of(tiny_of("llama"))


@pytest.fixture(scope="module")
def calibration(blueprint):
    return calibrate(blueprint, ids_of(batch=6, n=32))


def values_of(blueprint, place):
    """All values of a place, (windows, n, columns), in one pass."""
    seen = []
    run(blueprint, ids_of(batch=6, n=32), lambda name, values: (seen.append(values) if name == place else None, values)[1])
    return seen[0]


@pytest.mark.parametrize("place", ["0.attention", "1.inner", "head", "1.mixed"])
def test_the_largest_is_that_of_all_windows(blueprint, calibration, place):
    values = values_of(blueprint, place)
    assert calibration.tokens == 6 * 32
    assert calibration.largest[place] == pytest.approx(float(values.abs().max()), rel=1e-6)
    torch.testing.assert_close(calibration.columns(place), values.abs().flatten(0, 1).amax(0))


def test_rows_come_from_all_windows(blueprint, calibration):
    values = values_of(blueprint, "0.mlp").flatten(0, 1)
    rows = calibration.rows("0.mlp")
    assert len(rows) == 6 * 32  # fewer than are kept at most
    torch.testing.assert_close(rows, values)
    few = watch(Seen(), torch.arange(24.0).view(2, 12, 1), keep=3)
    assert torch.cat(few.rows).flatten().tolist() == [0, 6, 11, 12, 18, 23]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_clips_are_those_of_the_estimator(blueprint, calibration, estimator):
    found = clips(calibration, estimator, lambda place: 4)
    assert set(found) == {place for place in calibration.seen if is_input(place)}
    place = "1.inner"
    values = values_of(blueprint, place)
    if estimator == "moving-average":
        state = MovingRange(MOMENTUM)
        for window in values:
            state = update(state, window)
        expected = max(-float(state.low), float(state.high))
    else:
        fmt = Format.parse("int4-tensor")
        low, high = RANGES[estimator](values.flatten(0, 1), fmt, fmt.levels())
        expected = max(-float(low), float(high))
    assert found[place] == pytest.approx(expected, rel=1e-5)
    assert 0 < found[place] <= calibration.largest[place] * 1.0001


def test_an_estimator_that_is_none_is_refused(calibration):
    with pytest.raises(FormatError, match=r"'minmax' finds no ranges\. There are token, min-max, .*; perhaps min-max\."):
        clips(calibration, "minmax", lambda place: 8)


def test_a_text_that_is_too_short_is_refused():
    with pytest.raises(TextError, match=r"the calibration text has 5 tokens\. Ranges want 64 at least; give a longer text\."):
        calibration_windows("Short", tiny_tokenizer(), 128, 8192)
    with pytest.raises(TextError, match="has 0 tokens"):
        calibration_windows("", tiny_tokenizer(), 128, 8192)


@pytest.mark.parametrize(
    ("length", "positions", "tokens", "shape"),
    [
        (100, 128, 8192, (1, 100)),
        (300, 128, 8192, (2, 128)),
        (5000, 128, 512, (4, 128)),
        (30, 16, 99, (1, 16)),
        (2000, 4096, 8192, (3, 512)),
    ],
)
def test_windows_fit_text_and_model(length, positions, tokens, shape):
    assert tuple(calibration_windows("a" * length, tiny_tokenizer(), positions, tokens).shape) == shape


def test_values_that_are_not_finite_are_named():
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] = torch.inf
    with pytest.raises(ModelError, match=r"1\.up: calibration met values that are not finite"):
        calibrate(blueprint_of(model), ids_of())
