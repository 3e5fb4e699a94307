"""Text as it comes: whole characters as soon as they are whole, the same text in the end, nothing of a stop string."""

from __future__ import annotations

from itertools import product

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from kbit.models.detokenizer import Detokenizer, StopStrings
from tests.tiny_models import tiny_tokenizer

TEXTS = [
    "plain words, and  two spaces\n\n\tmore",
    "é ü ß ñ",
    "漢字かな交じり文",
    "👩‍👩‍👧🏽 family, 🇩🇪 flag, e\u0301 combined",
    "right العربية to left",
    "\U0001f600" * 5,
]


def byte_fallback() -> PreTrainedTokenizerFast:
    """As SentencePiece's: spaces are ▁, the first of a text is dropped, and characters without a piece are bytes."""
    pieces = ["<unk>", "▁", "▁a", "a", "b", "▁word", "s"] + [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], byte_fallback=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def pieces_of(tokenizer, ids, prompt=()):
    detokenizer = Detokenizer(tokenizer, prompt)
    return [*map(detokenizer.push, ids), detokenizer.finish()]


@pytest.mark.parametrize("text", TEXTS)
def test_every_character_comes_with_its_last_byte(text):
    tokenizer = tiny_tokenizer()  # a token is a byte, so a character is cut at all of its bytes
    expected = [part for character in text for part in [""] * (len(character.encode()) - 1) + [character]]
    assert pieces_of(tokenizer, tokenizer.encode(text)) == [*expected, ""]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("cut", range(12))
def test_wherever_a_prompt_ends_the_rest_is_the_rest(text, cut, family):
    tokenizer = AutoTokenizer.from_pretrained(str(family / "prose-754k"))
    ids = tokenizer.encode(text)
    start = next(n for n in range(cut, len(ids) + 1) if n >= len(ids) or "\ufffd" not in tokenizer.decode(ids[:n]))
    pieces = pieces_of(tokenizer, ids[start:], ids[:start])
    assert tokenizer.decode(ids[:start]) + "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_spaces_that_depend_on_neighbours_are_kept():
    tokenizer = byte_fallback()
    ids = tokenizer.convert_tokens_to_ids(
        ["▁word", "s", "▁a", "▁", "▁word", *(f"<0x{byte:02X}>" for byte in "é漢".encode()), "b"]
    )
    assert tokenizer.decode(ids) == "words a  wordé漢b"
    assert "".join(pieces_of(tokenizer, ids)) == "words a  wordé漢b"
    assert pieces_of(tokenizer, ids[2:], ids[:2]) == [" a", " ", " word", "", "é", "", "", "漢", "b", ""]


def test_bytes_that_are_no_character_come_when_that_is_certain():
    tokenizer = tiny_tokenizer()
    euro = tokenizer.encode("€")
    assert pieces_of(tokenizer, [*euro[:2], *tokenizer.encode("ab")]) == ["", "", "\ufffda", "b", ""]
    assert pieces_of(tokenizer, euro[:2]) == ["", "", "\ufffd"]


def test_special_tokens_are_not_shown():
    tokenizer = tiny_tokenizer()
    assert "".join(pieces_of(tokenizer, [256, *tokenizer.encode("ab"), 257])) == "ab"


@pytest.mark.parametrize("stops", [["ab"], ["aab", "b"], ["aba", "bb"], ["", "abab"], []])
def test_text_ends_before_the_first_stop_string_however_it_is_cut(stops):
    for letters in product("ab", repeat=6):
        text = "".join(letters)
        first = min((at for stop in stops if stop and (at := text.find(stop)) >= 0), default=None)
        for cuts in product([False, True], repeat=5):
            pieces = "".join(letter + "|" * cut for letter, cut in zip(text, [*cuts, False], strict=True)).split("|")
            filter_, shown, stopped = StopStrings(stops), "", False
            for piece in pieces:
                more, stopped = filter_.push(piece)
                shown += more
                if stopped:
                    break
            shown += filter_.finish()
            # Of several stop strings the one that is whole first ends the text
            assert stopped == (first is not None)
            if len(stops) == 1 or first is None:
                assert shown == text[:first]
            else:
                assert text.startswith(shown)
                assert not any(stop in shown for stop in stops if stop)
