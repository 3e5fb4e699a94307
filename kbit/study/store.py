"""The store of a study: one SQLite file with one writer, in which a run is there whole or not at all."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kbit.errors import StoreError
from kbit.study.lock import only_writer

SCHEMA_VERSION = 1
BUSY_SECONDS = 10.0  # how long to wait for another program that holds the file for a moment

# The statements are compared with the file's own, so that a file of other make is refused before a row is read.
SCHEMA = {
    "meta": "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "runs": """CREATE TABLE runs (
    hash TEXT PRIMARY KEY,   -- of the spec and NUMERICS
    spec TEXT NOT NULL,      -- JSON: what was asked, in all that decides the result
    about TEXT NOT NULL,     -- JSON: names, sizes and training of the model, which do not
    status TEXT NOT NULL CHECK (status IN ('done', 'failed')),
    host TEXT NOT NULL,
    seconds REAL NOT NULL,
    peak_bytes INTEGER NOT NULL,
    error TEXT,              -- one line, where the run failed
    finished TEXT NOT NULL   -- UTC, ISO 8601
) WITHOUT ROWID""",
    "measurements": """CREATE TABLE measurements (
    run TEXT NOT NULL REFERENCES runs (hash) ON DELETE CASCADE,
    metric TEXT NOT NULL,
    value REAL,              -- NULL: not a number
    stderr REAL,
    PRIMARY KEY (run, metric)
) WITHOUT ROWID""",
    "window_losses": """CREATE TABLE window_losses (
    run TEXT PRIMARY KEY REFERENCES runs (hash) ON DELETE CASCADE,
    losses BLOB NOT NULL,    -- little-endian float64: mean nats per token of each window
    tokens BLOB NOT NULL,    -- little-endian int64: tokens scored in each window
    bytes BLOB NOT NULL      -- little-endian int64: bytes of text that those stand for
) WITHOUT ROWID""",
}

BLOBS = ("<f8", "<i8", "<i8")  # dtypes of losses, tokens and bytes of windows


@dataclass(frozen=True)
class Outcome:
    """One run as the store keeps it: what was asked (`spec`, `about`) and what was found."""

    hash: str
    spec: dict[str, Any]
    about: dict[str, Any]
    host: str
    seconds: float
    peak_bytes: int
    finished: str
    error: str | None = None
    measurements: dict[str, tuple[float, float | None]] = field(default_factory=dict)  # metric -> value, standard error
    window_losses: np.ndarray = field(default_factory=lambda: np.empty(0))
    window_tokens: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    window_bytes: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))


class Store:
    """The one writer of a store. Open it with `with Store.writing(path) as store`."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    @classmethod
    @contextmanager
    def writing(cls, path: Path) -> Iterator[Store]:
        """Open or make the store `path` as its only writer.

        Raises StoreError where the file is no store, is one of another version, is damaged, or has a writer already.
        While it is open others may read it (write-ahead log); when it is closed in order, nothing but the one file remains.
        """
        path = Path(path)
        if not path.parent.is_dir():
            raise StoreError(f"store {path}: the folder {path.parent} does not exist. Make it, or name another store.")
        with only_writer(path):
            connection = _open_for_writing(path)
            try:
                yield cls(path, connection)
            finally:
                with suppress(sqlite3.Error):  # a reader is there: the log stays, and the next writer folds it in
                    connection.execute("PRAGMA journal_mode = DELETE")
                connection.close()

    def finished(self) -> set[str]:
        """Hashes of the runs that are done; failed ones are not among them, so that they are tried again."""
        with _one_line(self.path):
            return {row[0] for row in self._connection.execute("SELECT hash FROM runs WHERE status = 'done'")}

    def record(self, outcome: Outcome) -> None:
        """Write one run in one transaction: after it the run survives the death of this process and of the machine.

        A failed run takes the place of an earlier failure of the same hash, never of a finished run.
        """
        with _one_line(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._insert(outcome)
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _insert(self, outcome: Outcome) -> None:
        execute = self._connection.execute
        if outcome.error is not None:
            execute("DELETE FROM runs WHERE hash = ? AND status = 'failed'", (outcome.hash,))
        else:
            execute("DELETE FROM runs WHERE hash = ?", (outcome.hash,))
        status = "done" if outcome.error is None else "failed"
        execute(
            "INSERT OR IGNORE INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                outcome.hash,
                json.dumps(outcome.spec, sort_keys=True),
                json.dumps(outcome.about, sort_keys=True),
                status,
                outcome.host,
                outcome.seconds,
                outcome.peak_bytes,
                outcome.error,
                outcome.finished,
            ),
        )
        if outcome.error is None:
            rows = [(outcome.hash, metric, value, stderr) for metric, (value, stderr) in outcome.measurements.items()]
            self._connection.executemany("INSERT INTO measurements VALUES (?, ?, ?, ?)", rows)
            columns = (outcome.window_losses, outcome.window_tokens, outcome.window_bytes)
            blobs = [column.astype(dtype).tobytes() for column, dtype in zip(columns, BLOBS, strict=True)]
            execute("INSERT INTO window_losses VALUES (?, ?, ?, ?)", (outcome.hash, *blobs))


