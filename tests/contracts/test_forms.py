"""What every law form must do: recover itself from simulated runs, know its intervals, refuse runs that determine nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from kbit.errors import LawError
from kbit.laws import FORMS, Law, cross_validate, fit, prepare
from kbit.laws.layout import Layout, lay_out
from tests.laws.simulate import SIZES, simulate_table

FORMATS = ("bf16", *(f"int{k}-b64" for k in range(2, 7)), "int4-b16", *(f"nf{k}-b64" for k in range(2, 5)))
TOKENS = (2e6, 4e6, 8e6)
TRUE = {"E": 1.8, "A": 0.7, "alpha": 0.35, "gamma": 0.2, "B": 0.15, "beta": 0.5, "delta": 0.15, "S": 0.4}
TRUE |= {"R": 0.02, "rho": 0.3, "tau": 0.3}  # of training under the quantizer
QUIET = {"difficulty": 0.0, "disagreement": 0.0, "model_noise": 0.0, "own_noise": 0.0}


def layout_of(form: str, tokens: tuple[float, ...]) -> Layout:
    """The form's layout for the simulated grid."""
    return lay_out(prepare(simulate_table(formats=FORMATS, training_tokens=tokens)), form)[0]


def true_theta(layout: Layout) -> np.ndarray:
    """Plausible parameters: costs that fall fourfold a bit, and differ between kinds."""
    theta = []
    for name in layout.names:
        stem, _, member = name.rstrip("]").partition("[")
        k = layout.k.get(member, 16)
        lightness = 0.7 if member.startswith("nf") else 0.8 if member.endswith("b16") else 1.0
        over = {
            "lambda": 4.5 if layout.form == "bit-power" else 2.1 * lightness,
            "C": 0.015 * lightness,
            "width": 1.1 * lightness,
            "offset": lightness * 0.015 * 4.0 ** (4 - k),
        }
        if layout.form == "power":
            over |= {"A": 0.7 + lightness * 4.0 ** (3 - k), "alpha": 0.35 - 0.3 * lightness * 4.0 ** (1 - k)}
        theta.append(over.get(stem, TRUE.get(stem)))
    return np.array(theta, dtype=float)


def law_of(layout: Layout, theta: np.ndarray) -> Callable[[float, float, str], float]:
    """loss_of for the simulator."""
    return lambda N, D, text: float(layout.loss(theta, layout.points(np.array([N]), np.array([D]), [text]))[0])


def simulate(form: str, tokens: tuple[float, ...], **noise: float) -> tuple[dict[str, np.ndarray], Layout, np.ndarray]:
    """A table that obeys the form, its layout and its parameters."""
    layout = layout_of(form, tokens)
    theta = true_theta(layout)
    return simulate_table(formats=FORMATS, training_tokens=tokens, loss_of=law_of(layout, theta), **noise), layout, theta


@pytest.mark.parametrize("tokens", [TOKENS[-1:], TOKENS], ids=["one length", "three lengths"])
@pytest.mark.parametrize("form", FORMS)
def test_a_form_recovers_itself_from_runs_without_noise(form: str, tokens: tuple[float, ...]) -> None:
    table, layout, theta = simulate(form, tokens, **QUIET)
    law = fit(table, form, bootstrap=0)
    assert law.layout.names == layout.names
    for name, true, found in zip(layout.names, theta, law.theta, strict=True):
        assert found == pytest.approx(true, rel=0.02, abs=2e-3), name
    held_out = np.array([4e5, 3e6])
    at = layout.points(held_out, np.full(2, TOKENS[-1]), ["int3-b64"] * 2)
    np.testing.assert_allclose(law.predict(held_out, "int3-b64").loss, layout.loss(theta, at), atol=1e-3)


