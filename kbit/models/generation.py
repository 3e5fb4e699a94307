"""Generate text token by token: natively where the decoder knows the model, else by its modules; greedy, or drawn."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kbit import kernels
from kbit.errors import ModelError
from kbit.models.detokenizer import Detokenizer, StopStrings
from kbit.models.integer_model import IntegerModel
from kbit.models.reading import Reader, bytes_per_token, compute_of, context_of, open_reader, read, vocabulary_of, way_of
from kbit.models.sampling import IntegerDraws, Sampling

GB = 1e9


@dataclass(frozen=True)
class Statistics:
    """What was generated, and how fast.

    prompt_seconds: from the prompt to the first token. seconds: of all later ones, choosing them included, and nothing that the
    caller does between them. bytes_per_token: of weights, as kbit.models.reading counts them. way: native or modules.
    read_bandwidth: bytes per second that this machine reads with the same threads, where that was measured.
    finish: "eos", "stop" (a stop string), "length" (max_tokens), "context" (no more positions), or None while it goes on.
    """

    prompt_tokens: int
    tokens: int
    prompt_seconds: float
    seconds: float
    bytes_per_token: int
    way: str
    compute: str
    isa: str
    threads: int
    finish: str | None
    read_bandwidth: float | None = None

    @property
    def tokens_per_second(self) -> float | None:
        """Of the tokens after the first, which the prompt's time gave; None where there is none."""
        return (self.tokens - 1) / self.seconds if self.tokens > 1 and self.seconds else None

    @property
    def prompt_tokens_per_second(self) -> float | None:
        """Tokens of the prompt that were read per second."""
        return self.prompt_tokens / self.prompt_seconds if self.prompt_seconds else None

    @property
    def bandwidth(self) -> float | None:
        """Bytes of weights read per second while generating."""
        return None if self.tokens_per_second is None else self.tokens_per_second * self.bytes_per_token

    def to_json(self) -> dict[str, Any]:
        """All of it, the rates too."""
        rates = ("tokens_per_second", "prompt_tokens_per_second", "bandwidth")
        return vars(self) | {name: getattr(self, name) for name in rates}

    def __str__(self) -> str:
        lines = [
            f"prompt: {_tokens(self.prompt_tokens)} and the first of the answer in {self.prompt_seconds:.2f} s: "
            f"{self.prompt_tokens_per_second or 0:.0f} tokens/s"
        ]
        if self.tokens_per_second is not None and self.bandwidth is not None:
            of = f" of {self.read_bandwidth / GB:.1f} GB/s" if self.read_bandwidth else ""
            lines.append(
                f"answer: {self.tokens - 1} more in {self.seconds:.2f} s: {self.tokens_per_second:.0f} tokens/s, "
                f"{self.bandwidth / GB:.2f}{of or ' GB/s'} read"
            )
        lines.append(f"{self.way}, {self.compute}, {self.isa}, {self.threads} thread{'s' * (self.threads > 1)}")
        return "\n".join(lines)


class Generation:
    """A text as it comes. Iterate over it for tokens, or over `pieces()` for text; either once.

    tokens: those so far, without the one that ended it. statistics: of what came so far.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        reader: Reader,
        prompt: Sequence[int],
        *,
        max_tokens: int,
        sampling: Sampling | IntegerDraws,
        compute: str,
        ends: frozenset[int],
        tokenizer: PreTrainedTokenizerBase | None,
        stop: Sequence[str],
    ) -> None:
        context = context_of(model) or len(prompt) + max_tokens
        self.tokens: list[int] = []
        self.finish: str | None = None
        self._prompt, self._reader, self._sampling, self._compute = list(prompt), reader, sampling, compute
        self._limit = min(max_tokens, context - len(prompt))
        self._at_limit = "length" if self._limit == max_tokens else "context"
        self._ends = ends
        self._detokenizer = Detokenizer(tokenizer, self._prompt) if tokenizer is not None else None
        self._stop = StopStrings(stop)
        self._bytes_per_token = bytes_per_token(model)
        self._prompt_seconds = self._seconds = 0.0
        self._steps = self._run()

    def __iter__(self) -> Iterator[int]:
        """Token after token."""
        return (token for token, _ in self._steps if token is not None)

    def pieces(self) -> Iterator[str]:
        """Text as soon as it is certain: whole characters, nothing of a stop string. Raises ModelError without a tokenizer."""
        if self._detokenizer is None:
            raise ModelError("the model came without a tokenizer, so there are tokens, and no text. Iterate over the tokens.")
        return (piece for _, piece in self._steps if piece)

    @property
    def statistics(self) -> Statistics:
        """Of the tokens so far."""
        return Statistics(
            prompt_tokens=len(self._prompt),
            tokens=len(self.tokens),
            prompt_seconds=self._prompt_seconds,
            seconds=self._seconds,
            bytes_per_token=self._bytes_per_token,
            way=way_of(self._reader),
            compute=self._compute,
            isa=kernels.isa(),
            threads=kernels.threads(),
            finish=self.finish,
        )

    def _draw(self, logits: Tensor, generator: Any) -> int:
        """The next token, in one thread: torch's others would spin for milliseconds on the cores of the next product."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return self._sampling.draw(logits, generator)
        finally:
            torch.set_num_threads(threads)

    def _run(self) -> Iterator[tuple[int | None, str]]:
        """Each token with the text that it makes certain; at the end, with None, what was held back."""
        generator: Any = self._sampling.generator()
        start = time.perf_counter()
        token = self._draw(read(self._reader, torch.tensor(self._prompt))[-1], generator)
        self._prompt_seconds = time.perf_counter() - start
        while token not in self._ends:
            self.tokens.append(token)
            text, stopped = self._stop.push(self._detokenizer.push(token) if self._detokenizer else "")
            if stopped:
                self.finish = "stop"
            elif len(self.tokens) == self._limit:
                self.finish = self._at_limit
            yield token, text
            if self.finish:
                break
            start = time.perf_counter()
            token = self._draw(self._reader(torch.tensor([token]))[-1], generator)
            self._seconds += time.perf_counter() - start
        self.finish = self.finish or "eos"
        if self.finish != "stop" and self._detokenizer:
            text, stopped = self._stop.push(self._detokenizer.finish())
            yield None, text if stopped else text + self._stop.finish()


