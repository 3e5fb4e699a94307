"""Curves through the measured sizes, and the best k at each budget."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kbit.errors import LawError
from kbit.laws import best_k, choose_slice, curves, fit, pareto, prepare, study_law
from kbit.laws.budgets import EXTRAPOLATED, MEASURED
from tests.laws.simulate import SIZES, TRUTH, additive_loss, simulate_table, stored_bits

EXACT = {"difficulty": 0.0, "disagreement": 0.0, "model_noise": 0.0, "own_noise": 0.0}


def true_best(budget_bits: float) -> int:
    """The best k at a budget of linear bits under the law of the simulator, whatever N that takes."""
    return min(range(2, 9), key=lambda k: additive_loss(budget_bits / (k + 0.25), 8e6, f"int{k}-b64"))


def test_a_curve_passes_its_sizes_and_says_nothing_beyond_them():
    for curve in curves(prepare(simulate_table())):
        np.testing.assert_allclose(curve.interpolate(curve.bits), curve.loss)
        assert np.isnan(curve.interpolate(np.array([0.9 * curve.bits[0], 1.1 * curve.bits[-1]]))).all()


def test_a_curve_lies_closer_to_the_law_than_chords_do():
    for curve in curves(prepare(simulate_table(formats=("bf16", "int4-b64"), **EXACT)), axis="linear"):
        bits = np.exp(np.linspace(np.log(curve.bits[0]), np.log(curve.bits[-1]), 41))[1:-1]
        true = np.array([additive_loss(N, 8e6, curve.format) for N in curve.size_at(bits)])
        chords = np.interp(np.log(bits), np.log(curve.bits), curve.loss)
        assert np.abs(curve.interpolate(bits) - true).mean() < 0.6 * np.abs(chords - true).mean()


def test_a_curve_stays_between_the_losses_of_its_sizes_even_where_those_do_not_fall():
    table = simulate_table(7, model_noise=0.3)
    for curve in curves(prepare(table)):
        for left, right in zip(range(4), range(1, 5), strict=True):
            between = curve.interpolate(np.exp(np.linspace(np.log(curve.bits[left]), np.log(curve.bits[right]), 9)[1:-1]))
            assert between.min() >= min(curve.loss[left], curve.loss[right]) - 1e-9
            assert between.max() <= max(curve.loss[left], curve.loss[right]) + 1e-9


def test_a_second_training_measured_in_some_formats_alone_does_not_tilt_the_curves() -> None:
    runs = prepare(simulate_table(seeds=(0, 1), model_noise=0.3))
    second = np.array(["seed-1" in str(model) for model in runs.model])
    assert second.any()
    some = runs.take(~second | (runs.k == 4) | (runs.k == runs.k.max()))
    for curve, alone in zip(curves(some), curves(runs.take(~second)), strict=True):
        np.testing.assert_array_equal(curve.loss, alone.loss)


def test_seeds_of_a_size_are_averaged_and_only_the_longest_training_counts():
    runs = prepare(simulate_table(seeds=(0, 1), training_tokens=(2e6, 8e6)))
    curve = curves(runs, kind="int-b64")[0]
    assert curve.N.tolist() == [size.parameters_linear for size in SIZES]
    rows = (runs.format == curve.format) & (curve.N[0] == runs.N) & (runs.D == 8e6)
    assert rows.sum() == 2
    assert curve.loss[0] == pytest.approx(runs.loss[rows].mean())


def test_the_size_at_given_bits_is_exact_on_the_linear_axis_and_beyond_it():
    curve = next(curve for curve in curves(prepare(simulate_table()), axis="linear") if curve.k == 4)
    np.testing.assert_allclose(curve.size_at(4.25 * np.array([1e4, 1e6, 1e9])), [1e4, 1e6, 1e9], rtol=1e-6)


def test_the_best_k_is_that_of_the_law_that_made_the_runs():
    table = simulate_table(**EXACT)
    budgets = 8 * np.array([1e5, 2e5, 5e5, 1e6])
    law = fit(table, "additive", bootstrap=20)
    found = best_k(law, budgets, axis="linear", bootstrap=20)
    expected = [true_best(bits) for bits in budgets]
    assert found.law_best.tolist() == expected
    assert found.best.tolist() == expected
    assert found.status == (MEASURED,) * 4


def test_beyond_the_measured_sizes_the_interpolation_is_silent_and_the_law_is_marked():
    law = fit(simulate_table(), "additive", bootstrap=20)
    found = best_k(law, [8 * 1e3, 8 * 5e6, 8 * 1e9])
    assert found.status == (EXTRAPOLATED,) * 3
    assert found.best.tolist() == [0, 0, 0]
    assert (found.law_best > 0).all()
    rows = json.loads(json.dumps(found.to_json()))["budgets"]
    assert rows[0]["best_k"] is None
    assert rows[0]["loss"] == dict.fromkeys(map(str, found.ks))
    assert rows[0]["status"] == "extrapolated"


def test_a_measured_budget_has_something_smaller_and_something_larger_that_was_beaten():
    found = best_k(simulate_table())
    for i, k in enumerate(found.best):
        if found.status[i] == MEASURED:
            at = found.ks.index(k)
            assert not np.isnan(found.losses[i, max(at - 1, 0) : at + 2]).any()


def test_probabilities_are_shares_and_a_close_race_is_called_one():
    found = best_k(simulate_table(), axis="total")
    total = np.nansum(found.probability, axis=1)
    np.testing.assert_allclose(total[~np.isnan(found.losses).all(1)], 1)
    flat = best_k(simulate_table(2, model_noise=0.02, seeds=(0, 1)), axis="total")
    assert "or" in str(flat)


def test_the_luck_of_trainings_makes_the_answer_less_sure():
    sure = best_k(simulate_table(seeds=(0, 1), model_noise=0.0), 8 * np.array([1e6]))
    unsure = best_k(simulate_table(seeds=(0, 1), model_noise=0.05), 8 * np.array([1e6]))
    assert np.nanmax(unsure.probability) < np.nanmax(sure.probability)


def test_any_kind_takes_the_best_format_of_each_k():
    formats = ("bf16", *(f"int{k}-b64" for k in (2, 3, 4)), *(f"nf{k}-b64" for k in (2, 3, 4)))
    table = simulate_table(formats=formats)
    int_only, every = best_k(table, kind="int-b64"), best_k(table, kind="any")
    assert int_only.ks == every.ks == (2, 3, 4, 16)
    np.testing.assert_array_less(np.nan_to_num(every.losses), np.nan_to_num(int_only.losses) + 1e-12)
    with pytest.raises(LawError, match=r"^kind 'log-b64' was not measured\. Write any, or one of: int-b64, nf-b64\.$"):
        best_k(table, kind="log-b64")


def test_an_axis_that_does_not_exist_is_refused():
    with pytest.raises(LawError, match=r"^axis 'bits' does not exist\. Write one of: total, linear\.$"):
        best_k(simulate_table(), axis="bits")


def test_the_pareto_front_is_what_no_run_beats():
    table = simulate_table(3)
    front = pareto(table)
    bits, loss = table["total_bits"], table["loss"]
    points = list(zip(bits, loss, strict=True))
    by_definition = [i for i, (a, b) in enumerate(points) if not any(c <= a and d <= b and (c, d) != (a, b) for c, d in points)]
    assert sorted(front.tolist()) == by_definition
    assert (np.diff(bits[front]) > 0).all()
    assert (np.diff(loss[front]) < 0).all()


def test_findings_show_curves_budgets_and_law_and_say_why_there_is_none():
    text = str(study_law(simulate_table(), bootstrap=5))
    for part in ("int3-b64", "Best k of int-b64", "Law 'additive'", "Sizes left out in turn"):
        assert part in text
    few = study_law(simulate_table(sizes=SIZES[:2]))
    assert few.law is None
    assert "No law: 2 sizes (prose-94k, prose-276k) cannot determine E, A and alpha." in str(few)
    assert few.to_json()["law"] is None
    with pytest.raises(LawError, match=r"^2 sizes"):
        study_law(simulate_table(sizes=SIZES[:2]), "additive")


def test_the_slices_of_findings_are_named():
    findings = study_law(simulate_table(embeddings=("int8-row", "bf16")), bootstrap=5, embeddings="bf16")
    assert findings.chosen == choose_slice(simulate_table(embeddings=("bf16",)))[1]
    size = SIZES[0]
    assert findings.curves[0].bits[0] == stored_bits(size, findings.curves[0].format, "bf16")["total_bits"]
    assert TRUTH["E"] < findings.curves[0].loss.min()


@pytest.mark.parametrize(("alpha", "gamma", "direction"), [(0.35, 0.16, 1), (0.16, 0.35, -1)])
def test_the_best_k_rises_with_the_budget_where_alpha_exceeds_gamma_and_falls_where_not(alpha, gamma, direction):
    """At the best k, cost (lambda ln 2 - gamma / (k + s)) = alpha A n^-alpha / (k + s), as docs/law.md derives."""
    a, c, steepness, scales = 0.7, 0.014, 2.0, 0.25
    k = np.linspace(1, 12, 110_001)
    best = []
    for budget in (1.0, 10.0, 1000.0):
        n = budget / (k + scales)
        cost = c * n**-gamma * 2.0 ** (-steepness * (k - 4))
        i = int((a * n**-alpha + cost).argmin())
        best.append(k[i])
        left = cost[i] * (steepness * np.log(2) - gamma / (k[i] + scales))
        assert left == pytest.approx(alpha * a * n[i] ** -alpha / (k[i] + scales), rel=1e-3)
    assert (np.diff(best) * direction > 0.1).all()
