"""SmolLM2-135M-Instruct gives the figures that other programs found for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kbit.evaluation import Protocol, evaluate, read_text, run_tasks
from kbit.models import load

pytestmark = [pytest.mark.real_model, pytest.mark.assets, pytest.mark.slow]


def test_perplexity_on_wikitext_2(smollm2: Path, assets: Path) -> None:
    """19.23 by transformers' own loss: the file as it is, its first 16,384 tokens in windows of 2048."""
    text = read_text(assets / "eval" / "wikitext2_raw_test.txt")
    assert evaluate(load(smollm2), text, protocol=Protocol(max_windows=8)).perplexity == pytest.approx(19.23, abs=0.01)


def test_zero_shot_accuracies(smollm2: Path, assets: Path) -> None:
    """LAMBADA 0.340 of 200 rows, HellaSwag 0.467 and PIQA 0.717 of 60, by another program on these rows."""
    pytest.importorskip("lm_eval", reason="needs the extra kbit[eval]")
    model = load(smollm2)
    found = run_tasks(model, model.kbit_tokenizer, ["lambada", "hellaswag", "piqa"], assets / "eval", limit=60)
    assert found["lambada"]["acc"] == pytest.approx(0.340, abs=0.12)  # of 60 rows: two standard errors
    assert found["hellaswag"]["acc_norm"] == pytest.approx(0.467, abs=0.001)
    assert found["piqa"]["acc_norm"] == pytest.approx(0.717, abs=0.001)
