"""Bytes of stored tensors: read into fresh memory, mapped, or hashed."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from kbit.checkpoints.json_file import DAMAGED
from kbit.checkpoints.safetensors_header import DTYPES, Entry, quoted
from kbit.errors import CheckpointError

HASH_CHUNK = 2**20  # bytes; stays in a core's cache


def read_tensor(entry: Entry) -> Tensor:
    """The tensor of `entry` in memory of its own.

    Read, not mapped: what is read counts as this process's memory only while the tensor lives, and a file that shrinks
    meanwhile is an error, where a touched map would kill the process.
    """
    dtype = torch_dtype(entry)
    tensor = torch.empty(entry.shape, dtype=dtype)
    if entry.nbytes:
        read_into(entry, bytes_of(tensor))
    return tensor


def bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor, writable, not copied."""
    return memoryview(tensor.view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]  # numpy's stubs hide the buffer


def map_tensor(entry: Entry) -> Tensor:
    """The tensor of `entry` as a private map of the file: a page is read when it is touched; writing never reaches the file."""
    dtype = torch_dtype(entry)
    if not entry.nbytes:
        return torch.empty(entry.shape, dtype=dtype)
    page = entry.offset - entry.offset % mmap.ALLOCATIONGRANULARITY
    with entry.path.open("rb") as file:
        try:
            pages = mmap.mmap(file.fileno(), entry.offset - page + entry.nbytes, access=mmap.ACCESS_COPY, offset=page)
        except (OSError, ValueError):  # ValueError: the file is now shorter than its header said
            raise _shrunk(entry) from None
    flat = torch.frombuffer(pages, dtype=torch.uint8, count=entry.nbytes, offset=entry.offset - page)
    return flat.view(dtype).view(entry.shape)


def torch_dtype(entry: Entry) -> torch.dtype:
    """The torch dtype of `entry`; CheckpointError for the types of 4 and 6 bits, which torch cannot hold."""
    dtype = DTYPES[entry.dtype][1]
    if dtype is None:
        raise CheckpointError(
            f"{entry.path}: tensor {quoted(entry.name)} has the dtype {entry.dtype}, which torch cannot hold. "
            "Give the model in 16 bits, before it was quantized."
        )
    return dtype


def read_into(entry: Entry, out: memoryview) -> None:
    """Fill `out` with the first len(out) bytes of `entry`."""
    try:
        with entry.path.open("rb", buffering=0) as file:
            file.seek(entry.offset)
            done = 0
            while done < len(out):
                count = file.readinto(out[done:])
                if not count:
                    raise _shrunk(entry)
                done += count
    except OSError as error:
        raise _unreadable(entry, error) from None


def fingerprint(entries: Iterable[Entry], *, also: str = "") -> str:
    """SHA-256 over names, dtypes, shapes and bytes of `entries`, then `also`, in hexadecimal.

    It does not depend on the order of the tensors or on the files that they are spread over: each tensor is hashed by
    itself, on as many threads as help, then the sorted lines "name dtype shape digest".
    """
    workers = min(4, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        lines = sorted(pool.map(_digest_line, entries))
    return hashlib.sha256(("\n".join(lines) + "\n" + also).encode()).hexdigest()


def _digest_line(entry: Entry) -> str:
    digest, buffer = hashlib.sha256(), bytearray(min(HASH_CHUNK, entry.nbytes))
    try:
        with entry.path.open("rb", buffering=0) as file:
            file.seek(entry.offset)
            left = entry.nbytes
            while left:
                count = file.readinto(memoryview(buffer)[:left])
                if not count:
                    raise _shrunk(entry)
                digest.update(memoryview(buffer)[:count])
                left -= count
    except OSError as error:
        raise _unreadable(entry, error) from None
    return f"{entry.name!r} {entry.dtype} {entry.shape} {digest.hexdigest()}"


def _shrunk(entry: Entry) -> CheckpointError:
    return CheckpointError(f"{entry.path}: ends inside tensor {quoted(entry.name)}; it shrank after it was opened. {DAMAGED}")


def _unreadable(entry: Entry, error: OSError) -> CheckpointError:
    return CheckpointError(f"{entry.path}: cannot be read ({error.strerror}). Check the disk and the file's permissions.")
