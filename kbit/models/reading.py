"""How a model reads tokens one call after another: natively, or by transformers' modules, with a cache of keys and values."""

from __future__ import annotations

import inspect
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from kbit.errors import ModelError
from kbit.models.decoder import Decoder, why_not_native
from kbit.models.integer_model import IntegerModel, IntegerReader
from kbit.models.kbit_linear import KbitLinear, computing
from kbit.models.walk import walkable
from kbit.packed import COMPUTE, PackedWeight

CACHES = ("cache", "past_key_values", "cache_params")  # what versions of transformers call it
INTEGERS = "integers"  # how a model of integers alone computes
AT_ONCE = 512  # tokens of a prompt in one call: as llama.cpp's batch; more makes nothing faster and takes memory


class Reader(Protocol):
    """A model and what it has read."""

    @property
    def position(self) -> int:
        """Tokens read so far."""

    def __call__(self, tokens: Tensor) -> Tensor:
        """Read `tokens`, int64 (n,), after those so far: the logits of the last, float32 (1, vocabulary)."""

    def rewind(self, position: int) -> None:
        """Forget what was read from `position` on."""


class Modules:
    """A Reader of any causal language model, by its own modules and the cache that it makes."""

    def __init__(self, model: PreTrainedModel, compute: str) -> None:
        self.position = 0
        self._model, self._compute = model, compute
        self._cache: Any = None
        takes = inspect.signature(model.forward).parameters
        self._only_last = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        self._name = next((name for name in CACHES if name in takes), "past_key_values")

    @torch.inference_mode()
    def __call__(self, tokens: Tensor) -> Tensor:
        """Logits of the last token."""
        ids = tokens[None].to(self._model.device)
        with computing(self._model, self._compute):
            out = self._model(input_ids=ids, use_cache=True, **{self._name: self._cache}, **self._only_last)
        self._cache = out[self._name]
        self.position += len(tokens)
        logits: Tensor = out.logits[0, -1:].float().cpu()
        return logits

    def rewind(self, position: int) -> None:
        """Forget; only the cache of some models can forget a part."""
        if position == 0:
            self._cache = None
        elif position < self.position:
            self._cache.crop(position - self.position)  # below 0: so many from the end
        self.position = position


def open_reader(model: PreTrainedModel, capacity: int, compute: str | None = None, *, native: bool = True) -> Reader:
    """What reads up to `capacity` tokens: the native decoder where it knows the model and `native` allows it, else its modules.

    compute: "int8" or "exact"; None: as compute_of has it. Raises ModelError where it is int8 and no layer is packed.
    A model of integers gives integer logits.
    """
    compute = compute_of(model, compute)
    if isinstance(model, IntegerModel):
        return IntegerReader(model, capacity)
    if native and why_not_native(model, capacity) is None:
        return Decoder(model, capacity, compute)
    return Modules(model, compute)


def compute_of(model: PreTrainedModel, compute: str | None) -> str:
    """How the layers multiply: as asked for, else int8 where layers are packed and exact where none is; integers have one way."""
    if isinstance(model, IntegerModel):
        if compute not in (None, INTEGERS):
            raise ModelError(f"a model of integers alone does not compute in {compute}. Leave --compute out.")
        return INTEGERS
    if compute is None:
        return "int8" if any(isinstance(module, KbitLinear) for module in model.modules()) else "exact"
    if compute not in COMPUTE:
        raise ModelError(f"compute '{compute}' is not to be had. Write {' or '.join(COMPUTE)}.")
    with computing(model, compute):
        return compute


def way_of(reader: Reader) -> str:
    """native, modules, or reference: the operators of kbit.fixedpoint in torch."""
    if isinstance(reader, IntegerReader):
        return "reference" if reader.checked else "native"
    return "native" if isinstance(reader, Decoder) else "modules"


def read(reader: Reader, tokens: Tensor) -> Tensor:
    """Read any number of tokens, AT_ONCE in a call: the logits of the last."""
    logits = torch.empty(0)
    for piece in tokens.split(AT_ONCE):
        logits = reader(piece)
    return logits


def context_of(model: PreTrainedModel) -> int | None:
    """The most tokens that the model was made for; None where it states no limit (BLOOM)."""
    if isinstance(model, IntegerModel):
        return model.program.positions
    context: int | None = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    return context


def vocabulary_of(model: PreTrainedModel) -> int:
    """How many tokens the model knows: the rows of its embedding."""
    if isinstance(model, IntegerModel):
        return model.program.vocabulary
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    return weight.shape[0]


def bytes_per_token(model: PreTrainedModel) -> int:
    """Bytes of weights that one token makes a model read: every matrix once, as it lies in memory.

    Of an embedding only one row is read, which does not count, unless it is the output head too; of experts those that a router
    chooses. Norms, biases and the cache are left out.
    """
    if isinstance(model, IntegerModel):
        return model.bytes_per_token
    chosen = getattr(model.config.get_text_config(decoder=True), "num_experts_per_tok", None)
    total = 0.0
    for site in walkable(model)[0]:
        if site.role == "embedding" and not site.aliases:
            continue
        parameter = model.get_parameter(site.name)
        if isinstance(parameter, PackedWeight):
            total += parameter.packed.nbytes
        else:
            size = parameter.element_size() * site.count
            total += size * chosen / site.n_experts if chosen and site.n_experts else size
    return round(total)
