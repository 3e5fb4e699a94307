"""--threads, for the commands that measure or generate."""

from __future__ import annotations


def use_threads(threads: int | None) -> None:
    """Let torch and the kernels have so many threads; None leaves both as they are.

    Raises KernelError where KBIT_NUM_THREADS says another number, since that goes before torch's.
    """
    import torch

    from kbit import kernels
    from kbit.errors import KernelError

    if threads is None:
        return
    torch.set_num_threads(threads)
    if (other := kernels.threads()) != threads:
        raise KernelError(f"--threads {threads} is not {other}, which KBIT_NUM_THREADS says. Leave one of the two out.")
