"""Encoding a large layer takes little more memory than its codes."""

from __future__ import annotations

import subprocess
import sys

import pytest

MEASURE = """
import resource, sys, torch
torch.set_num_threads(1)
from kbit.formats import Format
from kbit.methods import choose
name, text = sys.argv[1:]
choose(name, torch.randn(64, 512), Format.parse(text)).dequantize()  # what is loaded once is not counted
w = torch.randn(4096, 2048)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
choose(name, w, Format.parse(text))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / (4 * w.numel()))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "text", "copies"),
    [  # in float32 copies of the weight; the codes are a quarter of one
        ("rtn", "int4-b64", 0.5),
        ("rtn", "nf4-b64-s8", 0.6),
        ("rtn", "nvfp4", 1.0),
        ("rtn", "int2-b64-min", 0.8),
        ("rtn", "int2-tensor", 0.8),
        ("rtn", "kmeans4-b64", 0.8),
        ("rtn", "int4-b64-o2", 1.6),
        ("rtn-kl", "int8-row", 0.8),
        ("rtn-percentile", "int8-tensor", 3.0),
        ("rtn-percentile", "int8-b64-center", 2.4),
    ],
)
def test_the_peak_above_the_weight_itself(name, text, copies):
    run = subprocess.run([sys.executable, "-c", MEASURE, name, text], capture_output=True, text=True, check=True)
    assert float(run.stdout) < copies, run.stdout
