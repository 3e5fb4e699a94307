"""The peak of this process's resident memory, from a moment on."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def restart_peak() -> None:
    """Let the peak begin anew at what is resident now, where the system can (Linux); elsewhere it stays the process's."""
    with suppress(OSError):
        _CLEAR.write_text("5")  # proc(5): resets VmHWM


def peak_bytes() -> int:
    """The most bytes that were resident at once since `restart_peak`: weights, texts, shared logits and libraries alike."""
    with suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])  # "VmHWM:   312345 kB"
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most  # macOS counts bytes, others kibibytes
