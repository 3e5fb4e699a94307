"""Which token comes next: the most likely one, or one drawn from the likely ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from kbit.errors import KbitError, ModelError
from kbit.fixedpoint.sampling import IntegerSampling, next_token

FIRST_LOOK = 256  # tokens sorted at first for top_p: mostly they hold it, and sorting a whole vocabulary takes milliseconds


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn from logits.

    temperature  logits are divided by it; 0: the most likely token always, of equals the one with the lowest id
    top_k        only the k most likely tokens, of equals those with the lower ids; None: all
    top_p        of these only the most likely ones, as few as together have a probability of at least top_p
    seed         the same seed draws the same tokens from the same logits

    Raises KbitError where a value is not allowed.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise KbitError(f"temperature {self.temperature:g} is not to be had. Write 0 for the most likely token, or more.")
        if self.top_k is not None and self.top_k < 1:
            raise KbitError(f"top-k {self.top_k} leaves no token. Write 1 or more, or leave it out for all.")
        if not 0 < self.top_p <= 1:
            raise KbitError(f"top-p {self.top_p:g} is no share of the probability. Write a number above 0 and up to 1.")
        if not -(2**63) <= self.seed < 2**63:
            raise KbitError(f"seed {self.seed} does not fit 64 bits. Write a smaller one.")

    def generator(self) -> torch.Generator:
        """Where the draws of one text come from."""
        return torch.Generator().manual_seed(self.seed)

    def kept(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens that may come and their probabilities, float64, which add up to 1: most likely first, unless all may come.

        logits: (vocabulary,). The temperature is above 0.
        """
        scaled = logits.double() / self.temperature
        if self.top_k is not None and self.top_k < len(scaled):
            ids = most_likely(scaled, self.top_k)
            return self._nucleus(ids, scaled[ids].softmax(0))
        probabilities = scaled.softmax(0)
        if self.top_p == 1:
            return torch.arange(len(scaled)), probabilities
        n = FIRST_LOOK
        while n < len(scaled) and float(probabilities.topk(n).values.sum()) < self.top_p:
            n *= 4
        ids = most_likely(scaled, n)
        return self._nucleus(ids, probabilities[ids])

    def draw(self, logits: Tensor, generator: torch.Generator) -> int:
        """The next token of logits (vocabulary,). Raises ModelError where the model gave numbers that are none."""
        if bool(logits.isnan().any()) or not math.isfinite(float(logits.max())):
            raise ModelError("the model's logits are not finite, so no token can be chosen. Its weights may be damaged.")
        if self.temperature == 0:
            return int(most_likely(logits, 1)[0])
        ids, probabilities = self.kept(logits)
        total = probabilities.cumsum(0)
        at = torch.searchsorted(total, torch.rand((), dtype=torch.float64, generator=generator) * total[-1], right=True)
        return int(ids[min(int(at), len(ids) - 1)])

    def _nucleus(self, ids: Tensor, probabilities: Tensor) -> tuple[Tensor, Tensor]:
        """The first tokens, as few as reach top_p."""
        if self.top_p < 1:
            n = int((probabilities.cumsum(0) < self.top_p).sum()) + 1
            ids, probabilities = ids[:n], probabilities[:n]
        return ids, probabilities / probabilities.sum()


class IntegerDraws:
    """The same choice from integer logits, by integers alone: temperature and top_p become dyadic here, once.

    Random numbers are those of a counter (Philox), so the n-th token of a text depends on its logits, the seed and n alone.
    """

    def __init__(self, sampling: Sampling, logits_shift: int) -> None:
        """logits_shift: what 1 of the integer logits stands for is 2^-logits_shift."""
        self.integers = IntegerSampling.of(
            2.0**-logits_shift, sampling.temperature, sampling.top_k, sampling.top_p, sampling.seed
        )

    def generator(self) -> Iterator[int]:
        """The numbers of the draws of one text."""
        return count()

    def draw(self, logits: Tensor, generator: Iterator[int]) -> int:
        """The next token of integer logits (vocabulary,)."""
        return next_token(logits, self.integers, next(generator))


def most_likely(logits: Tensor, n: int) -> Tensor:
    """The ids of the n largest, descending; of equals the lower ids first, which torch.topk leaves open."""
    if n >= len(logits):
        return logits.sort(descending=True, stable=True).indices
    ids = (logits >= logits.topk(n).values[-1]).nonzero().flatten()
    return ids[logits[ids].sort(descending=True, stable=True).indices[:n]]
