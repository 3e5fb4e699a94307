"""What quantizing did reads well as a table and as JSON."""

from __future__ import annotations

import json

import pytest

from kbit.cli.show import show
from kbit.recipes import BitCount, LayerResult, QuantizeResult, Recipe
from kbit.recipes.result import human_bytes


def result_with(n_layers, **changes):
    rows = [LayerResult(f"layers.{i}.up", "nf4-b64", "rtn", (160, 64), 4.25, 0.09 + i / 1000) for i in range(n_layers)] + [
        LayerResult("embed", "bf16", None, (1024, 64), 16.0, 0.001)
    ]
    given = {
        "source": "a",
        "out": "b",
        "recipe": Recipe("nf4-b64"),
        "rows": tuple(rows),
        "bits": BitCount(1_600_000, 435_200, 200_000, 102_400),
        "source_bytes": 400_000,
        "seconds": 1.25,
        "peak_bytes": 3_000_000,
    }
    return QuantizeResult(**{**given, **changes})


def test_the_table_says_what_one_wants_to_know(capsys):
    show(result_with(3))
    printed = " ".join(capsys.readouterr().out.split())
    for piece in (
        "a -> b",
        "layers 3 quantized, 1 kept as floats",
        "linear weights 102,400 at 4.250 bits per weight",
        "size before 400.0 kB",
        "size after 200.0 kB (50.0%)",
        "mean layer error 9.10%",
        "worst layer error 9.20% in layers.2.up",
        "seconds 1.2",
        "peak memory 3.0 MB",
        "layers.1.up nf4-b64 rtn 160 x 64 4.250 9.10%",
        "embed bf16 1024 x 64 16.000 0.10%",
    ):
        assert piece in printed


def test_of_many_layers_the_worst_are_shown(capsys):
    show(result_with(40))
    printed = capsys.readouterr().out
    assert "the 12 layers with the largest error" in printed
    assert "layers.39.up" in printed
    assert "layers.27.up" not in printed


def test_json_has_the_totals_and_every_layer(capsys):
    show(result_with(40), json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["total_bits"], found["total_bytes"], found["bits_per_weight"]) == (1_600_000, 200_000, 4.25)
    assert (found["parameters"], found["parameters_linear"], found["source_bytes"]) == (200_000, 102_400, 400_000)
    assert (found["worst_layer"], found["worst_error"]) == ("layers.39.up", pytest.approx(0.129))
    assert found["recipe"]["weights"] == "nf4-b64"
    assert len(found["layers"]) == 41
    assert found["layers"][0] == {
        "layer": "layers.0.up",
        "format": "nf4-b64",
        "method": "rtn",
        "shape": [160, 64],
        "bits_per_weight": 4.25,
        "error": 0.09,
    }


def test_a_model_of_which_nothing_is_quantized_has_no_worst_layer(capsys):
    result = result_with(0)
    assert (result.worst, result.mean_error) == (None, 0.0)
    show(result)
    assert "none: no layer is quantized" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (98_362_432, "98.4 MB"), (3e9, "3.0 GB"), (5e15, "5000.0 TB")],
)
def test_sizes_are_in_powers_of_1000(count, text):
    assert human_bytes(int(count)) == text
