"""The peak of this process's resident memory, from a moment on; and giving back what is free, which keeps it low."""

from __future__ import annotations

import ctypes
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


def give_back_freed() -> None:
    """Give freed memory back to the system, where the C library can (glibc).

    It keeps freed blocks of up to 32 MB for itself, in pieces that the next layer may not fit into: the peak of one and the same
    quantization was 200 or 420 MB, as luck would have it.
    """
    with suppress(OSError, AttributeError, TypeError):  # no glibc: no malloc_trim, or no handle of the program itself
        ctypes.CDLL(None).malloc_trim(0)
