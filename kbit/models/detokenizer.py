"""From tokens to text while they come: only whole characters are shown, and no part of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

REPLACEMENT = "\ufffd"  # what decoding puts for bytes that are no character, or none yet
TOKENS_BEFORE = 8  # of the prompt: a first token needs a neighbour, or its leading space is dropped


class Detokenizer:
    """push(token) gives the characters that it completes; what together they give is the text of all tokens.

    A token may be a part of a character, or end with one. Tokens are decoded together with those just before them, since spaces
    depend on neighbours. Special tokens are not shown.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._window = list(prompt[-TOKENS_BEFORE:])
        self._fresh: list[int] = []  # those of the window that came after the last whole character
        self._shown = len(self._decode(self._window))

    def push(self, token: int) -> str:
        """The text that is certain now; "" while a character lacks bytes."""
        self._window.append(token)
        self._fresh.append(token)
        text = self._decode(self._window)
        whole = text.rstrip(REPLACEMENT)
        piece = whole[self._shown :]
        self._shown = max(self._shown, len(whole))
        if len(whole) == len(text) and (anchor := self._decode(self._fresh)):
            self._window, self._fresh, self._shown = self._fresh, [], len(anchor)
        return piece

    def finish(self) -> str:
        """What was held back: characters that never became whole."""
        text = self._decode(self._window)[self._shown :]
        self._shown += len(text)
        return text

    def _decode(self, tokens: list[int]) -> str:
        text = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text


class StopStrings:
    """Ends a text before the first of some strings, however it is cut into pieces."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""

    def push(self, piece: str) -> tuple[str, bool]:
        """(text that can be shown, whether a stop string came). What may be the start of one is held back."""
        text = self._held + piece
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        held = max((n for stop in self._stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held], False

    def finish(self) -> str:
        """What was held back, and now is no stop string."""
        text, self._held = self._held, ""
        return text