def generate(
    model: PreTrainedModel,
    prompt: str | Sequence[int],
    *,
    max_tokens: int = 128,
    sampling: Sampling | None = None,
    stop: Sequence[str] = (),
    ends: Sequence[int] = (),
    compute: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    native: bool = True,
) -> Generation:
    """Continue `prompt`: tokens, or pieces of text, one after another; the model's own tokens that end a text end it.

    prompt: a text, or its tokens. sampling: by default the most likely token each time. stop: strings that end the text, and are
    not part of it. ends: more tokens that end it. compute: how packed layers multiply, by default "int8" where there are any.
    tokenizer: by default the model's own (`kbit.load` brings it). native: False takes the model's modules in any case.
    Raises ModelError where the prompt is empty or fills the context, or a text is asked for without a tokenizer.
    """
    tokenizer = tokenizer or getattr(model, "kbit_tokenizer", None)
    if tokenizer is None and (stop or isinstance(prompt, str)):
        raise ModelError("the model came without a tokenizer. Pass tokenizer=, or tokens as the prompt and no stop strings.")
    ids = tokens_of(tokenizer, prompt) if tokenizer is not None and isinstance(prompt, str) else [int(i) for i in prompt]
    check_prompt(model, ids)
    if max_tokens < 1:
        raise ModelError(f"{max_tokens} tokens are none to generate. Ask for 1 or more.")
    capacity = min(len(ids) + max_tokens, context_of(model) or len(ids) + max_tokens)
    return Generation(
        model,
        open_reader(model, capacity, compute, native=native),
        ids,
        max_tokens=max_tokens,
        sampling=draws_of(model, sampling or Sampling()),
        compute=compute_of(model, compute),
        ends=ends_of(model, tokenizer) | frozenset(ends),
        tokenizer=tokenizer,
        stop=stop,
    )


def draws_of(model: PreTrainedModel, sampling: Sampling) -> Sampling | IntegerDraws:
    """How the next token is chosen: from floats, or from integers by integers alone."""
    return IntegerDraws(sampling, model.program.logits_shift) if isinstance(model, IntegerModel) else sampling


def tokens_of(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """The tokens of a text, with those that the tokenizer begins every text with; an empty text is BOS where there is one."""
    ids: list[int] = list(tokenizer(prompt)["input_ids"])
    if not ids and tokenizer.bos_token_id is not None:
        return [tokenizer.bos_token_id]
    return ids


def check_prompt(model: PreTrainedModel, ids: Sequence[int]) -> None:
    """Raise ModelError where the model cannot go on from these tokens."""
    vocabulary = vocabulary_of(model)
    if not ids:
        raise ModelError("the prompt is empty, and the tokenizer has no token to begin with. Write a prompt.")
    if strange := [i for i in ids if not 0 <= i < vocabulary]:
        raise ModelError(f"token {strange[0]} is not of the model's {vocabulary}. Take the tokenizer that belongs to it.")
    context = context_of(model)
    if context is not None and len(ids) >= context:
        raise ModelError(f"the prompt has {len(ids)} tokens, the model's context {context}. Shorten it to fewer than that.")


def ends_of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> frozenset[int]:
    """The tokens that end a text: those of the model's generation_config, else the tokenizer's EOS."""
    config: Any = model.generation_config
    ends = config.eos_token_id if config is not None else None
    if ends is None:
        ends = getattr(tokenizer, "eos_token_id", None)
    return frozenset([] if ends is None else [ends] if isinstance(ends, int) else ends)


def _tokens(n: int) -> str:
    return f"{n} token{'s' * (n != 1)}"
