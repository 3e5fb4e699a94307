"""What the runs say of a model at a format that was not measured with it."""

from __future__ import annotations

import numpy as np
import pytest

from kbit.laws import prepare
from kbit.planner.candidates import EXTRAPOLATED, INTERPOLATED, MEASURED, candidates, fit_costs, with_k
from tests.laws.simulate import SIZES, additive_loss, simulate_table, stored_bits


def without(table, *cells):
    """The table less the given (model, format) pairs; None stands for every model."""
    keep = np.ones(len(table["run"]), dtype=bool)
    for model, text in cells:
        keep &= ~((table["format"] == text) & ((table["model"] == model) | (model is None)))
    return {name: values[keep] for name, values in table.items()}


def found(table, model, text):
    every, _ = candidates(table, None, None, 200, 0)
    return next(one for one in every if (one.model.name, one.format) == (model, text))


def test_every_measured_run_is_a_candidate_with_its_own_loss_and_bits():
    table = simulate_table(embeddings=("int8-row", "bf16"))
    every, protocol = candidates(table, None, None, 10, 0)
    assert protocol == "books"
    assert len(every) == len(table["run"])
    assert {one.basis for one in every} == {MEASURED}
    of_table = {
        (m, f, e): (loss, bits)
        for m, f, e, loss, bits in zip(*(table[c] for c in ("model", "format", "embeddings", "loss", "total_bits")), strict=True)
    }
    for one in every:
        loss, bits = of_table[one.model.name, one.format, one.embeddings]
        assert (one.loss, one.total_bits) == (loss, int(bits))


@pytest.mark.parametrize(
    ("cells", "model", "text", "basis"),
    [
        ([("prose-754k", "int4-b64")], "prose-754k", "int4-b64", INTERPOLATED),  # at sizes and k on both sides
        ([("prose-5.1m", "int4-b64")], "prose-5.1m", "int4-b64", INTERPOLATED),  # at k on both sides
        ([(None, "int4-b64")], "prose-754k", "int4-b64", INTERPOLATED),  # at k on both sides, never itself
        ([("prose-5.1m", "int2-b64")], "prose-5.1m", "int2-b64", EXTRAPOLATED),
        ([("prose-94k", f"int{k}-b64") for k in range(2, 9)], "prose-94k", "int4-b64", EXTRAPOLATED),
    ],
)
def test_a_cell_left_out_is_predicted_with_its_basis(cells, model, text, basis):
    table = simulate_table()
    if cells[0][0] == "prose-94k":  # one cell must tie the model to the others
        cells = [cell for cell in cells if cell[1] != "int3-b64"]
    row = int(np.flatnonzero((table["model"] == model) & (table["format"] == text))[0])
    one = found(without(table, *cells), model, text)
    kept = table["loss"][(table["model"] == model) & (table["format"] == "bf16")][0]
    assert one.basis == basis
    assert one.loss - kept == pytest.approx(table["loss"][row] - kept, rel=0.35)
    assert one.total_bits == pytest.approx(table["total_bits"][row], rel=1e-3)
    assert np.quantile(one.draws - one.draws.mean() + one.loss, 0.01) < table["loss"][row] < np.quantile(one.draws, 0.99)


def test_a_prediction_is_less_sure_than_a_measurement():
    table = simulate_table()
    part = without(table, ("prose-754k", "int3-b64"))
    kept = found(table, "prose-754k", "bf16").draws
    measured = found(table, "prose-754k", "int3-b64").draws - kept
    predicted = found(part, "prose-754k", "int3-b64").draws - kept
    assert predicted.std() > 2 * measured.std()


def test_a_model_without_16_bits_gets_no_predictions():
    part = without(simulate_table(), ("prose-754k", "bf16"), ("prose-754k", "int4-b64"))
    every, _ = candidates(part, None, None, 10, 0)
    assert ("prose-754k", "int4-b64") not in {(one.model.name, one.format) for one in every}


def test_formats_and_models_that_nothing_connects_are_not_related():
    table = simulate_table(formats=("bf16", "int3-b64", "nf4-b64"))
    keep = (table["k"] == 16) | ((table["format"] == "nf4-b64") == (table["model"] == "prose-94k"))
    runs = prepare({name: values[keep] for name, values in table.items()})
    assert set(fit_costs(runs).of_format) == {"int3-b64"}
    assert "prose-94k" not in fit_costs(runs).of_model


@pytest.mark.parametrize(
    ("text", "k", "expected"),
    [("int4-b64", 5, "int5-b64"), ("fp4e2m1-b32", 5, "fp5e2m2-b32"), ("nf8-row-s8", 3, "nf3-row-s8")],
)
def test_a_format_at_another_k_keeps_all_the_rest(text, k, expected):
    assert with_k(text, k) == expected


def test_families_with_their_own_tokenizers_are_resampled_by_themselves():
    one = simulate_table(formats=("bf16", "int4-b64"))
    other = simulate_table(1, formats=("bf16", "int4-b64"), family="verse", windows=50)
    table = {name: np.concatenate([one[name], other[name]]) for name in one}
    table["run"] = np.array([f"{i:x}" for i in range(len(table["run"]))])
    table["model"] = np.char.add(np.char.add(table["family"].astype(str), "/"), table["model"].astype(str))
    every, _ = candidates(table, None, None, 50, 0)
    assert {candidate.model.family for candidate in every} == {"prose", "verse"}
    only, _ = candidates(table, None, "verse", 50, 0)
    assert {candidate.model.family for candidate in only} == {"verse"}


def test_the_bits_of_a_k_that_no_model_has_are_those_of_its_codes():
    table = simulate_table(formats=("bf16", "int3-b64", "int5-b64"))
    one = found(table, "prose-1.9m", "int4-b64")
    assert one.total_bits == stored_bits(SIZES[3], "int4-b64", "int8-row")["total_bits"]


def test_costs_after_training_count_from_what_training_gains():
    """A format measured at the largest size alone, where it costs less than training gains."""
    gain = 0.03

    def loss(N, D, text):
        return additive_loss(N, D, text) - gain * (text != "bf16")

    table = simulate_table(loss_of=loss, formats=("bf16", *(f"int{k}-b64" for k in range(2, 7))), model_noise=0.0)
    left_out = (table["format"] == "int4-b64") & (table["model"] != "prose-5.1m")
    table["qat_tokens"] = np.where(table["k"] < 16, 800_000, 0)
    table["method"] = np.where(table["k"] < 16, "qat-800k", "none")
    assert loss(5_111_808, 0, "int4-b64") < loss(5_111_808, 0, "bf16")
    kept = {name: values[~left_out] for name, values in table.items()}
    assert fit_costs(prepare(kept)).gain == pytest.approx(gain, abs=0.005)
    found, _ = candidates(kept, None, None, 200, 0)
    for row in np.flatnonzero(left_out):
        (one,) = [each for each in found if (each.model.name, each.format) == (table["model"][row], "int4-b64")]
        assert one.loss == pytest.approx(table["loss"][row], abs=0.03)
        assert one.draws.std() < 2
    untrained = {**kept, "qat_tokens": np.zeros(len(kept["k"]))}
    assert fit_costs(prepare(untrained)).gain == 0
