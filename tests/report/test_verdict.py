"""Sentences, from numbers that are known."""

from __future__ import annotations

import numpy as np
import pytest

from kbit.report import verdict
from kbit.report.compare import Standing
from kbit.report.optimum import find_optimum
from kbit.report.runs import View, rows_of
from kbit.report.verdict import Stretch, headline, stretches
from tests.laws.simulate import simulate_table

BUDGETS = np.geomspace(1e5, 1e7, 41)


def chances(*winners, sure=0.95):
    """Probabilities of k = 3, 4 and 5 at each budget: the winner's is `sure`, the rest is mostly the other one of 3 and 4."""
    rest = 1 - sure
    return np.array([[sure, rest, 0] if k == 3 else [rest, sure, 0] for k in winners])


def test_budgets_are_cut_where_the_best_k_changes():
    first, second = stretches(BUDGETS, chances(*[3] * 20, *[4] * 21), (3, 4, 5))
    assert (first.k, second.k) == (3, 4)
    assert (first.runner_up, second.runner_up) == (4, 3)
    assert (first.low, second.high) == (1e5, 1e7)
    assert first.high == second.low == pytest.approx((BUDGETS[19] * BUDGETS[20]) ** 0.5)
    assert first.probability == pytest.approx(0.95)


def test_a_flicker_at_a_crossing_is_no_stretch():
    found = stretches(BUDGETS, chances(*[3] * 20, 4, *[3] * 2, *[4] * 18), (3, 4, 5))
    assert [part.k for part in found] == [3, 4]


def test_a_stretch_too_short_at_an_end_goes_to_its_neighbour():
    assert [part.k for part in stretches(BUDGETS, chances(4, *[3] * 40), (3, 4, 5))] == [3]


@pytest.mark.parametrize(("sure", "ks"), [(0.95, [4, 3]), (0.55, [3])])
def test_a_short_stretch_counts_only_when_it_is_likely(sure, ks):
    assert [part.k for part in stretches(BUDGETS, chances(*[4] * 3, *[3] * 38, sure=sure), (3, 4, 5))] == ks


def test_one_sentence_says_who_wins_where_and_how_surely():
    one = [Stretch(4, 1e5, 1e7, 0.97, 3)]
    assert headline(one, "total") == "4 bits are best at every budget from 100 kbit to 10 Mbit of model (probability 97%)."
    three = [Stretch(1, 1e5, 3e5, 0.71, 2), Stretch(3, 3e5, 1e6, 1.0, 4), Stretch(4, 1e6, 1e7, 0.95, 3)]
    assert headline(three, "linear") == (
        "1 bit is best up to 300 kbit in the linear layers (probability 71%, else mostly 2 bits), "
        "3 bits from there to 1 Mbit (over 99%), 4 bits from there to 10 Mbit (95%)."
    )


def test_side_by_side_names_the_clear_and_the_open():
    clear, open_ = Standing("nf-b64", 0.99, 0, 0, 0), Standing("fp-b64", 0.7, 0, 0, 0)
    assert verdict.side_by_side({"3 bits": [clear], "4 bits": [clear], "5 bits": [open_]}, "data type") == (
        "At equal bits the best data type is nf-b64 at 3 and 4 bits; at 5 bits it is too close to call."
    )
    assert verdict.side_by_side({"int3": [open_]}, "block size") == "At equal bits no block size stands out."
    assert "no sizes in common" in verdict.side_by_side({"int3": []}, "block size")


def test_what_bits_cost_is_told_for_the_largest_model(table):
    rows = rows_of(table, View("prose", "books", "int8-row", "total"))
    told = verdict.what_bits_cost(rows, "int-b64")
    i = (rows["model"] == "prose-5.1m") & (rows["format"] == "int3-b64")
    assert told.startswith("int-b64 on prose-5.1m, in bits per byte above 16 bits: +")
    assert f"{rows['added'][i][0]:+.4f} at 3 bits" in told
    assert "at 6 bits" not in told


def test_costs_that_grow_with_training_are_said_to_grow():
    def growing(n, d, text):
        return 2 + 75 * n**-0.35 + (0.05 * d / 2e6 if text == "int3-b64" else 0)

    table = simulate_table(formats=("bf16", "int3-b64"), training_tokens=(2e6, 8e6), loss_of=growing, model_noise=0)
    rows = rows_of(table, View("prose", "books", "int8-row", "total"))
    of_k = {name: column[(rows["k"] == 3) & (rows["parameters_linear"] > 4e6)] for name, column in rows.items()}
    told = verdict.training({"prose-5.1m": {3: of_k}})
    assert told.startswith("From 2M to 8M training tokens the cost of quantizing is multiplied by ")
    assert 3.5 < float(told.split("multiplied by ")[1].split(" ")[0]) < 4.5


def test_the_optimum_of_a_known_law_is_found():
    # 4 bits cost nothing and 3 bits much: more than 4 only take memory, fewer only lose.
    def cliff(n, d, text):
        return 2 + 75 * n**-0.35 + (1.0 if text in ("int2-b64", "int3-b64") else 0)

    formats = ("bf16", *(f"int{k}-b64" for k in (2, 3, 4, 5, 6)))
    table = simulate_table(formats=formats, loss_of=cliff, model_noise=0, own_noise=0, disagreement=0)
    found = find_optimum(table, "total", None, {"family": "prose"})
    assert [part.k for part in found.stretches] == [4]
    assert headline(found.stretches, "total").startswith("4 bits are best at every budget from ")
