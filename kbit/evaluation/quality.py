"""What a measurement found: perplexity, bits per byte and the distance to the 16-bit model, with standard errors."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from math import isfinite, nan
from typing import TYPE_CHECKING, Any

import numpy as np

from kbit.evaluation.protocols import Protocol

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class Quality:
    """Quality of a model under one protocol. `_stderr` is a standard error: over windows for means, by bootstrap over
    windows for quantiles (nan with one window). Without a reference everything from `perplexity_base` on is nan.

    loss is in nats per scored token, perplexity its exponential; bits_per_byte divides the same nats by ln 2 and the bytes
    of the scored tokens' text. kld is KL(reference || model) in nats; delta_p is the probability of the token that came
    less the reference's (-1 to 1); p999 is the 99.9% quantile over tokens. ln_perplexity_correlation is the correlation of
    the tokens' losses under both, ln_perplexity_ratio the mean of their difference.
    window_losses, window_tokens, window_bytes: float64, int64, int64 (windows,): mean nats, and what they are over.
    """

    protocol: Protocol
    windows: int
    tokens: int
    bytes: int
    loss: float
    loss_stderr: float
    perplexity: float
    perplexity_stderr: float
    bits_per_byte: float
    bits_per_byte_stderr: float
    seconds: float
    window_losses: np.ndarray = field(repr=False, compare=False)
    window_tokens: np.ndarray = field(repr=False, compare=False)
    window_bytes: np.ndarray = field(repr=False, compare=False)

    perplexity_base: float = nan
    perplexity_base_stderr: float = nan
    ln_perplexity_correlation: float = nan
    ln_perplexity_ratio: float = nan
    ln_perplexity_ratio_stderr: float = nan
    perplexity_ratio: float = nan
    perplexity_ratio_stderr: float = nan
    perplexity_difference: float = nan
    perplexity_difference_stderr: float = nan

    kld_mean: float = nan
    kld_mean_stderr: float = nan
    kld_max: float = nan
    kld_p999: float = nan
    kld_p999_stderr: float = nan
    kld_p99: float = nan
    kld_p99_stderr: float = nan
    kld_p95: float = nan
    kld_p95_stderr: float = nan
    kld_p90: float = nan
    kld_p90_stderr: float = nan
    kld_median: float = nan
    kld_median_stderr: float = nan
    kld_p10: float = nan
    kld_p10_stderr: float = nan
    kld_p05: float = nan
    kld_p05_stderr: float = nan
    kld_p01: float = nan
    kld_p01_stderr: float = nan
    kld_p001: float = nan
    kld_p001_stderr: float = nan
    kld_min: float = nan

    delta_p_mean: float = nan
    delta_p_mean_stderr: float = nan
    delta_p_rms: float = nan
    delta_p_rms_stderr: float = nan
    delta_p_max: float = nan
    delta_p_p999: float = nan
    delta_p_p999_stderr: float = nan
    delta_p_p99: float = nan
    delta_p_p99_stderr: float = nan
    delta_p_p95: float = nan
    delta_p_p95_stderr: float = nan
    delta_p_p90: float = nan
    delta_p_p90_stderr: float = nan
    delta_p_p75: float = nan
    delta_p_p75_stderr: float = nan
    delta_p_median: float = nan
    delta_p_median_stderr: float = nan
    delta_p_p25: float = nan
    delta_p_p25_stderr: float = nan
    delta_p_p10: float = nan
    delta_p_p10_stderr: float = nan
    delta_p_p05: float = nan
    delta_p_p05_stderr: float = nan
    delta_p_p01: float = nan
    delta_p_p01_stderr: float = nan
    delta_p_p001: float = nan
    delta_p_p001_stderr: float = nan
    delta_p_min: float = nan
    same_top: float = nan
    same_top_stderr: float = nan

    @property
    def tokens_per_second(self) -> float:
        """Scored tokens per second of the whole measurement."""
        return self.tokens / self.seconds

    @property
    def has_reference(self) -> bool:
        """Whether the model was compared with another."""
        return isfinite(self.perplexity_base)

    def to_json(self) -> dict[str, Any]:
        """Every figure under its name; those of a comparison only where there was one, a missing error as None."""
        compared = {f.name for f in fields(self) if f.default is nan}
        shown = [f.name for f in fields(self) if not f.name.startswith("window_") and f.name != "protocol"]
        figures = {name: getattr(self, name) for name in shown if self.has_reference or name not in compared}
        figures["tokens_per_second"] = self.tokens_per_second
        named = {name: value if isfinite(value) else None for name, value in figures.items()}
        return named | {"protocol": json.loads(self.protocol.to_json())}

    def __rich__(self) -> RenderableType:
        """The figures as a table, under the names that llama-perplexity prints."""
        from kbit.evaluation.table import table

        return table(self)

    def __str__(self) -> str:
        """The same table as plain text."""
        from kbit.evaluation.table import plain

        return plain(self)
