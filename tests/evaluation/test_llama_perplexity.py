"""Under its protocol kbit finds what llama-perplexity finds on the same model in float32, every statistic that it prints.

The program is the one that KBIT_LLAMA_PERPLEXITY names, or the one on the PATH.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from kbit.evaluation import PROTOCOLS, evaluate
from kbit.models import load
from tests.evaluation.gguf_export import export_gguf

pytestmark = [pytest.mark.peer, pytest.mark.slow]

WINDOW = 256  # the family's context
# What it prints -> the field, and by how much they may differ: it rounds the base's log-probabilities to 16 bits and its
# KV cache to float16. The extremes and the tails are single tokens.
PRINTED = {
    "Mean PPL(Q)": ("perplexity", 0.01),
    "Mean PPL(base)": ("perplexity_base", 0.01),
    "Mean ln(PPL(Q)/PPL(base))": ("ln_perplexity_ratio", 1e-4),
    "Mean PPL(Q)/PPL(base)": ("perplexity_ratio", 1e-4),
    "Mean PPL(Q)-PPL(base)": ("perplexity_difference", 1e-3),
    "Cor(ln(PPL(Q)), ln(PPL(base)))": ("ln_perplexity_correlation", 1e-4),
    "Mean KLD": ("kld_mean", 1e-4),
    "Maximum KLD": ("kld_max", 0.01),
    "99.9% KLD": ("kld_p999", 0.01),
    "99.0% KLD": ("kld_p99", 0.003),
    "95.0% KLD": ("kld_p95", 1e-3),
    "90.0% KLD": ("kld_p90", 1e-3),
    "Median KLD": ("kld_median", 2e-4),
    "10.0% KLD": ("kld_p10", 2e-4),
    "5.0% KLD": ("kld_p05", 2e-4),
    "1.0% KLD": ("kld_p01", 2e-4),
    "0.1% KLD": ("kld_p001", 2e-4),
    "Minimum KLD": ("kld_min", 2e-4),
    "Mean Δp": ("delta_p_mean", 2e-5),
    "Maximum Δp": ("delta_p_max", 1e-3),
    "99.9% Δp": ("delta_p_p999", 1e-3),
    "99.0% Δp": ("delta_p_p99", 5e-4),
    "95.0% Δp": ("delta_p_p95", 2e-4),
    "90.0% Δp": ("delta_p_p90", 1e-4),
    "75.0% Δp": ("delta_p_p75", 2e-5),
    "Median Δp": ("delta_p_median", 2e-5),
    "25.0% Δp": ("delta_p_p25", 5e-5),
    "10.0% Δp": ("delta_p_p10", 3e-4),
    "5.0% Δp": ("delta_p_p05", 5e-4),
    "1.0% Δp": ("delta_p_p01", 5e-4),
    "0.1% Δp": ("delta_p_p001", 1e-3),
    "Minimum Δp": ("delta_p_min", 1e-3),
    "RMS Δp": ("delta_p_rms", 2e-5),
    "Same top p": ("same_top", 1e-3),
}


@pytest.fixture(scope="module")
def program() -> str:
    found = os.environ.get("KBIT_LLAMA_PERPLEXITY") or shutil.which("llama-perplexity")
    if not found:
        pytest.skip("llama-perplexity is not installed (or name it in KBIT_LLAMA_PERPLEXITY)")
    return found


def run(program: str, model: Path, text: Path, *options: str | Path) -> str:
    sizes = ["-c", str(WINDOW), "-b", str(WINDOW), "-t", "1"]
    ended = subprocess.run(
        [program, "-m", model, "-f", text, *sizes, *options], capture_output=True, encoding="utf-8", timeout=300, check=True
    )
    return ended.stdout + ended.stderr


def figures(output: str) -> dict[str, float]:
    """What the last part of the output says: name -> value, percentages as fractions."""
    found = re.findall(r"^(\S.*?|\s\S.*?)\s*:\s+(-?\d+\.\d+)(?: ±\s+\d+\.\d+)?\s?(%?)$", output, flags=re.MULTILINE)
    return {" ".join(name.split()): float(value) / (100 if percent else 1) for name, value, percent in found}


@pytest.mark.parametrize("bos", [False, True])
def test_every_statistic_is_llama_perplexitys(program: str, family: Path, tmp_path: Path, bos: bool) -> None:
    base, model, text = load(family / "prose-94k"), load(family / "prose-94k-half"), family / "texts" / "books.txt"
    base_file, model_file = (
        export_gguf(m, m.kbit_tokenizer, tmp_path / f"{name}.gguf", add_bos=bos) for name, m in (("base", base), ("model", model))
    )
    logits = tmp_path / "logits"
    alone = run(program, base_file, text, "--kl-divergence-base", logits)
    theirs = figures(run(program, model_file, text, "--kl-divergence-base", logits, "--kl-divergence"))
    protocol = replace(PROTOCOLS["llama-perplexity"], window=WINDOW, bos=bos)
    ours = evaluate(model, text.read_text(encoding="utf-8"), reference=base, protocol=protocol)

    final = re.search(r"Final estimate: PPL = (\d+\.\d+)", alone)
    assert ours.perplexity_base == pytest.approx(float(final[1]), abs=0.01)
    assert set(theirs) >= set(PRINTED), set(PRINTED) - set(theirs)
    for name, (field, tolerance) in PRINTED.items():
        assert getattr(ours, field) == pytest.approx(theirs[name], abs=tolerance), name
