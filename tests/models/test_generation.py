"""Generating: native and by modules alike, as the whole model without a cache says; where a text ends; what is counted."""

from __future__ import annotations

import pytest
import torch

import kbit
from kbit.errors import ModelError
from kbit.models import generation, reading, walk
from kbit.models.decoder import why_not_native
from kbit.models.generation import Statistics, generate
from kbit.models.reading import bytes_per_token
from kbit.models.sampling import Sampling
from tests.tiny_models import CONTEXT, TINY, tiny_model, tiny_tokenizer

PROMPT = [72, 101, 10, 44, 200, 3, 77]
NATIVE = [name for name in TINY if why_not_native(tiny_model(name), CONTEXT) is None]


def unending(model):
    """No token ends its texts."""
    model.generation_config.eos_token_id = None
    return model


def without_a_cache(model, prompt, n):
    """The most likely continuation, the whole text read anew for each token."""
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(n):
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def test_the_native_kinds_are_tested():
    assert {"llama", "llama-tied", "llama-ragged", "mistral", "qwen2", "qwen3"} <= set(NATIVE)


@pytest.mark.parametrize("name", TINY)
def test_modules_with_their_cache_say_what_they_say_without(name):
    model = unending(tiny_model(name))
    made = generate(model, PROMPT, max_tokens=8, native=False)
    assert list(made) == without_a_cache(model, PROMPT, 8)
    assert made.statistics.way == "modules"


@pytest.mark.parametrize("name", NATIVE)
def test_the_native_decoder_says_what_the_modules_say(name):
    model = unending(tiny_model(name))
    made = generate(model, PROMPT, max_tokens=40)
    assert list(made) == list(generate(model, PROMPT, max_tokens=40, native=False))
    assert made.statistics.way == "native"


@pytest.mark.parametrize("compute", ["int8", "exact"])
@pytest.mark.parametrize("name", ["llama", "llama-tied", "qwen3"])
def test_packed_models_generate_alike_both_ways(name, compute):
    small = unending(kbit.quantize(tiny_model(name), "nf4-b32", packed=True))
    ways = {native: generate(small, PROMPT, max_tokens=24, native=native, compute=compute) for native in (True, False)}
    assert list(ways[True]) == list(ways[False])
    assert [made.statistics.way for made in ways.values()] == ["native", "modules"]
    assert ways[True].statistics.compute == compute


def test_how_layers_multiply_is_int8_where_they_are_packed_and_exact_elsewhere():
    model = tiny_model()
    assert generate(model, PROMPT).statistics.compute == "exact"
    assert generate(kbit.quantize(model, "int4-b64", packed=True), PROMPT).statistics.compute == "int8"
    with pytest.raises(ModelError, match="no layer is packed"):
        generate(model, PROMPT, compute="int8")
    with pytest.raises(ModelError, match=r"^compute 'int4' is not to be had\. Write "):
        generate(model, PROMPT, compute="int4")


@pytest.mark.parametrize("native", [True, False])
def test_a_long_prompt_is_read_in_pieces(native, monkeypatch):
    model = unending(tiny_model())
    whole = list(generate(model, PROMPT, max_tokens=8, native=native))
    monkeypatch.setattr(reading, "AT_ONCE", 3)
    assert list(generate(model, PROMPT, max_tokens=8, native=native)) == whole


@pytest.mark.parametrize("native", [True, False])
def test_a_reader_that_forgot_reads_on_as_one_that_never_knew(native):
    model = tiny_model()
    ids = torch.tensor(PROMPT)
    fresh, forgetful = (reading.open_reader(model, CONTEXT, native=native) for _ in range(2))
    forgetful(ids)
    forgetful.rewind(3)
    assert forgetful.position == 3
    torch.testing.assert_close(forgetful(ids[:2]), fresh(torch.cat([ids[:3], ids[:2]])))
    forgetful.rewind(0)
    fresh.rewind(0)
    torch.testing.assert_close(forgetful(ids), fresh(ids))


def test_the_same_seed_draws_the_same_text():
    model = unending(tiny_model())
    texts = [list(generate(model, PROMPT, max_tokens=20, sampling=Sampling(1.0, seed=seed))) for seed in (5, 5, 6)]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("as_list", [False, True])
def test_a_token_that_ends_a_text_ends_it_and_is_no_part_of_it(as_list):
    model = unending(tiny_model())
    text = list(generate(model, PROMPT, max_tokens=20))
    end = text[6]
    first = text.index(end)
    model.generation_config.eos_token_id = [999, end] if as_list else end
    made = generate(model, PROMPT, max_tokens=20)
    assert list(made) == made.tokens == text[:first]
    assert made.finish == "eos"
    unending(model)
    assert list(generate(model, PROMPT, max_tokens=20, ends=[end])) == text[:first]


def test_without_an_end_of_its_own_the_tokenizers_ends_a_text():
    model = unending(tiny_model())
    assert generation.ends_of(model, tiny_tokenizer()) == {257}
    assert generation.ends_of(model, None) == set()