@pytest.mark.parametrize("form", [name for name, form in FORMS.items() if "rho" in form.parameters])
def test_a_form_recovers_what_training_under_the_quantizer_gains_and_how_the_cost_falls_with_it(form: str) -> None:
    """Three lengths of quantization-aware training; 16 bits had none. The gain grows as t^rho, the cost falls as t^-tau."""
    tables = []
    for T in (2e5, 4e5, 8e5):
        layout = replace(layout_of(form, TOKENS[-1:]), has_gain=True, has_training=True, T0=4e5, longest=8e5)
        theta = true_theta(layout)

        def loss(N: float, D: float, text: str, T: float = T, layout: Layout = layout, theta: np.ndarray = theta) -> float:
            return float(layout.loss(theta, layout.points(np.array([N]), np.array([D]), [text], np.array([T])))[0])

        table = simulate_table(formats=FORMATS, training_tokens=TOKENS[-1:], loss_of=loss, **QUIET)
        floats = table["k"] >= 16
        table["method"] = np.where(floats, "none", f"qat-{T / 1e3:.0f}k")
        table["qat_tokens"] = np.where(floats, 0, int(T))
        tables.append(table)
    merged = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    law = fit(merged, form, bootstrap=0, method="qat")
    assert law.layout.names == layout.names
    lengths = {"rho", "tau"} & set(FORMS[form].parameters)
    for name in {"R"} | lengths:
        assert law.estimates[name].value == pytest.approx(TRUE[name], rel=0.02), name
    assert " - R t^rho" in law.formula
    one = fit(merged, form, bootstrap=0, method="qat-400k")
    assert one.estimates["R"].value == pytest.approx(TRUE["R"], rel=0.02)
    assert not lengths & set(one.estimates)
    assert " - R" in one.formula
    assert "t^" not in one.formula


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_the_jacobian_is_the_derivative(form: str, trained: bool) -> None:
    layout = replace(layout_of(form, TOKENS), has_gain=trained, has_training=trained, T0=4e5, longest=8e5)
    theta = true_theta(layout)
    at = layout.points(np.array([1e5, 1e6, 4e6]), np.array([2e6, 4e6, 8e6]), ["bf16", "int3-b64", "nf2-b64"])
    numeric = np.stack(
        [(layout.loss(theta + h, at) - layout.loss(theta - h, at)) / 2e-6 for h in 1e-6 * np.eye(len(theta))], axis=1
    )
    np.testing.assert_allclose(layout.jacobian(theta, at), numeric, atol=1e-7)


@pytest.mark.parametrize("form", FORMS)
def test_16_bits_cost_nothing_and_more_bits_cost_less(form: str) -> None:
    layout = layout_of(form, TOKENS[-1:])
    texts = ["int2-b64", "int3-b64", "int4-b64", "int5-b64", "int6-b64", "bf16"]
    losses = layout.loss(true_theta(layout), layout.points(np.full(6, 7e5), np.full(6, 8e6), texts))
    assert (np.diff(losses) < 0).all()
    kept = layout.points(np.full(1, 7e5), np.full(1, 8e6), ["bf16"])
    np.testing.assert_array_equal(layout.loss(true_theta(layout), kept), losses[-1:])
    coded = layout.points(np.full(1, 7e5), np.full(1, 8e6), ["int2-b64"])
    np.testing.assert_array_equal(layout.loss(true_theta(layout), coded.unquantized), losses[-1:])


@pytest.mark.parametrize("form", FORMS)
def test_a_form_predicts_a_size_that_it_has_not_seen(form: str) -> None:
    table, _, _ = simulate(form, TOKENS[-1:], **QUIET)
    trial = cross_validate(prepare(table), form)
    assert trial.loss_error < 2e-3
    assert trial.cost_error < 0.1


@pytest.mark.parametrize("form", FORMS)
def test_too_few_sizes_are_refused(form: str) -> None:
    with pytest.raises(
        LawError, match=r"^2 sizes \(prose-94k, prose-276k\) cannot determine E, A and alpha\. Measure at least 4"
    ):
        fit(simulate_table(sizes=SIZES[:2], formats=FORMATS), form, bootstrap=0)


@pytest.mark.parametrize("form", FORMS)
def test_a_form_says_where_it_comes_from(form: str) -> None:
    assert FORMS[form].cite
    assert FORMS[form].formula.startswith("E + A")
    for parameter in FORMS[form].parameters.values():
        assert parameter.low < parameter.high
        assert parameter.meaning


def inside(law: Law, theta: np.ndarray) -> np.ndarray:
    """Which intervals hold the true parameter."""
    low = np.array([estimate.low for estimate in law.estimates.values()])
    high = np.array([estimate.high for estimate in law.estimates.values()])
    return (low <= theta) & (theta <= high)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_intervals_cover_the_true_parameters_about_as_often_as_they_say(form: str) -> None:
    """90% intervals over 24 simulated studies cover each parameter at 13 of them or more, and 75% to 100% of all.

    A binomial at 90% falls below 17 once in 200; the rest is room for what 64 windows and 5 models tell of the noise.
    """
    layout = layout_of(form, TOKENS[-1:])
    theta = true_theta(layout)
    covered = []
    for seed in range(24):
        table = simulate_table(seed, formats=FORMATS, training_tokens=TOKENS[-1:], loss_of=law_of(layout, theta))
        covered.append(inside(fit(table, form, bootstrap=100, confidence=0.9, luck=0.004, seed=seed), theta))
    rates = dict(zip(layout.names, np.mean(covered, axis=0), strict=True))
    assert min(rates.values()) >= 13 / 24, rates
    assert 0.75 <= float(np.mean(covered)) <= 1.0, rates
