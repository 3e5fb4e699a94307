"""The figures of a comparison are those that llama-perplexity --kl-divergence defines, whatever comes in which order."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kbit.errors import ModelError
from kbit.evaluation import Protocol, Scorer, tokenize_windows
from tests.tiny_models import VOCABULARY, tiny_tokenizer

TEXT = "The quick brown fox jumps over the lazy dog; was ist das? " * 20


def scored(protocol: Protocol, *, reference: bool = True, seed: int = 0) -> tuple[Scorer, torch.Tensor, torch.Tensor]:
    windows = tokenize_windows(TEXT, tiny_tokenizer(), protocol)
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(*windows.ids.shape, VOCABULARY, generator=generator) * 2
    logits = base + torch.randn(base.shape, generator=generator) * 0.3
    scorer = Scorer(windows)
    for first in range(0, len(windows), 4):
        scorer.update(first, logits[first : first + 4], base[first : first + 4] if reference else None)
    return scorer, logits, base


def per_token(scorer: Scorer, logits: torch.Tensor, base: torch.Tensor) -> dict[str, np.ndarray]:
    """By definition in float64, a token at a time."""
    columns: dict[str, list[float]] = {name: [] for name in ("nll", "nll_base", "kld", "same")}
    for window, first in enumerate(scorer.windows.first):
        for at in range(first, logits.shape[1]):
            q, p = (x[window, at - 1].double().log_softmax(-1) for x in (logits, base))
            token = scorer.windows.ids[window, at]
            columns["nll"].append(-float(q[token]))
            columns["nll_base"].append(-float(p[token]))
            columns["kld"].append(float((p.exp() * (p - q)).sum()))
            columns["same"].append(float(q.argmax() == p.argmax()))
    return {name: np.array(values) for name, values in columns.items()}


@pytest.mark.parametrize("protocol", [Protocol(32), Protocol(32, 20, True), Protocol(32, score="second-half")], ids=str)
def test_every_figure_equals_its_definition(protocol: Protocol) -> None:
    scorer, logits, base = scored(protocol)
    quality, token = scorer.quality(seconds=2.0), per_token(scorer, logits, base)
    close = {"rel": 1e-5, "abs": 1e-6}
    assert quality.tokens == len(token["nll"])
    assert quality.tokens_per_second == quality.tokens / 2
    assert quality.loss == pytest.approx(token["nll"].mean(), **close)
    assert quality.perplexity == pytest.approx(math.exp(token["nll"].mean()), **close)
    assert quality.bits_per_byte == pytest.approx(token["nll"].sum() / math.log(2) / quality.bytes, **close)
    assert quality.perplexity_base == pytest.approx(math.exp(token["nll_base"].mean()), **close)
    assert quality.ln_perplexity_ratio == pytest.approx((token["nll"] - token["nll_base"]).mean(), **close)
    assert quality.perplexity_ratio == pytest.approx(quality.perplexity / quality.perplexity_base, **close)
    assert quality.perplexity_difference == pytest.approx(quality.perplexity - quality.perplexity_base, **close)
    assert quality.ln_perplexity_correlation == pytest.approx(np.corrcoef(token["nll"], token["nll_base"])[0, 1], **close)
    assert quality.same_top == token["same"].mean()
    delta_p = np.exp(-token["nll"]) - np.exp(-token["nll_base"])
    assert quality.delta_p_mean == pytest.approx(delta_p.mean(), **close)
    assert quality.delta_p_rms == pytest.approx(math.sqrt((delta_p**2).mean()), **close)
    for name, values in {"kld": token["kld"], "delta_p": delta_p}.items():
        assert getattr(quality, f"{name}_max") == pytest.approx(values.max(), **close)
        assert getattr(quality, f"{name}_min") == pytest.approx(values.min(), **close)
        for suffix, percent in {
            "p999": 99.9,
            "p99": 99,
            "p95": 95,
            "p90": 90,
            "median": 50,
            "p10": 10,
            "p05": 5,
            "p01": 1,
            "p001": 0.1,
        }.items():
            assert getattr(quality, f"{name}_{suffix}") == pytest.approx(np.percentile(values, percent), **close)
    assert quality.kld_mean == pytest.approx(token["kld"].mean(), **close)
    assert (quality.delta_p_p25, quality.delta_p_p75) == pytest.approx(np.percentile(delta_p, [25, 75]), **close)


def test_standard_errors_are_over_windows() -> None:
    scorer, logits, base = scored(Protocol(32))
    quality, token = scorer.quality(), per_token(scorer, logits, base)
    n = len(scorer.windows)

    def error(values: np.ndarray) -> float:
        return values.reshape(n, -1).mean(1).std(ddof=1) / math.sqrt(n)

    assert quality.loss_stderr == pytest.approx(error(token["nll"]), rel=1e-5)
    assert quality.perplexity_stderr == pytest.approx(quality.perplexity * error(token["nll"]), rel=1e-5)
    assert quality.kld_mean_stderr == pytest.approx(error(token["kld"]), rel=1e-4)
    assert quality.same_top_stderr == pytest.approx(error(token["same"]), rel=1e-9)
    assert quality.ln_perplexity_ratio_stderr == pytest.approx(error(token["nll"] - token["nll_base"]), rel=1e-4)
    assert np.allclose(quality.window_losses, token["nll"].reshape(n, -1).mean(1), rtol=0, atol=1e-6)
    assert (quality.window_tokens == 31).all()
    # Window by window the difference of perplexities follows both models' losses: far less noisy than either alone.
    assert quality.perplexity_difference_stderr < quality.perplexity_stderr / 2
    assert 0 < quality.kld_median_stderr < quality.kld_p999_stderr


def test_order_and_number_of_windows_at_a_time_change_nothing() -> None:
    scorer, logits, base = scored(Protocol(32, 20))
    again = Scorer(scorer.windows)
    for window in reversed(range(len(scorer.windows))):
        again.update(window, logits[window : window + 1], base[window : window + 1])
    assert again.quality().to_json() == scorer.quality().to_json()


def test_without_a_reference_there_is_nothing_of_a_comparison() -> None:
    quality = scored(Protocol(32), reference=False)[0].quality(seconds=1.0)
    assert not quality.has_reference
    assert math.isnan(quality.kld_mean)
    found = quality.to_json()
    assert not any(key.startswith(("kld", "delta_p", "same_top", "perplexity_base", "ln_")) for key in found)
    assert {"perplexity", "perplexity_stderr", "bits_per_byte", "bits_per_byte_stderr", "loss", "tokens", "protocol"} <= set(
        found
    )


def test_loss_that_is_not_finite_is_refused_with_its_window() -> None:
    scorer, logits, base = scored(Protocol(32))
    logits[7, 5, 3] = float("nan")
    with pytest.raises(ModelError) as error:
        scorer.update(6, logits[6:9])
    assert str(error.value) == (
        "window 7: the loss of 1 of 31 tokens is not finite. Look for weights that are not finite, or compute in float32."
    )
    with pytest.raises(ModelError, match=r"^window 7: the reference's loss of 1 of 31 tokens is not finite"):
        scorer.update(6, base[6:9], logits[6:9])


def test_a_reference_of_another_vocabulary_is_refused() -> None:
    scorer, logits, base = scored(Protocol(32))
    with pytest.raises(
        ModelError, match=r"^the reference gives logits of shape \(1, 32, 257\), the model \(1, 32, 258\)\. Compare"
    ):
        scorer.update(0, logits[:1], base[:1, :, 1:])


def test_the_table_has_llama_perplexitys_names_and_every_error() -> None:
    quality = scored(Protocol(32))[0].quality(seconds=1.0)
    lines = str(quality).splitlines()
    assert max(map(len, lines)) <= 100
    for name in (
        "Mean PPL(Q)",
        "Mean PPL(base)",
        "Cor(ln(PPL(Q)), ln(PPL(base)))",
        "Mean ln(PPL(Q)/PPL(base))",
        "Same top p",
        "RMS",
        "99.9%",
    ):
        assert any(line.startswith(name) for line in lines), name
    (mean,) = (line.split() for line in lines if line.startswith("Mean  "))
    assert mean[1:4] == [f"{quality.kld_mean:.6f}", "±", f"{quality.kld_mean_stderr:.6f}"]
    assert mean[4:] == [f"{100 * quality.delta_p_mean:.3f}", "±", f"{100 * quality.delta_p_mean_stderr:.3f}"]
    alone = str(scored(Protocol(32), reference=False)[0].quality())
    assert f"Mean PPL       {scored(Protocol(32), reference=False)[0].quality().perplexity:.4f}  ±" in alone
    assert "KLD" not in alone