def test_a_text_ends_with_its_length_or_with_the_context():
    model = unending(tiny_model())
    made = generate(model, PROMPT, max_tokens=5)
    assert (len(list(made)), made.finish) == (5, "length")
    made = generate(model, PROMPT, max_tokens=1000)
    assert (len(list(made)), made.finish) == (CONTEXT - len(PROMPT), "context")


def test_a_stop_string_ends_a_text_and_is_no_part_of_it():
    model, tokenizer = unending(tiny_model()), tiny_tokenizer()
    whole = "".join(generate(model, "Hello", max_tokens=60, tokenizer=tokenizer).pieces())
    stop = whole[20:23]
    made = generate(model, "Hello", max_tokens=60, tokenizer=tokenizer, stop=["never to be found", stop])
    assert "".join(made.pieces()) == whole[: whole.index(stop)]
    assert made.finish == "stop"


def test_pieces_together_are_the_text_of_the_tokens():
    model, tokenizer = unending(tiny_model(seed=1)), tiny_tokenizer()
    made = generate(model, "Hello", max_tokens=100, tokenizer=tokenizer, sampling=Sampling(1.0))  # bytes at random
    text = "".join(made.pieces())
    assert text == tokenizer.decode([*tokenizer.encode("Hello"), *made.tokens], skip_special_tokens=True)[len("Hello") :]


@pytest.mark.parametrize(
    ("prompt", "how", "said"),
    [
        ([], {}, "the prompt is empty, and the tokenizer has no token to begin with. Write a prompt."),
        ([258], {}, "token 258 is not of the model's 258. Take the tokenizer that belongs to it."),
        ([-1], {}, "token -1 is not of the model's 258."),
        ([1] * CONTEXT, {}, "the prompt has 128 tokens, the model's context 128. Shorten it to fewer than that."),
        ([1], {"max_tokens": 0}, "0 tokens are none to generate. Ask for 1 or more."),
        ("text", {}, "the model came without a tokenizer. Pass tokenizer=, or tokens as the prompt and no stop strings."),
        ([1], {"stop": ["x"]}, "the model came without a tokenizer."),
    ],
)
def test_a_prompt_that_leads_nowhere_is_refused(prompt, how, said):
    with pytest.raises(ModelError) as caught:
        generate(tiny_model(), prompt, **how)
    assert str(caught.value).startswith(said)


def test_an_empty_text_begins_with_bos():
    assert generation.tokens_of(tiny_tokenizer(), "") == [256]


def test_without_a_tokenizer_there_is_no_text():
    with pytest.raises(ModelError, match="so there are tokens, and no text"):
        generate(tiny_model(), PROMPT).pieces()


def test_what_a_token_reads_is_every_matrix_once():
    model = tiny_model("llama")
    linear = sum(p.numel() for n, p in model.named_parameters() if p.ndim == 2 and "embed_tokens" not in n)
    assert bytes_per_token(model) == 4 * linear  # of the embedding one row, which is left out
    tied = tiny_model("llama-tied")
    assert bytes_per_token(tied) == 4 * sum(p.numel() for p in tied.parameters() if p.ndim == 2)
    small = kbit.quantize(model, "int3-b32", packed=True)
    modules = dict(small.named_modules())
    assert bytes_per_token(small) == sum(modules[s.module].packed.nbytes for s in walk(model) if s.role != "embedding")


def test_of_experts_those_are_read_that_are_chosen():
    model = tiny_model("mixtral")  # 2 of 4
    sites = [site for site in walk(model) if site.role != "embedding"]
    assert bytes_per_token(model) == 4 * sum(s.count / (1 if s.expert is None else 2) for s in sites)


def test_statistics_say_tokens_rates_and_bandwidth():
    said = Statistics(12, 128, 0.05, 0.61, 67_500_000, "native", "int8", "avx2", 2, "length", 27e9)
    assert str(said) == (
        "prompt: 12 tokens and the first of the answer in 0.05 s: 240 tokens/s\n"
        "answer: 127 more in 0.61 s: 208 tokens/s, 14.05 of 27.0 GB/s read\n"
        "native, int8, avx2, 2 threads"
    )
    assert said.to_json()["bandwidth"] == pytest.approx(127 / 0.61 * 67_500_000)
    alone = Statistics(1, 1, 0.05, 0.0, 1000, "modules", "exact", "scalar", 1, "length")
    assert str(alone) == "prompt: 1 token and the first of the answer in 0.05 s: 20 tokens/s\nmodules, exact, scalar, 1 thread"
    assert alone.tokens_per_second is None


def test_statistics_count_what_came():
    made = generate(unending(tiny_model()), PROMPT, max_tokens=6)
    next(iter(made))
    assert (made.statistics.tokens, made.statistics.finish) == (1, None)
    rest = list(made)
    said = made.statistics
    assert (said.prompt_tokens, said.tokens, len(rest), said.finish) == (len(PROMPT), 6, 5, "length")
    assert said.prompt_seconds > 0
    assert said.seconds > 0
