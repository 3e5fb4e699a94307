"""One choice of a plan: a model at a format, what it takes and how good it is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import exp


@dataclass(frozen=True)
class Choice:
    """A model at a format; intervals are (low, high); `basis` is measured, interpolated or extrapolated.

    difference: its bits per byte less those of the recommended choice, on the same windows. tied: its quality and that of the
    best choice may be the same. dominated: another that fits is no larger and as good.
    """

    name: str
    family: str
    model: str
    format: str
    embeddings: str
    method: str
    k: int
    parameters: int
    weights_bytes: int
    kv_cache_bytes: int
    activation_bytes: int
    total_bytes: int
    context: int
    prompt_chunk: int
    loss: float
    loss_interval: tuple[float, float]
    bits_per_byte: float
    bits_per_byte_interval: tuple[float, float]
    difference: float
    difference_interval: tuple[float, float]
    basis: str
    tied: bool
    dominated: bool

    @property
    def perplexity(self) -> float:
        """Of a token of its own tokenizer: e^loss."""
        return exp(self.loss)

    def to_json(self) -> dict[str, object]:
        """Its fields, and the perplexity with its interval."""
        low, high = self.loss_interval
        return {**asdict(self), "perplexity": self.perplexity, "perplexity_interval": [exp(low), exp(high)]}
