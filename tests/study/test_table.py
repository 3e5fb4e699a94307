"""The table holds one entry per finished run, under the names that laws, planner and report read."""

from __future__ import annotations

import csv
import re
import sqlite3
import subprocess
import sys

import numpy as np
import pytest

from kbit.errors import StoreError
from kbit.study import read_table, write_csv
from kbit.study.store import Store
from kbit.study.table import OBJECTS
from tests.laws.simulate import simulate_table
from tests.study.runs import LLAMA, outcome


@pytest.fixture
def store(tmp_path):
    with Store.writing(tmp_path / "runs.db") as store:
        store.record(outcome(2, parameters_linear=754_000, model="prose-754k", training_tokens=None))
        store.record(outcome(1))
        store.record(outcome(3, error="failed"))
    return tmp_path / "runs.db"


def test_each_finished_run_is_an_entry_small_models_first(store):
    table = read_table(store)
    assert table["run"].tolist() == [outcome(1).hash, outcome(2).hash]
    assert table["model"].tolist() == ["prose-94k", "prose-754k"]
    assert {len(column) for column in table.values()} == {2}


def test_columns_hold_what_was_recorded(store):
    table = read_table(store)
    first = outcome(1)
    assert (table["k"][0], table["block"][0], table["codebook"][0], table["embeddings"][0]) == (4, 64, "int", "int8-row")
    assert (table["loss"][0], table["loss_stderr"][0]) == first.measurements["loss"]
    assert table["total_bits"][0] == 1e6 + 1
    assert np.isnan(table["kld_max"][0])
    assert np.isnan(table["kld_mean"][0])  # never measured
    np.testing.assert_array_equal(np.isnan(table["training_tokens"]), [False, True])
    np.testing.assert_array_equal(table["window_losses"][0], first.window_losses)
    assert table["architecture"][0] == LLAMA
    assert table["seconds"].dtype == np.float64
    assert table["parameters"].dtype == np.int64


def test_every_column_that_the_laws_are_tested_with_is_there(store):
    missing = simulate_table().keys() - read_table(store).keys()
    assert not missing


def test_a_store_without_a_finished_run_says_how_to_fill_it(tmp_path):
    path = tmp_path / "runs.db"
    with Store.writing(path) as store:
        store.record(outcome(1, error="failed"))
    with pytest.raises(StoreError) as fault:
        read_table(path)
    assert str(fault.value) == f"store {path}: it has no finished run. Fill it with: kbit study GRID.yaml --store {path}"


@pytest.mark.parametrize(
    "damage", ["about = '{}'", "about = '[]'", "about = 'x'", "spec = ''", "seconds = 'long'", "peak_bytes = x'00'"]
)
def test_a_row_of_another_make_is_refused(store, damage):
    with sqlite3.connect(store) as connection:
        connection.execute(f"UPDATE runs SET {damage}")
    with pytest.raises(
        StoreError, match=re.escape(f"store {store}: a row is damaged. Restore the file, or start again with a new store.")
    ):
        read_table(store)


def test_the_csv_holds_the_plain_columns(store, tmp_path):
    table = read_table(store)
    write_csv(table, tmp_path / "runs.csv")
    with open(tmp_path / "runs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == table["model"].tolist()
    assert [float(row["loss"]) for row in rows] == table["loss"].tolist()
    assert rows[1]["training_tokens"] == ""
    assert not set(OBJECTS) & rows[0].keys()


def test_a_store_is_read_without_torch(store):
    program = f"import sys; from kbit.study import read_table; read_table({str(store)!r}); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "False\n"
