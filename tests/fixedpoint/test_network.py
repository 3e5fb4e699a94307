"""Whole networks in integers: near the float ones, without a float, and refused by name where a layer has no such form."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from kbit.errors import FixedPointError
from kbit.fixedpoint import IntegerOnly, convert

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits_integer.py"


def image_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(2, 8, 3, stride=2, padding=1, groups=2), nn.BatchNorm2d(8), nn.ReLU(inplace=True)),
        nn.Conv2d(8, 6, (3, 1), dilation=(2, 1), bias=False), nn.SiLU(), nn.MaxPool2d((1, 2)), nn.BatchNorm2d(6), nn.ReLU(),
        nn.AvgPool2d(2, 1), nn.Dropout(), nn.Flatten(), nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 9), nn.BatchNorm1d(9),
        nn.Tanh(), nn.Linear(9, 9), nn.GELU(approximate="tanh"), nn.Linear(9, 5), nn.Sigmoid(), nn.Linear(5, 4),
    )  # fmt: skip


def line_network() -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(2, 8, 5, stride=2, padding=2), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 3, 3, dilation=2))


def made(make, shape: tuple[int, ...]) -> tuple[nn.Sequential, torch.Tensor]:
    torch.manual_seed(0)
    model, x = make(), torch.randn(200, *shape)
    for parameter in model.parameters():
        parameter.data *= 3 if parameter.dim() > 1 else 1  # PyTorch's start would leave every result nearly constant
    for _ in range(5):  # BatchNorm's averages
        model(x)
    return model.eval(), x


@pytest.mark.parametrize(("make", "shape"), [(image_network, (2, 12, 9)), (line_network, (2, 21))])
def test_a_network_of_8_bits_is_near_the_float_one(make, shape):
    model, x = made(make, shape)
    network = convert(model, x, 8)
    seen = network.input.quantize(x)
    with IntegerOnly() as checker:
        y = network(seen)
    assert checker.operations > 20
    assert y.q.dtype == torch.int16
    real = model(x).detach()
    assert float((y.value - real).norm() / (real - real.mean(0)).norm()) < 0.06
    names = [name for name, _ in network.steps]
    assert names[0] == ("0.0" if make is image_network else "0")


def test_fewer_bits_lose_more_and_the_given_samples_stay_as_they_are():
    model, x = made(image_network, (2, 12, 9))
    before, real = x.clone(), model(x).detach()
    lost = []
    for k in (8, 5, 3):
        network = convert(model, x, k)
        lost.append(float((network(network.input.quantize(x)).value - real).norm()))
    assert lost == sorted(lost)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (nn.Softplus(), r"^1\.0: Softplus has no form in integers\. Layers that have one: Linear, Conv1d, "),
        (nn.Conv2d(2, 2, 3, padding="same"), r"^1\.0: Conv2d with padding by a word or by other than zeros has no form"),
        (nn.MaxPool2d(2, ceil_mode=True), r"^1\.0: MaxPool2d with ceil_mode or return_indices has no form"),
        (nn.AvgPool2d(2, divisor_override=3), r"^1\.0: AvgPool2d with ceil_mode or divisor_override has no form"),
    ],
)
def test_a_layer_without_integers_is_refused_by_name(layer, says):
    with pytest.raises(FixedPointError, match=says):
        convert(nn.Sequential(nn.ReLU(), nn.Sequential(layer)).eval(), torch.ones(1, 2, 6, 6), 8)


def test_a_model_in_training_or_without_layers_is_refused():
    with pytest.raises(FixedPointError, match=r"Call model\.eval\(\) first"):
        convert(nn.Sequential(nn.ReLU()), torch.ones(1), 8)
    with pytest.raises(FixedPointError, match="without a layer"):
        convert(nn.Sequential().eval(), torch.ones(1), 8)


@pytest.mark.slow
def test_digits_lose_at_most_half_a_point_at_8_bits(tmp_path):
    pytest.importorskip("sklearn")
    done = subprocess.run([sys.executable, str(EXAMPLE)], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    percent = {name: float(value) for name, value in re.findall(r"^(float32|\d bits) +([\d.]+)%", done.stdout, re.MULTILINE)}
    assert list(percent) == ["float32", *(f"{k} bits" for k in range(8, 1, -1))]
    assert percent["float32"] > 98
    assert percent["8 bits"] >= percent["float32"] - 0.5
    assert percent["4 bits"] >= percent["float32"] - 1
    assert percent["2 bits"] > 85
