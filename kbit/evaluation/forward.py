"""Runs a model, and its reference beside it, over the windows of a text and scores what it predicts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kbit.errors import ModelError
from kbit.evaluation.protocols import EXACT, Protocol, named_protocol
from kbit.evaluation.quality import Quality
from kbit.evaluation.scorer import Scorer
from kbit.evaluation.windows import Windows, tokenize_windows
from kbit.models import computing

TOKENS_AT_ONCE = 4096  # more makes no CPU faster
LOGITS_AT_ONCE = 2**26  # of one model: 256 MB in float32

Advance = Callable[[float, float, str], None]


def evaluate(
    model: PreTrainedModel,
    text: str,
    *,
    reference: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    protocol: Protocol | str | None = None,
    batch_size: int | None = None,
    progress: Advance | None = None,
) -> Quality:
    """Perplexity and bits per byte of `model` on `text`, and its distance to `reference` where one is given.

    model, reference: causal LMs of one vocabulary, on any device; neither is changed. A copy is made where the parameters
    are not in the protocol's dtype.
    tokenizer: by default the model's own (`kbit.load` brings it).
    protocol: a Protocol or the name of one; by default windows of 2048, or of the model's context where that is shorter.
    batch_size: windows at once; by default as many as keep the logits below 256 MB. In float32 it changes no figure by more
    than 1e-6.
    progress: called with windows done, windows in all, and what is done.
    Raises TextError where the text is empty or shorter than one window, ModelError where model, tokenizer and protocol do
    not fit each other.
    """
    start = time.perf_counter()
    if batch_size is not None and batch_size < 1:
        raise ModelError(f"a batch of {batch_size} windows measures nothing. Take 1 or more, or leave it to kbit.")
    protocol = protocol_for(model, protocol)
    windows = tokenize_windows(text, tokenizer or tokenizer_of(model), protocol)
    scorer = Scorer(windows)
    with ready(model, protocol.dtype) as ours, ready(reference or model, protocol.dtype) as theirs:
        for first, ids in batches(windows, batch_size or batch_size_for(model, protocol)):
            logits = logits_of(ours, ids, protocol.compute)
            shared = logits if reference is model and protocol.compute == EXACT else None
            scorer.update(first, logits, logits_of(theirs, ids) if reference and shared is None else shared)
            if progress:
                progress(first + len(ids), len(windows), "windows")
    return scorer.quality(seconds=time.perf_counter() - start)


def protocol_for(model: PreTrainedModel, protocol: Protocol | str | None) -> Protocol:
    """The protocol meant; ModelError where its window is longer than the model's context."""
    if protocol is None:
        return fit_window(model, Protocol())
    protocol = named_protocol(protocol) if isinstance(protocol, str) else protocol
    context = context_of(model)
    if context and protocol.window > context:
        raise ModelError(
            f"the protocol's window is {protocol.window} tokens, the model's context {context}. "
            f"Take a window of at most {context}."
        )
    return protocol


def fit_window(model: PreTrainedModel, protocol: Protocol) -> Protocol:
    """The protocol with a window no longer than the model's context."""
    return replace(protocol, window=min(protocol.window, context_of(model) or protocol.window))


def context_of(model: PreTrainedModel) -> int | None:
    """The most tokens that the model reads at once; None where it states no limit (BLOOM)."""
    context: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return context


def tokenizer_of(model: PreTrainedModel) -> PreTrainedTokenizerBase:
    """The tokenizer that came with the model."""
    tokenizer: PreTrainedTokenizerBase | None = getattr(model, "kbit_tokenizer", None)
    if tokenizer is None:
        raise ModelError("the model came without a tokenizer. Pass tokenizer=, or put tokenizer.json beside the model.")
    return tokenizer


def batch_size_for(model: PreTrainedModel, protocol: Protocol) -> int:
    """Windows at once: enough to be fast, few enough that the logits stay below 256 MB, one at least."""
    vocabulary = model.config.get_text_config().vocab_size
    return max(1, min(TOKENS_AT_ONCE, LOGITS_AT_ONCE // vocabulary) // protocol.window)


def batches(windows: Windows, batch_size: int) -> Iterator[tuple[int, Tensor]]:
    """(number of the first window, ids) for each batch of windows, in order."""
    for first in range(0, len(windows), batch_size):
        yield first, windows.ids[first : first + batch_size]


@torch.inference_mode()
def logits_of(model: PreTrainedModel, ids: Tensor, compute: str = EXACT) -> Tensor:
    """Logits (n, window, vocabulary) of the windows `ids` (n, window), on the model's device; packed layers in `compute`."""
    with computing(model, compute):
        logits: Tensor = model(input_ids=ids.to(model.device), use_cache=False).logits
    return logits


@contextmanager
def ready(model: PreTrainedModel, dtype: str) -> Iterator[PreTrainedModel]:
    """The model in evaluation mode with parameters in `dtype`; the one that was handed in is as before afterwards."""
    training = model.training
    ours = in_dtype(model, getattr(torch, dtype))
    ours.eval()
    try:
        yield ours
    finally:
        model.train(training)


def in_dtype(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """The model itself where its parameters have that dtype, else a copy where they do; buffers stay as they are.

    Rotary frequencies are buffers in float32, which `model.to(dtype)` would round.
    """
    floating = [parameter for parameter in model.parameters() if parameter.is_floating_point()]
    if all(parameter.dtype == dtype for parameter in floating):
        return model
    cast = {id(parameter): nn.Parameter(parameter.detach().to(dtype), requires_grad=False) for parameter in floating}
    copy: PreTrainedModel = deepcopy(model, cast)
    return copy
