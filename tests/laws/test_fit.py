"""Fits: what they recover, what they refuse, which form they choose, and what their intervals hold."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kbit.errors import LawError
from kbit.laws import FORMS, compare, fit, prepare
from kbit.laws.noise import Noise, covariance, resample, resample_windows
from tests.laws.simulate import FORMATS, SIZES, TRUTH, additive_loss, simulate_table


@pytest.fixture(scope="module")
def law():
    return fit(simulate_table(seeds=(0, 1)), "additive", bootstrap=100)


def test_a_fit_finds_the_simulated_law_within_its_intervals(law):
    N0 = law.layout.N0
    assert pytest.approx(np.exp(np.mean([np.log(size.parameters_linear) for size in SIZES]))) == N0
    at_4_bits = TRUTH["C"] * N0 ** -TRUTH["gamma"] * 2 ** (-4 * TRUTH["lambda"])
    truth = {
        "E": TRUTH["E"],
        "A": TRUTH["A"] * N0 ** -TRUTH["alpha"],
        "alpha": TRUTH["alpha"],
        "C[int-b64]": at_4_bits,
        "gamma": TRUTH["gamma"],
        "lambda[int]": TRUTH["lambda"],
    }
    assert set(truth) == set(law.estimates)
    for name, true in truth.items():
        slack = 0.5 * (law.estimates[name].high - law.estimates[name].low)  # one of six may miss a 95% interval, by little
        assert law.estimates[name].low - slack <= true <= law.estimates[name].high + slack, name


def test_the_form_that_made_the_runs_is_chosen():
    assert fit(simulate_table(), bootstrap=0).form == "additive"
    trials = compare(prepare(simulate_table()))
    assert trials[0].form == "additive"
    assert {trial.form for trial in trials} == set(FORMS)


def test_the_same_seed_gives_the_same_law():
    one, two = (fit(simulate_table(), "additive", bootstrap=5, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.draws, two.draws)


def test_a_prediction_lies_between_its_ends_and_falls_with_bits_and_size(law):
    losses = [law.predict(7e5, f"int{k}-b64") for k in range(2, 9)]
    for one in losses:
        assert one.low[0] < one.loss[0] < one.high[0]
    assert (np.diff([one.loss[0] for one in losses]) < 0).all()
    assert (np.diff(law.predict([1e5, 3e5, 1e6, 5e6], "int3-b64").loss) < 0).all()


def test_a_k_that_was_not_measured_is_predicted_between_its_neighbours():
    table = simulate_table(formats=tuple(text for text in FORMATS if text != "int4-b64"))
    law = fit(table, "additive", bootstrap=0)
    three, four, five = (law.predict(7e5, f"int{k}-b64").loss[0] for k in (3, 4, 5))
    assert three > four > five


@pytest.mark.parametrize(
    ("form", "text", "fault"),
    [
        ("additive", "nf4-b64", r"^format 'nf4-b64': the additive law was fitted without it\. It knows int-b64\.$"),
        ("offset", "int1-b64", r"^format 'int1-b64': the offset law was fitted without it\. It knows int2-b64, "),
        ("effective", "ternary-b64", r"^format 'ternary-b64': the effective law was fitted without it\. It knows int-b64\.$"),
    ],
)
def test_a_format_that_the_law_says_nothing_about_is_refused(form, text, fault):
    law = fit(simulate_table(), form, bootstrap=0)
    with pytest.raises(LawError, match=fault):
        law.predict(1e6, text)


def test_a_codebook_at_one_k_is_fitted_there_and_refused_elsewhere():
    law = fit(simulate_table(formats=(*FORMATS, "nf4-b64")), "additive", bootstrap=0)
    assert law.layout.slopes == ("int",)
    assert law.predict(1e6, "nf4-b64").loss < law.predict(1e6, "int4-b64").loss
    with pytest.raises(LawError, match=r"^format 'nf3-b64': nf was measured at one k, so the law has no slope"):
        law.predict(1e6, "nf3-b64")


@pytest.mark.parametrize(
    ("formats", "form", "fault"),
    [
        (("bf16",), "additive", r"^every run is in 16 bits, so nothing says what bits cost\."),
        (("int3-b64", "int4-b64"), "offset", r"^the offset law needs runs in 16 bits, to tell what a format costs from E\."),
        (("bf16", "int4-b64"), "additive", r"^the additive law needs a codebook at two k or more"),
        (("bf16", "int4-b64"), "cubic", r"^form 'cubic' does not exist\. Write one of: additive, "),
    ],
)
def test_runs_that_cannot_determine_a_law_are_refused_with_what_is_missing(formats, form, fault):
    with pytest.raises(LawError, match=fault):
        fit(simulate_table(formats=formats), form, bootstrap=0)


def test_fewer_runs_than_parameters_are_refused():
    table = simulate_table(sizes=SIZES[:4], formats=("bf16", "int4-b64"))
    rows = np.array([*range(1, 8, 2), 0])  # every size at 4 bits, one in 16 bits
    part = {name: values[rows] for name, values in table.items()}
    with pytest.raises(
        LawError, match=r"^5 runs cannot determine the 5 parameters of the shrinking law\. Measure at least 1 more"
    ):
        fit(part, "shrinking", bootstrap=0)


def test_a_power_law_for_each_format_wants_each_format_at_several_sizes():
    table = simulate_table()
    keep = (table["format"] != "int3-b64") | np.isin(table["model"], ["prose-94k", "prose-5.1m"])
    with pytest.raises(LawError, match=r"^the power law needs every format at 3 sizes or more; int3-b64 has 2\."):
        fit({name: values[keep] for name, values in table.items()}, "power", bootstrap=0)


def test_the_training_tokens_enter_where_three_lengths_were_measured_and_else_the_longest_counts():
    truth = {**TRUTH, "B": 900.0, "beta": 0.6}
    table = simulate_table(training_tokens=(2e6, 4e6, 8e6), loss_of=lambda N, D, text: additive_loss(N, D, text, truth))
    law = fit(table, "additive", bootstrap=0)
    assert {"B", "beta", "delta"} < set(law.estimates)
    assert law.estimates["beta"].value == pytest.approx(0.6, abs=0.25)
    assert law.predict(1e6, "bf16", D=2e6).loss > law.predict(1e6, "bf16", D=8e6).loss
    two = fit(simulate_table(training_tokens=(4e6, 8e6)), "additive", bootstrap=0)
    assert "B" not in two.estimates
    assert set(two.fitted.D) == {8e6}


def test_non_monotone_noisy_runs_still_give_a_law_with_wide_intervals():
    noisy = fit(simulate_table(4, model_noise=0.15), "additive", bootstrap=60)
    quiet = fit(simulate_table(4), "additive", bootstrap=60)
    spans = [law.estimates["A"].high - law.estimates["A"].low for law in (noisy, quiet)]
    assert spans[0] > 2 * spans[1]
    assert np.isfinite(noisy.theta).all()
    assert np.isfinite(noisy.draws).all()


def test_a_law_prints_and_turns_into_json(law):
    text = str(law)
    for name in ("C[int-b64]", "lambda[int]", "95% interval", "two trainings of one size differ by about"):
        assert name in text
    values = json.loads(json.dumps(law.to_json()))
    assert values["form"] == "additive"
    assert values["parameters"]["E"].keys() == {"value", "low", "high", "at_bound"}


def test_windows_are_resampled_alike_for_all_runs():
    runs = prepare(simulate_table())
    draws = resample_windows(runs, 300, np.random.default_rng(0))
    np.testing.assert_allclose(draws.mean(0), runs.loss, atol=0.01)
    np.testing.assert_allclose(draws.std(0), runs.loss_stderr, rtol=0.25)
    four, three = (draws[:, (runs.model == "prose-1.9m") & (runs.format == f"int{k}-b64")][:, 0] for k in (4, 3))
    assert (three - four).std() < 0.1 * three.std()  # the text's difficulty cancels


def test_the_luck_of_a_training_is_shared_by_the_formats_of_a_model():
    runs = prepare(simulate_table())
    noise = Noise(luck=0.5, luck_freedom=np.inf, misfit=0.0)
    draws = resample(runs, noise, 400, np.random.default_rng(0))
    of_model = draws[:, runs.model == "prose-1.9m"]
    assert np.corrcoef(of_model.T).min() > 0.99
    assert np.std(of_model) == pytest.approx(0.5, rel=0.2)
    between = covariance(runs, noise)[np.ix_(runs.model == "prose-94k", runs.model == "prose-1.9m")]
    assert (between == 0).all()


def trained_table(lengths, formats=("bf16", "int2-b64", "int3-b64", "int4-b64"), gain=0.02, rho=0.3, tau=0.2, **how):
    """Runs of models that were trained under their quantizers for several T: gain t^rho below the base, costs that fall as
    t^-tau, t = T / 10^6.
    """
    tables = []
    for T in lengths:
        t = T / 1e6

        def loss(N, D, text, t=t):
            plain = additive_loss(N, D, "bf16", TRUTH)
            return plain if text == "bf16" else plain - gain * t**rho + (additive_loss(N, D, text, TRUTH) - plain) * t**-tau

        table = simulate_table(formats=formats, loss_of=loss, **how)
        kept = np.ones(len(table["run"]), dtype=bool) if not tables else table["k"] < 16
        table = {name: values[kept] for name, values in table.items()}
        table["qat_tokens"] = np.where(table["k"] < 16, T, 0)
        table["method"] = np.where(table["k"] < 16, f"qat-{T}", "none")
        tables.append(table)
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def test_what_training_itself_gains_and_its_length_are_told_from_what_bits_cost():
    law = fit(trained_table((200_000, 800_000), seeds=(0, 1), model_noise=0.002), "additive", bootstrap=100, method="qat")
    t0 = law.layout.T0 / 1e6
    assert pytest.approx(0.4) == t0
    for name, true in {"R": 0.02 * t0**0.3, "rho": 0.3, "tau": 0.2, "lambda[int]": TRUTH["lambda"]}.items():
        slack = 0.5 * (law.estimates[name].high - law.estimates[name].low)
        assert law.estimates[name].low - slack <= true <= law.estimates[name].high + slack, name
    assert law.estimates["R"].low > 0
    assert law.formula == "E + A n^-alpha - R t^rho + C[kind] n^-gamma t^-tau 2^(-lambda (k - 4))"


def test_one_length_of_training_has_a_gain_and_no_exponents():
    law = fit(trained_table((800_000,)), "saturating", bootstrap=0, method="qat")
    assert "R" in law.estimates
    assert not {"rho", "tau"} & set(law.estimates)
    assert law.formula == "E + A n^-alpha - R + S log(1 + C[kind] n^-gamma 2^(-lambda (k - 4)) / S)"
    assert law.predict(7e5, "int4-b64").loss[0] < law.predict(7e5, "bf16").loss[0]


def test_costs_of_one_training_length_beside_16_bits_of_three_have_no_delta():
    truth = {**TRUTH, "B": 900.0, "beta": 0.6}
    table = simulate_table(training_tokens=(2e6, 4e6, 8e6), loss_of=lambda N, D, text: additive_loss(N, D, text, truth))
    keep = (table["k"] >= 16) | (table["training_tokens"] == 8e6)
    law = fit({name: values[keep] for name, values in table.items()}, "additive", bootstrap=0)
    assert "B" in law.estimates
    assert "delta" not in law.estimates
    assert law.formula == "E + A n^-alpha + B d^-beta + C[kind] n^-gamma 2^(-lambda (k - 4))"
