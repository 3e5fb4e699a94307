"""Windows cover a text as their protocol says: every token scored once, BOS where it belongs, bytes to the last one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from kbit.errors import ModelError, TextError
from kbit.evaluation import Protocol, tokenize_windows
from tests.tiny_models import stories_tokenizer, tiny_tokenizer

TOKENIZER = tiny_tokenizer()  # a token is a byte
PROSE = "Es war einmal, ein König und seine Töchter: 「物語」 🙂. The end\n" * 9


def bpe_tokenizer(text: str, vocabulary: int) -> PreTrainedTokenizerFast:
    """A trained byte-level BPE, whose tokens may hold a part of a character."""
    from tokenizers import decoders, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([text], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")


@settings(max_examples=100, deadline=None)
@given(st.integers(4, 40), st.data(), st.sampled_from(["all", "second-half"]), st.integers(40, 400))
def test_windows_score_what_the_protocol_says(window: int, data: st.DataObject, score: str, length: int) -> None:
    stride = data.draw(st.integers(1, window))
    text = PROSE.encode()[:length].decode("utf-8", "ignore")
    windows = tokenize_windows(text, TOKENIZER, Protocol(window, stride, score=score))
    ids = np.array(TOKENIZER(text)["input_ids"])
    scored: list[int] = []
    for i, (row, first) in enumerate(zip(windows.ids.numpy(), windows.first, strict=True)):
        start = i * stride
        assert (row == ids[start : start + window]).all()
        here = list(range(start + first, start + window))
        assert all(position - start > (window // 2 if score == "second-half" else 0) for position in here)  # its context
        assert windows.bytes[i] == len(here)  # a token is a byte
        scored += here
    assert len(scored) == len(set(scored)) == windows.tokens.sum()
    assert len(ids) - (len(windows) - 1) * stride - window < stride  # no further window fits
    if score == "all" and stride < window:
        assert scored == list(range(1, scored[-1] + 1))
    if stride == window:
        context = window // 2 + 1 if score == "second-half" else 1
        assert scored == [p for p in range(len(windows) * window) if p % window >= context]


def test_bos_stands_where_the_protocol_puts_it() -> None:
    text, adding = "abcdefghij", tiny_tokenizer()
    adding.add_bos_token = True
    plain = [97 - 33, 98 - 33]  # a and b in the sorted alphabet
    never = tokenize_windows(text, adding, Protocol(4))
    assert never.ids[0, :2].tolist() == plain

    each = tokenize_windows(text, TOKENIZER, Protocol(4, bos=True))
    ids = TOKENIZER("abcdefghij")["input_ids"]
    # as llama-perplexity: BOS before the text, then BOS in place of each window's first token
    assert each.ids.tolist() == [[256, *ids[:3]], [256, *ids[4:7]]]
    assert each.tokens.tolist() == each.bytes.tolist() == [3, 3]
    assert tokenize_windows(text, adding, Protocol(4, bos="tokenizer")).ids.equal(each.ids)
    assert tokenize_windows(text, TOKENIZER, Protocol(4, bos="tokenizer")).ids.equal(never.ids)

    once = tokenize_windows(text, adding, Protocol(4, bos="once"))
    assert once.ids.tolist() == [[256, *ids[:3]], ids[3:7]]
    assert tokenize_windows(text, TOKENIZER, Protocol(4, bos="once")).ids.equal(never.ids)


def test_a_bos_that_does_not_exist_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.bos_token = None
    with pytest.raises(ModelError, match=r"^protocol: the tokenizer has no BOS token, .* Say bos=False\.$"):
        tokenize_windows("abcdef", tokenizer, Protocol(4, bos=True))


@pytest.mark.parametrize("text", ["", "  \n\t\n"])
def test_an_empty_text_is_refused(text: str) -> None:
    with pytest.raises(TextError, match=r"^the text is empty\. Give one with something to read\.$"):
        tokenize_windows(text, TOKENIZER, Protocol(4))


def test_a_text_shorter_than_a_window_is_refused_with_the_numbers() -> None:
    with pytest.raises(TextError) as error:
        tokenize_windows("abc", TOKENIZER, Protocol(4))
    assert str(error.value) == "the text has 3 tokens, a window 4. Give a longer text, or take a window of at most 3."
    assert len(tokenize_windows("abcd", TOKENIZER, Protocol(4))) == 1


def test_max_windows_takes_the_first_ones() -> None:
    few, all_ = (tokenize_windows(PROSE, TOKENIZER, Protocol(16, max_windows=n)) for n in (3, None))
    assert len(few) == 3
    assert few.ids.equal(all_.ids[:3])


@pytest.mark.parametrize("vocabulary", [256, 270, 320, 400])
def test_bytes_of_a_byte_level_window_are_those_of_its_tokens(vocabulary: int) -> None:
    tokenizer = bpe_tokenizer(PROSE, vocabulary)
    windows = tokenize_windows(PROSE, tokenizer, Protocol(13))
    alphabet = dict(zip(*zip(*byte_of_character(), strict=True), strict=True))
    for row, first, size in zip(windows.ids, windows.first, windows.bytes, strict=True):
        pieces = "".join(tokenizer.convert_ids_to_tokens(row[first:].tolist()))
        assert bytes(alphabet[c] for c in pieces) in PROSE.encode()
        assert size == len(pieces)


def byte_of_character() -> list[tuple[str, int]]:
    """GPT-2's table: printable bytes stand for themselves, the others are moved up by 256 in order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [b for b in range(256) if b not in printable]
    return [(chr(b), b) for b in printable] + [(chr(256 + i), b) for i, b in enumerate(moved)]


@pytest.mark.assets
def test_bytes_of_a_sentencepiece_window_are_those_of_its_tokens(assets) -> None:
    tokenizer = stories_tokenizer(assets / "models" / "stories260K" / "tok512.bin", 512)
    text = "Once upon a time, there was a König.\n" * 20
    windows = tokenize_windows(text, tokenizer, Protocol(16))
    position = 0
    for row, first, size in zip(windows.ids, windows.first, windows.bytes, strict=True):
        skipped, scored = (tokenizer.convert_ids_to_tokens(part.tolist()) for part in (row[:first], row[first:]))
        lengths = [
            sum(1 if p.startswith("<0x") else len(p.encode().replace("▁".encode(), b" ")) for p in part)
            for part in (skipped, scored)
        ]
        position += lengths[0] + lengths[1]
        assert size == lengths[1]
    assert len(text.encode()) + 1 - position < 16 * 20  # the space before the text; what is left is less than a window


def test_a_tokenizer_that_changes_the_text_counts_by_offsets() -> None:
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "straße": 1, "ist": 2}, unk_token="[UNK]"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    windows = tokenize_windows("Die  STRASSE Straße ist ÖDE", tokenizer, Protocol(5))
    # all but the first word, each with the spaces before it
    assert windows.bytes.tolist() == [len("  STRASSE Straße ist ÖDE".encode())]
