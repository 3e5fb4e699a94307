"""The native decoder: the modules' logits, and the same bits however it is called and whatever runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import kbit
from kbit import kernels
from kbit.errors import KernelError, ModelError
from kbit.models.decoder import NATIVE, Decoder, why_not_native
from tests.tiny_models import VOCABULARY

KINDS = ["llama", "llama-tied", "llama-ragged", "mistral", "qwen2", "qwen3"]
CAPACITY = 64


def tokens(count: int = 40) -> Tensor:
    """Random ids."""
    return torch.randint(0, VOCABULARY, (count,), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_the_modules(written: Callable[[str], Path], kind: str, packed: bool) -> None:
    model = kbit.load(str(written(kind)))
    if packed:
        model = kbit.quantize(model, "int4-b64-asym", packed=True)
    assert why_not_native(model, CAPACITY) is None
    with torch.no_grad():
        expected = model(tokens()[None]).logits[0]
    decoder = Decoder(model, CAPACITY, "exact")
    torch.testing.assert_close(decoder(tokens(), every=True), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert decoder.position == 40


@pytest.mark.parametrize("compute", ["int8", "exact"])
def test_the_same_bits_however_tokens_are_cut_and_whatever_runs_them(written: Callable[[str], Path], compute: str) -> None:
    model = kbit.quantize(kbit.load(str(written("llama-ragged"))), "nf3-b64", packed=True)
    decoder = Decoder(model, 700, compute)
    ids = tokens(600)  # more than go through the steps together
    expected = decoder(ids, every=True)
    before = kernels.isa()
    threads = torch.get_num_threads()
    try:
        for isa in [found.name for found in kernels.isas() if found.runs] if compute == "int8" else [before]:
            kernels.set_isa(isa)
            for count in (1, 2, 3):
                torch.set_num_threads(count)
                decoder.rewind(0)
                parts = [decoder(part, every=True) for part in ids[:60].split(17)]
                parts += [decoder(ids[i : i + 1]) for i in range(60, 80)]
                assert torch.equal(torch.cat(parts), expected[:80]), (isa, count)
    finally:
        kernels.set_isa(before)
        torch.set_num_threads(threads)
    decoder.rewind(0)
    assert torch.equal(decoder(ids), expected[-1:])


def test_what_was_rewound_is_forgotten(written: Callable[[str], Path]) -> None:
    decoder = Decoder(kbit.load(str(written("llama"))), CAPACITY, "exact")
    decoder(tokens(10))
    after = decoder(torch.tensor([5]))
    decoder(torch.tensor([6, 7, 8]))
    decoder.rewind(10)
    assert torch.equal(decoder(torch.tensor([5])), after)
    with pytest.raises(KernelError, match="position beyond"):
        decoder.rewind(12)


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox"])
def test_other_kinds_are_refused_with_the_reason(written: Callable[[str], Path], kind: str) -> None:
    model = kbit.load(str(written(kind)))
    with pytest.raises(ModelError, match=r"does not run natively: .* is none of LlamaForCausalLM"):
        Decoder(model, CAPACITY)


def test_positions_that_change_with_the_length_are_refused(written: Callable[[str], Path]) -> None:
    model = kbit.load(str(written("llama")))
    model.config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    assert "dynamic" in str(why_not_native(model, CAPACITY))


def test_a_full_cache_and_foreign_tokens_are_refused(written: Callable[[str], Path]) -> None:
    decoder = Decoder(kbit.load(str(written("llama"))), 8)
    with pytest.raises(ModelError, match=r"0 \+ 9 tokens do not fit a cache of 8"):
        decoder(tokens(9))
    for wrong in (-1, VOCABULARY):
        with pytest.raises(KernelError, match="token that is not of its vocabulary"):
            decoder(torch.tensor([1, wrong]))
    assert decoder.position == 0


def test_every_native_kind_is_tested(written: Callable[[str], Path]) -> None:
    assert {type(kbit.load(str(written(kind)))).__name__ for kind in KINDS} == set(NATIVE)
