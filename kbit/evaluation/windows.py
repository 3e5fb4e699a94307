"""A text cut into the windows of a protocol: token ids, which of them are scored, and the bytes that those stand for."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from kbit.errors import ModelError, TextError
from kbit.evaluation.protocols import PREPARATIONS, Protocol
from kbit.evaluation.token_bytes import token_bytes


@dataclass(frozen=True)
class Windows:
    """The windows of one text under one bound protocol; the scored tokens of a window are its last ones.

    ids     int64 (windows, window) as the model reads them
    first   int64 (windows,): the first position whose token is scored; it and all after it are
    bytes   int64 (windows,): UTF-8 bytes of the prepared text that the scored tokens of each window stand for
    """

    protocol: Protocol
    ids: Tensor = field(repr=False)
    first: np.ndarray = field(repr=False)
    bytes: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.ids)

    @property
    def tokens(self) -> np.ndarray:
        """int64 (windows,): scored tokens of each window."""
        return self.ids.shape[1] - self.first


def tokenize_windows(text: str, tokenizer: PreTrainedTokenizerBase, protocol: Protocol) -> Windows:
    """Prepare the text, tokenize it once as a whole, and cut it as the protocol says.

    Raises TextError where the text is empty or shorter than one window, ModelError where a BOS is asked of a tokenizer
    that has none.
    """
    prepared = PREPARATIONS[protocol.prepare](text)
    if not prepared.strip():
        raise TextError("the text is empty. Give one with something to read.")
    encoded = tokenizer(prepared, add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast, verbose=False)
    ids = np.array(encoded["input_ids"], dtype=np.int64)
    offsets = np.array(encoded["offset_mapping"], dtype=np.int64) if tokenizer.is_fast else None
    sizes = token_bytes(prepared, ids, offsets, tokenizer)

    start, each = _bos(tokenizer, protocol)
    if start is not None:
        ids, sizes = np.concatenate([[start], ids]), np.concatenate([[0], sizes])
    window, stride = protocol.window, protocol.stride or protocol.window
    if len(ids) < window:
        smaller = f", or take a window of at most {len(ids)}" if len(ids) > 1 else ""
        raise TextError(f"the text has {len(ids)} tokens, a window {window}. Give a longer text{smaller}.")
    starts = np.arange(0, len(ids) - window + 1, stride)[: protocol.max_windows]
    cut = starts[:, None] + np.arange(window)
    window_ids, window_sizes = ids[cut], sizes[cut]
    if each is not None:
        window_ids[:, 0] = each

    context = window // 2 if protocol.score == "second-half" else 0
    first = np.full(len(starts), max(context + 1, window - stride))  # the tokens before were scored in the window before
    first[0] = context + 1
    scored = np.arange(window) >= first[:, None]
    return Windows(protocol.bind(text, tokenizer), torch.from_numpy(window_ids), first, (window_sizes * scored).sum(1))


def _bos(tokenizer: PreTrainedTokenizerBase, protocol: Protocol) -> tuple[int | None, int | None]:
    """The id that is put before the text, and the one that replaces the first of every window."""
    if protocol.bos is False:
        return None, None
    bos = tokenizer.bos_token_id
    if protocol.bos is True:
        if bos is None:
            raise ModelError("protocol: the tokenizer has no BOS token, yet every window is to begin with one. Say bos=False.")
        return bos, bos
    adds = bos is not None and tokenizer("a", verbose=False)["input_ids"][:1] == [bos]
    start = bos if adds else None
    return start, start if protocol.bos == "tokenizer" else None
