"""evaluate() agrees with transformers' own loss, depends on nothing but model and protocol, and changes neither model."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedModel

from kbit.errors import ModelError, TextError
from kbit.evaluation import PROTOCOLS, Protocol, Quality, evaluate, tokenize_windows
from kbit.evaluation.forward import batch_size_for, in_dtype
from tests.tiny_models import tiny_model, tiny_tokenizer

TEXT = "Die Würde des Menschen ist unantastbar. All human beings are born free and equal.\n" * 30
TOKENIZER = tiny_tokenizer()


def quality(model: PreTrainedModel, protocol: Protocol | str | None = None, **options: object) -> Quality:
    return evaluate(model, TEXT, tokenizer=TOKENIZER, protocol=protocol, **options)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "mixtral"])
def test_perplexity_is_transformers_own_loss_on_the_same_windows(kind: str) -> None:
    model = tiny_model(kind)
    for protocol in (Protocol(128), Protocol(48, 32, True), Protocol(64, score="second-half")):
        windows = tokenize_windows(TEXT, TOKENIZER, protocol)
        nats = 0.0
        for ids, first in zip(windows.ids, windows.first, strict=True):
            labels = ids.clone()
            labels[:first] = -100
            with torch.inference_mode():
                nats += float(model(input_ids=ids[None], labels=labels[None]).loss) * (len(ids) - first)
        found = quality(model, protocol)
        assert found.loss == pytest.approx(nats / found.tokens, abs=1e-5)
        assert found.perplexity == pytest.approx(math.exp(nats / found.tokens), rel=1e-5)


def test_gptqs_protocol_is_gptqs_loop() -> None:
    """Frantar et al. 2022, gptq/llama.py: tokenizer's ids of the joined rows, cut in seqlen, mean of the windows' losses."""
    rows = ["", " = Head = \n", "", " A line of text, which goes on and on . \n"] * 30
    adding = tiny_tokenizer()
    adding.add_bos_token = True
    model, seqlen = tiny_model("llama"), 100
    ids = adding("\n\n".join(rows), return_tensors="pt").input_ids
    nlls = []
    for i in range(ids.numel() // seqlen):
        batch = ids[:, i * seqlen : (i + 1) * seqlen]
        with torch.inference_mode():
            logits = model(batch).logits
        loss = torch.nn.CrossEntropyLoss()(logits[:, :-1, :].reshape(-1, logits.shape[-1]), batch[:, 1:].reshape(-1))
        nlls.append(loss.float() * seqlen)
    expected = float(torch.exp(torch.stack(nlls).sum() / (len(nlls) * seqlen)))
    file = "".join(row or " \n" for row in rows)
    found = evaluate(model, file, tokenizer=adding, protocol=replace(PROTOCOLS["gptq"], window=seqlen))
    assert found.perplexity == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_batch_size_changes_no_figure(kind: str) -> None:
    model, reference = tiny_model(kind), tiny_model(kind, seed=1)
    protocol = Protocol(40, score="second-half")
    one = quality(model, protocol, reference=reference, batch_size=1).to_json()
    for batch_size in (3, 7, 1000):
        other = quality(model, protocol, reference=reference, batch_size=batch_size).to_json()
        for key, value in one.items():
            if isinstance(value, float) and "second" not in key:
                assert other[key] == pytest.approx(value, abs=1e-6, rel=1e-6), key


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_against_itself_is_at_distance_zero(dtype: str) -> None:
    model, twin = tiny_model("llama"), tiny_model("llama")
    for reference in (model, twin):
        found = quality(model, Protocol(64, dtype=dtype), reference=reference)
        zero = {key: value for key, value in found.to_json().items() if key.startswith(("kld_", "delta_p_"))}
        assert len(zero) > 40
        assert set(zero.values()) == {0.0}
        assert found.same_top == found.perplexity_ratio == 1
        assert found.ln_perplexity_ratio == found.perplexity_difference == 0
        assert found.ln_perplexity_correlation == pytest.approx(1)


def test_the_dtype_of_the_protocol_is_the_one_computed_in() -> None:
    model = tiny_model("llama")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rounded = tiny_model("llama")
    for parameter in rounded.parameters():
        parameter.data = parameter.data.bfloat16()
    found = [quality(m, Protocol(64, dtype="bfloat16")) for m in (model, rounded)]
    assert found[0].loss == found[1].loss != quality(model, Protocol(64)).loss
    assert json.loads(found[0].protocol.to_json())["dtype"] == "bfloat16"
    assert quality(rounded, Protocol(64)).loss == pytest.approx(found[0].loss, abs=0.02)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_a_cast_copy_keeps_ties_and_float32_buffers() -> None:
    model = tiny_model("llama-tied")
    copy = in_dtype(model, torch.bfloat16)
    assert copy is not model
    assert copy.get_input_embeddings().weight is copy.get_output_embeddings().weight
    assert {p.dtype for p in copy.parameters()} == {torch.bfloat16}
    assert {b.dtype for b in copy.buffers()} == {torch.float32}
    assert in_dtype(model, torch.float32) is model


def test_a_model_in_training_computes_without_dropout_and_goes_on_training() -> None:
    model = tiny_model("gpt2", resid_pdrop=0.5).train()
    assert quality(model).loss == quality(model).loss
    assert model.training


def test_the_default_window_is_the_models_context() -> None:
    assert quality(tiny_model("llama")).protocol.window == 128
    bloom = tiny_model("bloom")  # no limit of its own
    with pytest.raises(TextError, match="tokens, a window 2048"):
        evaluate(bloom, TEXT[:100], tokenizer=TOKENIZER)


def test_what_does_not_fit_is_refused() -> None:
    model = tiny_model("llama")
    with pytest.raises(ModelError) as error:
        quality(model, "gptq")
    assert str(error.value) == "the protocol's window is 2048 tokens, the model's context 128. Take a window of at most 128."
    with pytest.raises(TextError, match=r"^there is no protocol 'gpqt'\. There are gptq, llama-perplexity, family\.$"):
        quality(model, "gpqt")
    with pytest.raises(ModelError, match=r"^the model came without a tokenizer\. Pass tokenizer="):
        evaluate(model, TEXT)
    with pytest.raises(ModelError, match=r"^a batch of 0 windows measures nothing\. Take 1 or more, or leave it to kbit\.$"):
        quality(model, batch_size=0)
    with pytest.raises(ModelError, match="Compare models with one tokenizer"):
        quality(model, reference=tiny_model("llama", vocab_size=300))


def test_batches_keep_logits_bounded() -> None:
    model = tiny_model("llama")
    assert batch_size_for(model, Protocol(128)) == 32
    assert batch_size_for(model, Protocol(2048)) == 2
    model.config.vocab_size = 128_256
    assert batch_size_for(model, Protocol(2048)) == 1
    assert batch_size_for(model, Protocol(128)) == 4


def test_progress_counts_the_windows() -> None:
    seen: list[tuple[float, float, str]] = []
    found = quality(tiny_model("llama"), Protocol(64), batch_size=5, progress=lambda *step: seen.append(step))
    assert seen[0] == (5, found.windows, "windows")
    assert seen[-1] == (found.windows, found.windows, "windows")
