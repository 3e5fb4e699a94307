"""The peak of memory is that of the work since it was restarted, not of all that the process did before."""

from __future__ import annotations

import numpy as np
import psutil
import pytest

from kbit.recipes import peak
from kbit.recipes.peak import peak_bytes, restart_peak

MIB = 2**20


def touch(mebibytes: int) -> None:
    np.ones(mebibytes * MIB, dtype=np.uint8)


def test_a_peak_holds_what_was_touched_and_freed():
    restart_peak()
    before = psutil.Process().memory_info().rss
    touch(200)
    assert 195 * MIB <= peak_bytes() - before <= 230 * MIB


@pytest.mark.skipif(not peak._CLEAR.exists(), reason="this system cannot restart the peak")
def test_an_earlier_peak_is_forgotten():
    touch(200)
    high = peak_bytes()
    restart_peak()
    touch(50)
    assert peak_bytes() < high - 100 * MIB


def test_without_proc_the_peak_of_the_process_stands_in(monkeypatch, tmp_path):
    monkeypatch.setattr(peak, "_CLEAR", tmp_path / "missing" / "clear_refs")
    monkeypatch.setattr(peak, "_STATUS", tmp_path / "missing" / "status")
    restart_peak()
    held = np.ones(64 << 20, dtype=np.uint8)
    del held  # the peak had it, and the kernel counts in batches of less
    assert peak_bytes() >= psutil.Process().memory_info().rss
