"""The store keeps every finished run through anything, and refuses what is not a store in one line."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import textwrap
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kbit.errors import StoreError
from kbit.study import store as store_module
from kbit.study.store import SCHEMA_VERSION, Outcome, Store, read_outcomes
from tests.study.runs import outcome


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


def written(path: Path, *outcomes: Outcome) -> Path:
    with Store.writing(path) as store:
        for one in outcomes:
            store.record(one)
    return path


def assert_same(found: Outcome, expected: Outcome) -> None:
    for field in fields(Outcome):
        left, right = getattr(found, field.name), getattr(expected, field.name)
        if field.name == "measurements":
            assert left.keys() == right.keys()
            for metric in left:
                np.testing.assert_array_equal(np.array(left[metric], float), np.array(right[metric], float))
        elif isinstance(right, np.ndarray):
            np.testing.assert_array_equal(left, right)
        else:
            assert left == right


def test_what_is_recorded_is_read_back_to_the_last_bit(path):
    runs = [outcome(0), outcome(1, fmt="nf3-b64", model="prose-5.1m"), outcome(2, error="the weights are not finite")]
    for found, expected in zip(read_outcomes(written(path, *runs)), runs, strict=True):
        assert_same(found, expected)


def test_finished_runs_are_known_and_failed_ones_are_to_be_tried_again(path):
    written(path, outcome(0), outcome(1, error="no memory"))
    with Store.writing(path) as store:
        assert store.finished() == {outcome(0).hash}


def test_a_retry_takes_the_place_of_a_failure_and_a_failure_never_that_of_a_finished_run(path):
    written(path, outcome(0, error="first"), outcome(0, error="second"))
    assert [run.error for run in read_outcomes(path)] == ["second"]
    written(path, outcome(0))
    assert_same(read_outcomes(path)[0], outcome(0))
    written(path, outcome(0, error="third"))
    assert_same(read_outcomes(path)[0], outcome(0))


def test_a_finished_run_may_be_replaced_whole(path):
    written(path, outcome(0), replace(outcome(1), hash=outcome(0).hash))
    (found,) = read_outcomes(path)
    assert found.measurements["total_bits"] == (1e6 + 1, None)


def test_only_the_one_file_remains(path):
    written(path, outcome(0))
    assert os.listdir(path.parent) == ["runs.db"]
    with open(path, "rb") as file:
        assert (
            file.read(20)[18:20] == b"\x01\x01"
        )  # no write-ahead log is needed to read it: it can lie on a disk that is read only


def test_a_reader_reads_while_a_study_writes(path):
    with Store.writing(path) as store:
        store.record(outcome(0))
        assert len(read_outcomes(path)) == 1
        store.record(outcome(1))
        assert len(read_outcomes(path)) == 2


def test_a_second_writer_is_refused_and_the_first_goes_on(path):
    with Store.writing(path) as store:
        with pytest.raises(StoreError, match="another study is writing to it"), Store.writing(path):
            pass
        store.record(outcome(0))
    with Store.writing(path) as store:
        assert len(store.finished()) == 1


def test_a_store_that_another_program_holds_is_refused(path, monkeypatch):
    monkeypatch.setattr(store_module, "BUSY_SECONDS", 0.05)
    written(path, outcome(0))
    with Store.writing(path) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=r"another program holds it\. Close that program"):
            store.record(outcome(1))
        other.close()
        store.record(outcome(1))
    assert len(read_outcomes(path)) == 2


def test_a_full_disk_loses_no_finished_run(path):
    with Store.writing(path) as store:
        store.record(outcome(0))
        pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
        store._connection.execute(f"PRAGMA max_page_count = {pages}")  # SQLite then answers as it does on a full disk
        with pytest.raises(StoreError, match=r"the disk is full\. Free some space, then start the same study again"):
            all(store.record(outcome(number)) is None for number in range(1, 100))
    kept = read_outcomes(path)
    for found in kept:
        assert_same(found, outcome(int(found.hash, 16)))
    assert len(kept) >= 1


def test_a_run_that_breaks_while_it_is_written_is_not_there(path):
    class Unwritable:
        def astype(self, dtype):
            raise KeyboardInterrupt

    with Store.writing(path) as store:
        store.record(outcome(0))
        with pytest.raises(KeyboardInterrupt):
            store.record(replace(outcome(1), window_losses=Unwritable()))
        store.record(outcome(2))
    assert [int(run.hash, 16) for run in read_outcomes(path)] == [0, 2]


def test_a_writer_that_is_killed_loses_nothing_and_leaves_no_lock(path):
    program = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        from kbit.study.store import Store
        from tests.study.runs import outcome
        with Store.writing(Path(sys.argv[1])) as store:
            for number in range(7):
                store.record(outcome(number))
            store._connection.execute("BEGIN IMMEDIATE")
            store._insert(outcome(7))
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    killed = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [int(run.hash, 16) for run in read_outcomes(path)] == list(range(7))
    with Store.writing(path) as store:
        assert len(store.finished()) == 7
    assert os.listdir(path.parent) == ["runs.db"]


def test_a_store_of_another_version_is_refused_with_both_versions(path):
    written(path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET value = '7'")
    expected = (
        f"store {path}: its version is 7, and this kbit reads version {SCHEMA_VERSION}. "
        "Use the kbit that wrote it, or start a new store."
    )
    with pytest.raises(StoreError) as fault:
        read_outcomes(path)
    assert str(fault.value) == expected
    with pytest.raises(StoreError) as fault, Store.writing(path):
        pass
    assert str(fault.value) == expected


@pytest.mark.parametrize(
    "statement", ["CREATE TABLE notes (text)", "CREATE TABLE runs (hash)", "CREATE VIEW runs AS SELECT 1 AS hash"]
)
def test_another_program_s_database_is_refused_and_left_alone(path, statement):
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
    before = path.read_bytes()
    for use in (read_outcomes, lambda path: written(path)):
        with pytest.raises(StoreError, match=r"an SQLite file, but no store of kbit\. Name another one\."):
            use(path)
    assert path.read_bytes() == before


def test_tables_of_another_make_and_triggers_are_refused(path):
    written(path, outcome(0))
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TRIGGER surprise BEFORE DELETE ON runs BEGIN SELECT 1; END")
    with pytest.raises(StoreError, match="its tables are not those of version 1"):
        read_outcomes(path)


def test_a_view_that_the_user_added_does_no_harm(path):
    written(path, outcome(0))
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE VIEW best AS SELECT * FROM measurements WHERE metric = 'loss'")
    assert len(read_outcomes(path)) == 1


@pytest.mark.parametrize(
    "content", [b"no database at all, but long enough to be looked at by SQLite. " * 40, b"SQLite format 3\0" + b"\xff" * 500]
)
def test_a_file_that_is_no_database_is_refused_and_left_alone(path, content):
    path.write_bytes(content)
    for use in (read_outcomes, lambda path: written(path)):
        with pytest.raises(StoreError, match=rf"store {path}: "):
            use(path)
    assert path.read_bytes() == content


def test_an_empty_file_holds_no_store_yet_but_may_become_one(path):
    path.touch()
    with pytest.raises(StoreError, match="no store of kbit"):
        read_outcomes(path)
    assert len(read_outcomes(written(path, outcome(0)))) == 1


def test_a_missing_store_folder_or_a_folder_as_a_store_is_refused(path):
    with pytest.raises(
        StoreError, match=rf"store {path}: there is no such file\. Make it with: kbit study GRID\.yaml --store {path}"
    ):
        read_outcomes(path)
    with (
        pytest.raises(StoreError, match=r"the folder .*missing does not exist"),
        Store.writing(path.parent / "missing" / "runs.db"),
    ):
        pass
    path.mkdir()
    with pytest.raises(StoreError), Store.writing(path):
        pass


def test_faults_of_the_study_s_own_are_not_laid_on_the_store(path):
    with pytest.raises(FileNotFoundError), Store.writing(path):
        (path.parent / "weights.safetensors").read_bytes()


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("sound") / "runs.db"
    return written(path, *(outcome(number) for number in range(6)), outcome(6, error="failed")).read_bytes()


def runs_or_refusal(path: Path) -> str:
    try:
        return f"{len(read_outcomes(path))} runs"
    except StoreError as error:
        return str(error)


cuts = st.integers(0, 2**20)
damages = st.lists(st.tuples(cuts, st.binary(min_size=1, max_size=8)), max_size=4)


def check_that_damage_is_survived(folder: Path, sound: bytes, cut: int | None, damages: list[tuple[int, bytes]]) -> None:
    path = folder / "damaged.db"
    content = bytearray(sound)
    for at, change in damages:
        at %= len(content)
        content[at : at + len(change)] = change[: len(content) - at]
    path.write_bytes(bytes(content[: None if cut is None else cut % len(content)]))
    assert re.fullmatch(rf"[0-7] runs|store {re.escape(str(path))}: [^\n]+", runs_or_refusal(path))


@given(cut=st.none() | cuts, damages=damages)
@example(cut=None, damages=[(18, b"\x03\x03")])  # a file format of the future
@settings(max_examples=200, deadline=None)
def test_a_damaged_store_is_read_or_refused_in_one_line(sound, tmp_path_factory, cut, damages):
    check_that_damage_is_survived(tmp_path_factory.getbasetemp(), sound, cut, damages)


@pytest.mark.slow
@given(cut=st.none() | cuts, damages=damages)
@settings(max_examples=5000, deadline=None)
def test_thousands_of_damaged_stores_are_read_or_refused_in_one_line(sound, tmp_path_factory, cut, damages):
    check_that_damage_is_survived(tmp_path_factory.getbasetemp(), sound, cut, damages)
