"""Which runs belong together, and what a format adds to 16 bits."""

from __future__ import annotations

import numpy as np
import pytest

from kbit.report.runs import Z95, View, granularity_of, lines, main_series, rows_of, series_of, views
from tests.laws.simulate import SIZES, simulate_table

BOOKS = View("prose", "books", "int8-row", "total")


@pytest.mark.parametrize(
    ("fmt", "method", "series"),
    [
        ("int4-b64", "rtn", "int-b64"),
        ("int4-b64-asym-s8", "rtn", "int-b64-asym-s8"),
        ("fp4e2m1-b32", "rtn", "fp-b32"),
        ("fp4e3m0-b32", "rtn", "fp e3m0-b32"),
        ("table4:mine-row", "rtn", "table:mine-row"),
        ("ternary-b64", "rtn", "ternary-b64"),
        ("nf3-b64", "gptq", "nf-b64 (gptq)"),
        ("bf16", "none", "bf16"),
    ],
)
def test_a_series_is_the_format_without_its_k(fmt, method, series):
    assert series_of(fmt, method) == series


@pytest.mark.parametrize(("fmt", "part"), [("int4-b64-asym", "b64"), ("int8-row", "row"), ("nf4-tensor", "tensor"), ("bf16", "")])
def test_the_granularity_is_read_from_the_format(fmt, part):
    assert granularity_of(fmt) == part


def test_the_page_opens_with_most_runs_and_quantized_embeddings(table):
    assert views(table)[0] == BOOKS
    assert [view.axis for view in views(table)[:2]] == ["total", "linear"]
    assert {(view.protocol, view.embeddings) for view in views(table)} == {
        ("books", "int8-row"),
        ("books", "bf16"),
        ("textbooks", "int8-row"),
    }


def test_quantized_embeddings_come_first_when_both_have_as_many_runs():
    assert views(simulate_table(embeddings=("bf16", "int8-row"), windows=4))[0].embeddings == "int8-row"


def test_an_axis_says_which_bits_count(table):
    total, linear = (rows_of(table, View("prose", "books", "int8-row", axis)) for axis in ("total", "linear"))
    np.testing.assert_array_equal(total["bits"], total["total_bits"])
    np.testing.assert_array_equal(linear["bits"], linear["linear_bits"])


def test_rows_point_into_the_table(table):
    rows = rows_of(table, BOOKS)
    np.testing.assert_array_equal(table["run"][rows["row"]], rows["run"])


def test_lines_hold_the_longest_training_and_the_first_seed(table):
    rows = rows_of(table, BOOKS)
    main = rows["main"]
    assert set(rows["training_tokens"][main]) == {8388608.0}
    assert set(rows["seed"][main]) == {0}
    assert (rows["training_tokens"][~main] < 8e6).any()
    assert (rows["seed"][~main] == 1).any()


def test_added_is_the_difference_to_16_bits_of_the_same_model_and_its_error_is_paired(table):
    rows = rows_of(table, BOOKS)
    i = int(np.flatnonzero((rows["model"] == "prose-754k") & (rows["format"] == "int3-b64"))[0])
    base = int(np.flatnonzero((rows["model"] == "prose-754k") & (rows["format"] == "bf16"))[0])
    assert rows["added"][i] == pytest.approx(rows["bits_per_byte"][i] - rows["bits_per_byte"][base])
    difference = (rows["window_losses"][i] - rows["window_losses"][base]) * rows["bits_per_byte"][i] / rows["loss"][i]
    assert rows["added_stderr"][i] == pytest.approx(difference.std(ddof=1) / len(difference) ** 0.5)
    assert rows["added"][base] == 0


def test_the_band_leaves_out_what_all_windows_share(table):
    rows = rows_of(table, BOOKS)
    plain = Z95 * rows["loss_stderr"] * rows["bits_per_byte"] / rows["loss"]
    fine = rows["k"] > 3
    assert (rows["band"][fine] < 0.5 * plain[fine]).all()


def test_a_16_bit_run_with_other_embeddings_stands_in_where_there_is_no_other():
    table = simulate_table(embeddings=("bf16", "int8-row"), windows=4)
    keep = (table["k"] < 16) | (table["embeddings"] == "bf16")
    rows = rows_of({name: column[keep] for name, column in table.items()}, BOOKS)
    assert np.isfinite(rows["added"]).all()
    assert set(rows["embeddings"][rows["k"] == 16]) == {"bf16"}


def test_without_16_bits_nothing_is_said_of_costs():
    table = simulate_table(formats=("int3-b64", "int4-b64"), windows=4)
    assert np.isnan(rows_of(table, BOOKS)["added"]).all()


def test_a_line_per_k_from_small_to_large(table):
    rows = rows_of(table, BOOKS)
    own = {name: column[rows["series"] == "int-b64"] for name, column in rows.items()}
    found = dict(lines(own))
    assert list(found) == list(range(1, 9))
    for line in found.values():
        assert line["model"].tolist() == [size.name for size in SIZES]


def test_the_main_series_has_most_widths(table):
    assert main_series(rows_of(table, BOOKS))[0] == "int-b64"
