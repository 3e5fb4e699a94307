"""One writer to a store at a time, on this machine, through a lock that the kernel frees however its holder dies."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kbit.errors import StoreError


@contextmanager
def only_writer(store: Path) -> Iterator[None]:
    """Hold the lock of `store`, the file beside it whose name ends in -lock, and remove it at the end.

    Raises StoreError where another process holds it, or where it cannot be made.
    """
    lock = store.with_name(store.name + "-lock")
    handle = _lock(store, lock)
    while not _is_at(lock, handle):  # its last holder removed it between our opening and locking it: then it locks nothing
        os.close(handle)
        handle = _lock(store, lock)
    try:
        yield
    finally:
        with suppress(OSError):
            lock.unlink()
        os.close(handle)


def _lock(store: Path, lock: Path) -> int:
    """An open and locked handle of the file `lock`."""
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise StoreError(f"store {store}: {error.strerror} ({lock}). Check the path and who may write there.") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise StoreError(f"store {store}: another study is writing to it. Wait until it ends, or name another store.") from None
    except OSError as error:
        os.close(handle)
        raise StoreError(
            f"store {store}: this file system has no locks ({error.strerror}). Name a store on a local disk."
        ) from None
    return handle


def _is_at(lock: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(lock))
    except FileNotFoundError:
        return False
