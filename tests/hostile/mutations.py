"""Ways in which files are damaged, by chance and by intent; the same seed makes the same damage."""

from __future__ import annotations

import random
from pathlib import Path

NUMBERS = (0, 1, 2, 7, 31, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
TEXTS = (b"", b"-1", b"0", b"1e9", b"NaN", b"null", b"[]", b"{}", b'""', b"\xff", b"\0", b"99999999999999999999", b"true")


def mutate(content: bytes, rng: random.Random, *, head: int = 4096) -> bytes:
    """`content` with one to three changes; most fall in the first `head` bytes, where headers are."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        content = rng.choice(CHANGES)(content, rng, min(len(content), head if rng.random() < 0.8 else len(content)))
    return content


def replace(path: Path, content: bytes) -> None:
    """A new file at `path`; to write over the old one costs a flush of the disk on ext4, 10 ms."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def truncate(content: bytes, rng: random.Random, span: int) -> bytes:
    """Cut anywhere."""
    return content[: rng.randrange(len(content) + 1)]


def lengthen(content: bytes, rng: random.Random, span: int) -> bytes:
    """Bytes added at the end."""
    return content + rng.randbytes(rng.choice((1, 7, 32, 1000)))


def flip_bit(content: bytes, rng: random.Random, span: int) -> bytes:
    """One bit, as memory and disks do."""
    at = rng.randrange(span) if span else 0
    return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :] if span else content


def zero(content: bytes, rng: random.Random, span: int) -> bytes:
    """A run of zeros, as lost sectors are."""
    at, count = rng.randrange(span + 1), rng.choice((1, 8, 64, 512))
    return content[:at] + bytes(min(count, len(content) - at)) + content[at + count :]


def number(content: bytes, rng: random.Random, span: int) -> bytes:
    """A length or count that lies: 4 or 8 bytes replaced by an extreme number."""
    at, size = rng.randrange(span + 1), rng.choice((4, 8))
    lie = (rng.choice(NUMBERS) % 2 ** (8 * size)).to_bytes(size, "little")
    return (content[:at] + lie + content[at + size :])[: len(content)]


def text(content: bytes, rng: random.Random, span: int) -> bytes:
    """A piece of text replaced by another, such as -1."""
    at = rng.randrange(span + 1)
    return content[:at] + rng.choice(TEXTS) + content[at + rng.randrange(4) :]


def move(content: bytes, rng: random.Random, span: int) -> bytes:
    """A run of bytes copied over another: names and entries that occur twice."""
    start, to, count = rng.randrange(span + 1), rng.randrange(span + 1), rng.randrange(1, 64)
    return (content[:to] + content[start : start + count] + content[to + count :])[: len(content)]


def drop(content: bytes, rng: random.Random, span: int) -> bytes:
    """Some bytes lost in the middle."""
    at = rng.randrange(span + 1)
    return content[:at] + content[at + rng.randrange(1, 40) :]


CHANGES = (truncate, lengthen, flip_bit, flip_bit, zero, number, number, text, move, drop)
