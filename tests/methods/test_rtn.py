"""Round to nearest: which range it takes, and how formats compare on weights that were trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kbit.formats import Format, encode
from kbit.formats.theory import predicted_mse
from kbit.methods import choose
from tests.formats.examples import weights


def relative_error(name: str, w: torch.Tensor, text: str) -> float:
    error = (choose(name, w, Format.parse(text)).dequantize() - w).double().square().mean()
    return float(error / w.double().square().mean())


@pytest.mark.parametrize(
    ("text", "range_name"), [("int1-b64", "mse"), ("nf2-row", "mse"), ("ternary-b64", "mse"), ("int3-b64", "min-max")]
)
def test_it_takes_the_searched_scale_up_to_two_bits(text, range_name):
    w = weights(8, 128)
    expected = encode(w, Format.parse(text), range_name=range_name)
    assert torch.equal(choose("rtn", w, Format.parse(text)).dequantize(), expected.dequantize())


@pytest.mark.parametrize(("name", "range_name"), [("rtn-mse", "mse"), ("rtn-percentile", "percentile"), ("rtn-kl", "kl")])
def test_its_kin_take_the_range_of_their_name(name, range_name):
    w, fmt = weights(8, 128), Format.parse("int4-row")
    assert torch.equal(choose(name, w, fmt).scale, encode(w, fmt, range_name=range_name).scale)


@pytest.mark.parametrize(
    ("text", "expected"),
    [  # relative squared error of a Gaussian: the published optimum, within what scales of 64 weights change
        ("kmeans1-tensor", 0.3634),
        ("kmeans2-tensor", 0.1175),
        ("kmeans3-tensor", 0.03454),
        ("kmeans4-tensor", 0.009497),
    ],
)
def test_a_gaussian_tensor_reaches_the_published_optimum(text, expected):
    assert relative_error("rtn", weights(256, 1024), text) == pytest.approx(expected, rel=0.01)


def test_normal_floats_beat_even_steps_on_a_gaussian_and_both_beat_powers_of_two():
    w = weights(64, 1024)
    errors = [relative_error("rtn", w, text) for text in ("kmeans4-b64", "nf4-b64", "int4-b64", "log4-b64")]
    assert errors == sorted(errors)


def test_smaller_blocks_and_more_bits_err_less():
    w = weights(64, 1024, kind="heavy")
    by_block = [relative_error("rtn", w, f"int4-{group}") for group in ("b16", "b64", "b256", "row", "tensor")]
    by_k = [relative_error("rtn", w, f"int{k}-b64") for k in range(8, 0, -1)]
    assert by_block == sorted(by_block)
    assert by_k == sorted(by_k)


def llama2c_layers(path: Path) -> list[torch.Tensor]:
    """The linear layers of a llama2.c checkpoint: seven int32 (sizes), then float32 tensors one after the other."""
    dim, hidden, n_layers, n_heads, n_kv_heads, vocabulary, _ = np.fromfile(path, np.int32, 7).tolist()
    numbers = torch.from_numpy(np.fromfile(path, np.float32, offset=7 * 4))
    kv = dim // n_heads * n_kv_heads
    layers, at = [], vocabulary * dim + n_layers * dim  # past the embedding and the attention's norms
    for n_out, n_in in [(dim, dim), (kv, dim), (kv, dim), (dim, dim), (0, dim), (hidden, dim), (dim, hidden), (hidden, dim)]:
        size = n_out * n_in
        layers += [numbers[at + i * size : at + (i + 1) * size].view(n_out, n_in) for i in range(n_layers) if size]
        at += n_layers * (size or dim)  # (0, dim): the norms before the feed-forward
    return layers


@pytest.mark.assets
def test_trained_weights_rank_formats_as_a_gaussian_does_and_meet_the_theory(assets: Path):
    """stories260K, a trained Llama in float32; its rows of 64 and 172 leave short blocks."""
    layers = llama2c_layers(assets / "models" / "stories260K" / "stories260K.bin")
    assert [tuple(w.shape) for w in layers[::5]] == [(64, 64), (32, 64), (32, 64), (64, 64), (172, 64), (64, 172), (172, 64)]
    for w in layers[::3]:
        errors = [relative_error("rtn", w, text) for text in ("kmeans4-b64", "nf4-b64", "int4-b64", "log4-b64")]
        assert errors == sorted(errors)
        for text in ("int3-b64", "int4-b64", "nf4-b64", "int8-row"):
            measured = relative_error("rtn", w, text) * float(w.double().square().mean())
            assert predicted_mse(Format.parse(text), w) == pytest.approx(measured, rel=0.2)
