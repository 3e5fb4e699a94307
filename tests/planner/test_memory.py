"""Sizes as users write them, and the bytes of a model at work."""

from __future__ import annotations

import pytest

from kbit.errors import BudgetError
from kbit.planner.memory import activation_bytes, budget_text, footprint, kv_cache_bytes, parse_size
from tests.laws.simulate import SIZES

# Llama 3.1 8B, whose KV cache is known to take 128 KiB a token: 32 layers, 8 KV heads of 128, keys and values, 2 bytes.
LLAMA_8B = {
    "layers": 32, "hidden": 4096, "intermediate": 14336, "heads": 32, "kv_heads": 8, "head_dim": 128,
    "vocabulary": 128256, "context": 131072, "kv_bytes_per_token": 2 * 32 * 8 * 128 * 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "total"),
    [
        ("2GiB", 2 * 2**30),
        ("2gib", 2 * 2**30),
        ("2GB", 2 * 10**9),
        ("2G", 2 * 10**9),
        ("2 MB", 2 * 10**6),
        ("512KiB", 512 * 1024),
        ("1.5kB", 1500),
        (".5 MiB", 2**19),
        ("2000000", 2_000_000),
        ("2000000B", 2_000_000),
        ("1TiB", 2**40),
    ],
)
def test_a_size_is_read_in_decimal_and_in_binary_units(text, total):
    assert parse_size(text) == total


@pytest.mark.parametrize("text", ["", "GB", "2 gigs", "2XB", "-1GB", "2iB", "1e9", "0x10", "two", "2GBB", "nan", "١", "9" * 400])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(BudgetError, match=r"is not a size\. Write it as 2GiB, 1\.5GB, 512KiB or in bytes\.$"):
        parse_size(text)


@pytest.mark.parametrize("text", ["0", "0GB", "0.4"])
def test_less_than_one_byte_is_refused(text):
    with pytest.raises(BudgetError, match=r"is less than one byte\."):
        parse_size(text)


@pytest.mark.parametrize(
    ("total", "text"), [(2 * 2**30, "2 GiB"), (2 * 10**6, "2.00 MB"), (512 * 1024, "512 KiB"), (1536 * 2**20, "1536 MiB")]
)
def test_a_budget_prints_as_its_user_would_write_it(total, text):
    assert budget_text(total) == text


def test_the_kv_cache_of_llama_8b_takes_128_kib_a_token_in_16_bits():
    assert kv_cache_bytes(LLAMA_8B, 1, 1, 16) == 128 * 1024
    assert kv_cache_bytes(LLAMA_8B, 8192, 1, 16) == 2**30
    assert kv_cache_bytes(LLAMA_8B, 8192, 4, 8) == 2 * 2**30


def test_activations_are_the_largest_buffers_alive_at_once():
    # Of one token the logits are largest: 128256 floats beside residual and norm; of 512 the MLP: gate, other half, product.
    assert activation_bytes(LLAMA_8B, 1, 1) == 4 * (128256 + 2 * 4096)
    assert activation_bytes(LLAMA_8B, 512, 1) == 4 * 512 * (2 * 4096 + 3 * 14336)
    assert activation_bytes(LLAMA_8B, 512, 3) == 3 * activation_bytes(LLAMA_8B, 512, 1)


def test_a_footprint_adds_up_and_reads_prompts_in_the_longest_chunk_that_fits():
    architecture = SIZES[3].architecture
    need = footprint(10**6, architecture, 2 * 10**6, context=4096, batch=1, kv_bits=16)
    assert need.context == 256  # the longest that the model was made for
    assert need.kv_cache == 256 * 3072
    assert need.total == 10**6 + 256 * 3072 + activation_bytes(architecture, 1, 1)
    spare = 2 * 10**6 - need.weights - need.kv_cache
    assert need.chunk & (need.chunk - 1) == 0
    assert activation_bytes(architecture, need.chunk, 1) <= spare < activation_bytes(architecture, 2 * need.chunk, 1)
    assert footprint(10**6, architecture, 10**9, context=4096, batch=1, kv_bits=16).chunk == 256
