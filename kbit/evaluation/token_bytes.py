"""How many bytes of the text each token stands for, so that bits per byte are exact for any set of tokens."""

from __future__ import annotations

import numpy as np
from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerBase

from kbit.errors import ModelError

METASPACE = "\u2581"  # SentencePiece's space


def token_bytes(text: str, ids: np.ndarray, offsets: np.ndarray | None, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """int64 (tokens,): the UTF-8 bytes of `text` that each token of `ids` stands for; together all that tokens cover.

    offsets: (tokens, 2) first and last character + 1 of each token, where the tokenizer gives them.
    Where the vocabulary is byte-level or SentencePiece's the spelling of a token says how many bytes it is, also where a
    character is split over several tokens; that reading is taken where it accounts for every byte of the text. Otherwise
    (normalizers that change the text) the offsets decide, and all bytes of a split character go to its first token.
    Raises ModelError where neither is to be had.
    """
    total = len(text.encode("utf-8", "surrogatepass"))
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    added = {index: token.content for index, token in tokenizer.added_tokens_decoder.items()}
    for spelled in (_byte_level, _sentencepiece):
        sizes = np.array([_utf8(added[i]) if i in added else spelled(piece or "") for i, piece in enumerate(pieces)])[ids]
        if sizes.min(initial=0) < 0:
            continue
        surplus = int(sizes.sum()) - total
        if surplus == 1 and pieces[ids[0]].startswith(METASPACE):  # the space that SentencePiece puts before a text
            sizes[0] -= 1
            surplus = 0
        if surplus == 0:
            return sizes
    if offsets is None:
        raise ModelError(
            f"{type(tokenizer).__name__}: neither the vocabulary nor offsets say which bytes a token stands for. "
            "Use the fast tokenizer (tokenizer.json) of this model."
        )
    return _bytes_by_offsets(text, offsets)


_BYTE_ALPHABET = frozenset(pre_tokenizers.ByteLevel.alphabet())


def _byte_level(piece: str) -> int:
    """A character of GPT-2's byte alphabet is a byte; -1 for other pieces."""
    return len(piece) if _BYTE_ALPHABET.issuperset(piece) else -1


def _sentencepiece(piece: str) -> int:
    """<0x0A> is one byte, U+2581 a space, the rest is UTF-8."""
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return 1
    return _utf8(piece.replace(METASPACE, " "))


def _utf8(piece: str) -> int:
    return len(piece.encode("utf-8", "surrogatepass"))


def _bytes_by_offsets(text: str, offsets: np.ndarray) -> np.ndarray:
    """What lies between the end of the tokens before and the end of this one; characters of no token go to the next one."""
    ends = np.maximum.accumulate(offsets[:, 1]) if len(offsets) else np.zeros(0, dtype=np.int64)
    character_bytes = np.fromiter((_utf8(character) for character in text), dtype=np.int64, count=len(text))
    before = np.concatenate([[0], np.cumsum(character_bytes)])
    return np.diff(before[ends], prepend=0)