def read_outcomes(path: Path) -> list[Outcome]:
    """All runs of the store `path`, failed ones too, in the order of their hashes; nothing is written.

    Raises StoreError where there is no such file, or it is no store, is one of another version, or is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise StoreError(f"store {path}: there is no such file. Make it with: kbit study GRID.yaml --store {path}")
    with _one_line(path):
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS)
        try:
            _prepare(connection)
            _check(path, connection)
            connection.execute("BEGIN")  # one state of the file for all three tables, though a study may be writing
            return _read(connection)
        except (ValueError, TypeError, KeyError, OverflowError, MemoryError):
            raise StoreError(f"store {path}: a row is damaged. Restore the file, or start again with a new store.") from None
        finally:
            connection.close()


def _read(connection: sqlite3.Connection) -> list[Outcome]:
    measured: dict[str, dict[str, tuple[float, float | None]]] = {}
    for run, metric, value, stderr in connection.execute("SELECT run, metric, value, stderr FROM measurements"):
        measured.setdefault(run, {})[metric] = (_number(value), None if stderr is None else float(stderr))
    windows = {run: blobs for run, *blobs in connection.execute("SELECT run, losses, tokens, bytes FROM window_losses")}
    columns = "hash, spec, about, host, seconds, peak_bytes, finished, error"
    return [
        Outcome(
            hash=str(hash),
            spec=_mapping(spec),
            about=_mapping(about),
            host=str(host),
            seconds=float(seconds),
            peak_bytes=int(peak_bytes),
            finished=str(finished),
            error=error,
            measurements=measured.get(hash, {}),
            **_windows(windows[hash] if error is None else [b"", b"", b""]),
        )
        for hash, spec, about, host, seconds, peak_bytes, finished, error in connection.execute(
            f"SELECT {columns} FROM runs ORDER BY hash"
        )
    ]


def _windows(blobs: list[bytes]) -> dict[str, np.ndarray]:
    arrays = [np.frombuffer(blob, dtype).astype(dtype[1:]) for blob, dtype in zip(blobs, BLOBS, strict=True)]
    if len({array.shape for array in arrays}) != 1:
        raise ValueError("losses, tokens and bytes of windows differ in number")
    return dict(zip(("window_losses", "window_tokens", "window_bytes"), arrays, strict=True))


def _number(value: object) -> float:
    if value is None:
        return float("nan")
    if not isinstance(value, float | int):
        raise TypeError("a measurement is no number")
    return float(value)


def _mapping(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise TypeError("a spec is no JSON object")
    return value


def _prepare(connection: sqlite3.Connection) -> None:
    """Settings of every connection; a file of unknown origin may run no functions and is checked cell by cell."""
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    connection.execute("PRAGMA foreign_keys = ON")


def _open_for_writing(path: Path) -> sqlite3.Connection:
    with _one_line(path):
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            _prepare(connection)
            _make_or_check(path, connection)
        except BaseException:
            connection.close()
            raise
    return connection


def _make_or_check(path: Path, connection: sqlite3.Connection) -> None:
    if connection.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,):
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        for statement in SCHEMA.values():
            connection.execute(statement)
        connection.execute("INSERT INTO meta VALUES ('schema_version', ?)", (str(SCHEMA_VERSION),))
        connection.execute("COMMIT")
    else:
        _check(path, connection)
        connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # a commit is on the disk when it returns


def _check(path: Path, connection: sqlite3.Connection) -> None:
    """Raise StoreError unless the file is a sound store of SCHEMA_VERSION."""
    there = dict(connection.execute("SELECT name, type FROM sqlite_schema").fetchall())
    if there.get("meta") != "table" or there.get("runs") != "table":
        raise StoreError(f"store {path}: an SQLite file, but no store of kbit. Name another one.")
    row = connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
    version = row[0] if row else "none"
    if version != str(SCHEMA_VERSION):
        raise StoreError(
            f"store {path}: its version is {str(version)[:20]}, and this kbit reads version {SCHEMA_VERSION}. "
            "Use the kbit that wrote it, or start a new store."
        )
    statements = dict(connection.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'table'").fetchall())
    if {name: statements.get(name) for name in SCHEMA} != SCHEMA or "trigger" in there.values():
        raise StoreError(
            f"store {path}: its tables are not those of version {SCHEMA_VERSION}. Restore the file, or start a new store."
        )
    fault = connection.execute("PRAGMA quick_check(1)").fetchone()
    if fault != ("ok",):
        raise sqlite3.DatabaseError("database disk image is malformed")


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Turn what SQLite and the operating system say into one line that says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(f"store {path}: {_mend(error)}") from error
    except OSError as error:
        raise StoreError(f"store {path}: {error.strerror or error}. Check the path and who may write there.") from error


def _mend(error: sqlite3.Error) -> str:
    text = " ".join(str(error).split())
    if "file is not a database" in text:
        return "this is no SQLite file. Name another one."
    if "locked" in text or "busy" in text:
        return "another program holds it. Close that program, then start the same study again: finished runs are kept."
    if "full" in text:
        return "the disk is full. Free some space, then start the same study again: finished runs are kept."
    if "malformed" in text or "corrupt" in text:
        return "the file is damaged. Restore it, or start a new store."
    if "readonly" in text or "unable to open" in text:
        return f"it cannot be opened ({text}). Check the path and who may write there."
    return f"SQLite refuses ({text}). Check the disk, then start the same study again: finished runs are kept."
