"""Slices of a table, and the kinds of formats."""

from __future__ import annotations

import numpy as np
import pytest

from kbit.errors import LawError
from kbit.laws import choose_slice, prepare, split_format
from tests.laws.simulate import SIZES, simulate_table


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("int4-b64", ("int", 4, "int-b64")),
        ("int4-b64-asym", ("int", 4, "int-b64-asym")),
        ("nf3-row", ("nf", 3, "nf-row")),
        ("fp6e3m2-b64", ("fp", 6, "fpe3-b64")),
        ("fp4e2m1-b16-e4m3", ("fp", 4, "fpe2-b16-e4m3")),
        ("kmeans3-b64-s8", ("kmeans", 3, "kmeans-b64-s8")),
        ("quantile8-tensor", ("quantile", 8, "quantile-tensor")),
        ("table4:mine-b64", ("table", 4, "table:mine-b64")),
        ("ternary-b64", ("ternary", None, "ternary-b64")),
        ("bf16", ("bf16", None, "bf16")),
        ("binary-row", ("binary", None, "binary-row")),
    ],
)
def test_the_kind_of_a_format_is_what_stays_when_k_changes(text, parts):
    assert split_format(text) == parts


def test_what_is_not_named_is_the_value_with_most_runs_and_embeddings_in_int8():
    table = simulate_table(embeddings=("bf16", "int8-row"), protocols=("books",))
    both = {name: np.concatenate([values, values[:3]]) for name, values in table.items()}
    both["protocol"] = np.array(["books"] * len(table["run"]) + ["web"] * 3)
    _, chosen = choose_slice(both)
    assert chosen == {"family": "prose", "protocol": "books", "embeddings": "int8-row", "method": "rtn"}


def test_a_value_that_no_run_has_is_refused_with_those_there_are():
    with pytest.raises(LawError, match=r"^protocol 'wiki' has no finished run\. The store has: books, web\.$"):
        choose_slice(simulate_table(protocols=("books", "web")), protocol="wiki")


def test_16_bits_of_other_embeddings_stand_in_where_these_have_none():
    table = simulate_table(embeddings=("bf16", "int8-row"))
    keep = (table["k"] < 16) | (table["embeddings"] == "bf16")
    part, _ = choose_slice({name: values[keep] for name, values in table.items()}, embeddings="int8-row")
    assert (~prepare(part).quantized).sum() == len(SIZES)


def test_the_penalty_is_the_loss_above_the_same_model_in_16_bits():
    table = simulate_table()
    runs = prepare(table)
    for model in np.unique(runs.model):
        rows = runs.model == model
        expected = runs.loss[rows] - runs.loss[rows & (runs.format == "bf16")]
        np.testing.assert_array_equal(runs.penalty[rows], expected)


def test_a_loss_that_is_not_finite_is_refused_by_name():
    table = simulate_table()
    table["loss"][3] = np.nan
    with pytest.raises(LawError, match=r"^prose-94k at int4-b64: its loss is nan\. Remove that run from the store\.$"):
        prepare(table)


def test_runs_with_other_windows_are_no_one_protocol():
    table = simulate_table()
    table["window_losses"][3] = table["window_losses"][3][:-1]
    with pytest.raises(LawError, match=r"^runs of one protocol have 63 and 64 windows"):
        prepare(table)


def test_an_empty_table_is_refused():
    table = {name: values[:0] for name, values in simulate_table().items()}
    with pytest.raises(LawError, match=r"^the store holds no finished run"):
        choose_slice(table)


def test_the_model_that_teaches_the_others_counts_as_taught_by_itself_and_by_it():
    table = simulate_table(formats=("bf16", "int2-b64"))
    big = table["model"] == "prose-5.1m"
    low = table["k"] < 16
    both = {name: np.concatenate([values, values[low & ~big]]) for name, values in table.items()}
    own, taught = "qat-839k", "qat-839k-prose-5.1m"
    for name_of_big in (own, taught):
        first = np.where(low, np.where(big, name_of_big, taught), "none")
        both["method"] = np.concatenate([first, np.full((low & ~big).sum(), own)])
        for method in (own, taught):
            part, chosen = choose_slice(both, method=method)
            assert chosen["method"] == method
            assert sorted(part["model"][part["k"] < 16].tolist()) == sorted(size.name for size in SIZES)
            others = part["method"][(part["k"] < 16) & (part["model"] != "prose-5.1m")]
            assert set(others.tolist()) == {method}


def test_a_method_without_its_length_stands_for_all_lengths_of_one_teacher():
    table = simulate_table(formats=("bf16", "int2-b64"))
    low = table["k"] < 16
    methods = ("qat-839k", "qat-210k", "qat-839k-big", "qat-210k-big", "rtn")
    parts = [{name: values[low] for name, values in table.items()} | {"method": np.full(low.sum(), name)} for name in methods]
    both = {name: np.concatenate([values[~low], *(part[name] for part in parts)]) for name, values in table.items()}
    for asked, found in {"qat": methods[:2], "qat-big": methods[2:4], "qat-210k": methods[1:2], "rtn": methods[4:]}.items():
        part, chosen = choose_slice(both, method=asked)
        assert chosen["method"] == asked
        assert {*part["method"][part["k"] < 16].tolist()} == {*found}
    with pytest.raises(LawError, match=r"^method 'qat-small' has no finished run\. The store has: .*qat-839k-big"):
        choose_slice(both, method="qat-small")
