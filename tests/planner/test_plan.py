"""Plans: what fits, what is best, what is tied, and what is said about it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from kbit.errors import BudgetError
from kbit.planner import plan
from kbit.planner.plan import NEGLIGIBLE
from tests.laws.simulate import SIZES, simulate_table


def brute_force(table, budget, context):
    """Model and format of the lowest bits per byte whose weights, cache and one token's activations fit, by the definition."""
    best = None
    for row in range(len(table["run"])):
        shape = table["architecture"][row]
        cache = 2 * shape["layers"] * shape["kv_heads"] * shape["head_dim"] * 2 * min(context, shape["context"])
        layer = 2 * shape["hidden"] + max(4 * shape["hidden"], 3 * shape["intermediate"])
        activations = 4 * max(layer, shape["vocabulary"] + 2 * shape["hidden"])
        if table["total_bits"][row] / 8 + cache + activations <= budget:
            score = table["bits_per_byte"][row]
            if best is None or score < best[0]:
                best = (score, row)
    return best


@pytest.mark.parametrize("context", [64, 4096])
@pytest.mark.parametrize("budget", [300_000, 700_000, 2_000_000, 5_000_000])
def test_the_recommended_choice_is_the_best_that_fits_or_a_smaller_one_tied_with_it(budget, context):
    table = simulate_table()
    found = plan(table, budget, context=context)
    _, row = brute_force(table, budget, context)
    assert found.best.total_bytes <= budget
    if (found.best.model, found.best.format) != (table["model"][row], table["format"][row]):
        other = next(one for one in found.choices if (one.model, one.format) == (table["model"][row], table["format"][row]))
        low, high = other.difference_interval
        assert found.best.total_bytes < other.total_bytes
        assert low <= 0 <= high or abs(other.difference) < NEGLIGIBLE
    assert all(choice.total_bytes <= budget for choice in found.choices)


def test_more_memory_is_never_worse():
    table = simulate_table()
    scores = [plan(table, budget).best.bits_per_byte for budget in np.geomspace(3e5, 2e7, 12).astype(int)]
    assert (np.diff(scores) <= NEGLIGIBLE).all()


def test_the_memory_of_a_choice_is_its_weights_cache_and_activations():
    found = plan(simulate_table(), "2MB", context=128, batch=2, kv_bits=8)
    for choice in found.choices:
        assert choice.total_bytes == choice.weights_bytes + choice.kv_cache_bytes + choice.activation_bytes
        shape = next(size for size in SIZES if size.name == choice.model).architecture
        assert choice.kv_cache_bytes == shape["kv_bytes_per_token"] // 2 * 128 * 2


def test_the_next_better_choice_needs_more_and_then_is_recommended():
    table = simulate_table()
    found = plan(table, "700kB")
    assert found.next_better is not None
    assert found.next_better.total_bytes > 700_000
    then = plan(table, found.next_better.total_bytes)
    assert then.best.bits_per_byte <= found.next_better.bits_per_byte + NEGLIGIBLE
    assert plan(table, found.next_better.total_bytes - 1).best.name == found.best.name
    assert f"The next better choice needs {found.next_better.total_bytes / 1e3:.0f} kB" in found.more_memory


def test_where_every_model_fits_in_16_bits_the_plan_says_so():
    found = plan(simulate_table(), "1GiB")
    assert found.everything_in_16_bits
    assert (found.best.model, found.best.format) == ("prose-5.1m", "bf16")
    assert found.verdict.startswith("All 5 models fit in 16 bits, so nothing needs quantizing: run prose-5.1m at bf16")
    assert " As good in less memory: prose-5.1m at int" in found.verdict
    assert found.next_better is None
    assert found.more_memory == "No choice is better at any budget."


def test_what_nothing_fits_in_is_refused_with_the_smallest_choice():
    table = simulate_table()
    with pytest.raises(BudgetError) as fault:
        plan(table, "100kB")
    assert str(fault.value).startswith(
        "nothing fits in 100 kB. The smallest choice, prose-94k at int2-b64, takes 230 kB: 94.7 kB"
    )
    assert "for 256 tokens" in str(fault.value)
    need = min(choice.total_bytes for choice in plan(table, "1GB").choices)
    assert plan(table, need).best.format == "int2-b64"
    with pytest.raises(BudgetError):
        plan(table, need - 1)


def test_choices_that_the_text_cannot_tell_apart_are_tied_and_the_smaller_is_recommended():
    # Costs as large as the noise between formats: 8, 7 and 6 bits differ by less than this text tells.
    table = simulate_table(sizes=SIZES[2:3], formats=("int6-b64", "int7-b64", "int8-b64"))
    found = plan(table, "10MB")
    assert found.best.format == "int6-b64"
    assert {choice.format for choice in found.choices if choice.tied} == {"int7-b64", "int8-b64"}


def test_differences_are_taken_on_the_same_text():
    table = simulate_table()
    found = plan(table, "2MB").with_all()
    same = next(choice for choice in found.choices if choice.model == found.best.model and choice.name != found.best.name)
    width = same.difference_interval[1] - same.difference_interval[0]
    assert width < 0.2 * (same.bits_per_byte_interval[1] - same.bits_per_byte_interval[0])
    assert found.best.difference == 0
    assert same.difference == pytest.approx(same.bits_per_byte - found.best.bits_per_byte)


def test_a_measured_choice_goes_before_a_predicted_one_tied_with_it():
    table = simulate_table()
    keep = ~((table["model"] == "prose-1.9m") & (table["format"] == "int7-b64"))
    found = plan({name: values[keep] for name, values in table.items()}, "10MB", context=1)
    predicted = [choice for choice in found.choices if choice.basis == "interpolated"]
    assert [choice.format for choice in predicted if choice.model == "prose-1.9m"] == ["int7-b64"]
    assert found.best.basis == "measured"


def test_dominated_choices_are_hidden_unless_all_are_asked_for():
    found = plan(simulate_table(), "2MB")
    assert all(not choice.dominated for choice in found.shown)
    assert len(found.with_all().shown) == len(found.choices) > len(found.shown)
    for shown in found.shown[1:]:
        better = [c for c in found.choices if c.total_bytes <= shown.total_bytes and c.bits_per_byte < shown.bits_per_byte]
        assert not better


def test_a_plan_prints_its_answer_first_and_turns_into_json():
    found = plan(simulate_table(), "2MB")
    lines = str(found).splitlines()
    assert lines[0].startswith(f"Run {found.best.name}: {found.best.bits_per_byte:.3f} bits per byte, measured, ")
    assert "of 2.00 MB." in lines[0]
    assert "The next better choice needs" in str(found)
    values = json.loads(json.dumps(found.to_json()))
    assert values["choices"][0]["name"] == found.best.name
    assert values["choices"][0]["basis"] == "measured"
    assert values["verdict"] == found.verdict
    assert values["choices"][0].keys() >= {"perplexity", "bits_per_byte", "total_bytes", "kv_cache_bytes", "tied"}


@pytest.mark.parametrize("wrong", [{"context": 0}, {"batch": -1}, {"kv_bits": 0}])
def test_a_number_that_is_not_above_zero_is_refused(wrong):
    with pytest.raises(BudgetError, match=r"is not above zero\. Write a positive number\.$"):
        plan(simulate_table(), "2MB", **wrong)
