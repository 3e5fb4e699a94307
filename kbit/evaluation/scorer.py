"""Scores logits as they come, window by window, and keeps a few numbers per token; no logits are kept."""

from __future__ import annotations

import math
from math import nan

import numpy as np
from torch import Tensor

from kbit.errors import ModelError
from kbit.evaluation.divergence import score_against, score_tokens
from kbit.evaluation.estimates import Estimate, bootstrap_counts, quantiles, ratio
from kbit.evaluation.quality import Quality
from kbit.evaluation.windows import Windows

KLD_QUANTILES = {"p999": 0.999, "p99": 0.99, "p95": 0.95, "p90": 0.9, "median": 0.5} | {
    "p10": 0.1,
    "p05": 0.05,
    "p01": 0.01,
    "p001": 0.001,
}
DELTA_P_QUANTILES = KLD_QUANTILES | {"p75": 0.75, "p25": 0.25}
RESAMPLES = 200  # a standard error by bootstrap is itself good to 1 / sqrt(2 * 200) = 5%


class Scorer:
    """Gathers per-token figures of a model, and of its distance to a reference, over the windows of a text.

    Windows may come in any order and number at a time; `quality` wants all of them, with a reference for all or for none.
    """

    def __init__(self, windows: Windows) -> None:
        """Make room for the figures: 5 numbers for each scored token."""
        self.windows = windows
        self._ends = np.cumsum(windows.tokens)
        tokens = int(self._ends[-1])
        self._nats, self._reference_nats, self._divergence = (np.full(tokens, nan) for _ in range(3))
        self._same_top = np.zeros(tokens)
        self._compared = np.zeros(len(windows), dtype=bool)

    def update(self, first_window: int, logits: Tensor, reference_logits: Tensor | None = None) -> None:
        """Score the logits (n, window, vocabulary) of the windows first_window .. first_window + n - 1.

        Logits at a position are of the token after it, as a causal model gives them; those of the last position are unused.
        Raises ModelError where a token that came has no finite loss, or the reference's logits have another shape.
        """
        if reference_logits is not None and reference_logits.shape != logits.shape:
            raise ModelError(
                f"the reference gives logits of shape {tuple(reference_logits.shape)}, the model {tuple(logits.shape)}. "
                "Compare models with one tokenizer and one vocabulary size."
            )
        for i in range(len(logits)):
            self._score(first_window + i, logits[i], None if reference_logits is None else reference_logits[i])

    def _score(self, window: int, logits: Tensor, reference: Tensor | None) -> None:
        first, end = int(self.windows.first[window]), int(self._ends[window])
        targets = self.windows.ids[window, first:].to(logits.device)
        at = slice(end - len(targets), end)
        ours = logits[first - 1 : -1]
        if reference is None:
            self._nats[at] = score_tokens(ours, targets).cpu()
        else:
            theirs = reference[first - 1 : -1].to(logits.device)
            columns = score_against(ours, theirs, targets)
            self._nats[at], self._reference_nats[at], self._divergence[at], self._same_top[at] = (c.cpu() for c in columns)
            self._compared[window] = True
            self._check(window, self._reference_nats[at], "reference's ")
        self._check(window, self._nats[at], "")

    def _check(self, window: int, nats: np.ndarray, whose: str) -> None:
        if not np.isfinite(nats).all():
            count = int((~np.isfinite(nats)).sum())
            raise ModelError(
                f"window {window}: the {whose}loss of {count} of {len(nats)} tokens is not finite. "
                "Look for weights that are not finite, or compute in float32."
            )

    def quality(self, *, seconds: float = nan, seed: int = 0) -> Quality:
        """Everything that was gathered, with standard errors; seed: of the bootstrap. seconds: what the measurement took."""
        assert np.isfinite(self._nats).all(), "quality() before every window was scored"
        assert self._compared.all() or not self._compared.any(), "a reference for some windows only"
        windows = self.windows
        nats = self._by_window(self._nats)
        loss = ratio(nats, windows.tokens)
        figures = {
            **_named("loss", loss),
            **_named("perplexity", loss.exp()),
            **_named("bits_per_byte", ratio(nats, windows.bytes).scaled(1 / math.log(2))),
        }
        if self._compared.any():
            figures |= self._comparison(seed)
        return Quality(
            protocol=windows.protocol,
            windows=len(windows),
            tokens=int(windows.tokens.sum()),
            bytes=int(windows.bytes.sum()),
            seconds=seconds,
            window_losses=nats / windows.tokens,
            window_tokens=windows.tokens,
            window_bytes=windows.bytes,
            **figures,
        )

    def _by_window(self, values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values, self._ends - self.windows.tokens)

    def _mean(self, values: np.ndarray) -> Estimate:
        return ratio(self._by_window(values), self.windows.tokens)

    def _comparison(self, seed: int) -> dict[str, float]:
        base, ln_ratio = self._mean(self._reference_nats), self._mean(self._nats - self._reference_nats)
        ours, theirs = self._mean(self._nats).exp(), base.exp()
        # Linear in the nats of both to first order, so that the error knows that they go together.
        difference = self._mean(self._nats * ours.value - self._reference_nats * theirs.value)
        delta_p = np.exp(-self._nats) - np.exp(-self._reference_nats)
        figures = {
            **_named("perplexity_base", theirs),
            "ln_perplexity_correlation": _correlation(self._nats, self._reference_nats),
            **_named("ln_perplexity_ratio", ln_ratio),
            **_named("perplexity_ratio", ln_ratio.exp()),
            **_named("perplexity_difference", Estimate(ours.value - theirs.value, difference.stderr)),
            **_named("kld_mean", self._mean(self._divergence)),
            "kld_max": float(self._divergence.max()),
            "kld_min": float(self._divergence.min()),
            **_named("delta_p_mean", self._mean(delta_p)),
            **_named("delta_p_rms", self._mean(delta_p**2).root()),
            "delta_p_max": float(delta_p.max()),
            "delta_p_min": float(delta_p.min()),
            **_named("same_top", self._mean(self._same_top)),
        }
        of_window = np.repeat(np.arange(len(self.windows)), self.windows.tokens)
        counts = bootstrap_counts(len(self.windows), RESAMPLES, seed)
        for name, values, fractions in (
            ("kld", self._divergence, KLD_QUANTILES),
            ("delta_p", delta_p, DELTA_P_QUANTILES),
        ):
            found = quantiles(values, of_window, list(fractions.values()), counts)
            for quantile, estimate in zip(fractions, found, strict=True):
                figures |= _named(f"{name}_{quantile}", estimate)
        return figures


def _named(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_stderr": estimate.stderr}


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation; nan where one of them does not vary."""
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm else nan
