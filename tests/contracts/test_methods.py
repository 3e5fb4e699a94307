"""What every method must do, the listed ones and those to come."""

from __future__ import annotations

import pytest
import torch

from kbit.errors import FormatError
from kbit.formats import CODEBOOKS, Encoded, Format, encode
from kbit.methods import METHODS, choose
from tests.formats.examples import VARIED, heads, parse, weights

FORMATS = sorted({*VARIED, *(f"{heads(name)[-1]}-b64" for name in CODEBOOKS)})


def tensors(encoded: Encoded) -> dict[str, torch.Tensor]:
    return {name: value for name, value in vars(encoded).items() if isinstance(value, torch.Tensor)}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("text", FORMATS)
def test_codes_and_scales_are_what_the_format_says(name, text):
    fmt, w = parse(text), weights(5, 130)
    encoded = choose(name, w, fmt)
    coded = 130 - fmt.n_kept(130)
    assert encoded.fmt == fmt
    assert encoded.shape == (5, 130)
    assert encoded.codes.shape == (5, coded)
    assert int(encoded.codes.max()) < len(encoded.levels) <= 2**fmt.k
    assert encoded.scale.shape == ((1, 1) if fmt.granularity == "tensor" else (5, fmt.n_blocks(coded)))
    assert bool((encoded.scale >= 0).all())
    assert bool(encoded.dequantize().isfinite().all())
    own = {"asym": "zero", "min": "minimum", "center": "mean"}.get(str(fmt.affine))
    for part in ("zero", "minimum", "mean"):
        assert (getattr(encoded, part) is not None) == (part == own)
    assert (encoded.kept_columns is not None) == (fmt.kept_percent > 0)
    assert (encoded.tensor_scale is not None) == (fmt.scales == "e4m3")


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("text", FORMATS)
def test_the_same_arguments_give_the_same_bytes_and_leave_the_weight_alone(name, text):
    w = weights(5, 130)
    before = w.clone()
    first, second = (tensors(choose(name, w, parse(text), seed=1)) for _ in range(2))
    assert torch.equal(w, before)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[part], second[part]) for part in first)


@pytest.mark.parametrize("name", [name for name in METHODS if name.startswith("rtn")])
@pytest.mark.parametrize("text", FORMATS)
def test_round_to_nearest_takes_the_nearest_on_the_stored_scales(name, text):
    w, fmt = weights(5, 130), parse(text)
    chosen = choose(name, w, fmt)
    again = encode(w, fmt, grid=chosen.grid, kept_columns=chosen.kept_columns)
    assert torch.equal(chosen.codes, again.codes)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("text", [text for text in FORMATS if parse(text).k >= 3])
def test_most_of_the_weight_survives(name, text):
    w = weights(32, 256)
    error = (choose(name, w, parse(text)).dequantize() - w).double().square().mean() / w.double().square().mean()
    assert error < 0.3


@pytest.mark.parametrize("name", METHODS)
def test_columns_that_are_kept_are_the_ones_that_are_named(name):
    w = weights(5, 100)
    encoded = choose(name, w, Format.parse("int3-b64-o2"), kept_columns=torch.tensor([7, 3]))
    assert encoded.kept_columns is not None
    assert encoded.kept_columns.tolist() == [3, 7]
    assert torch.equal(encoded.dequantize()[:, [3, 7]], w[:, [3, 7]].half().float())


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_dtype_comes_in(name, dtype):
    assert choose(name, weights(5, 100).to(dtype), Format.parse("nf4-b64")).dequantize().dtype == torch.float32


@pytest.mark.parametrize("name", METHODS)
def test_float_formats_and_broken_weights_are_refused(name):
    with pytest.raises(FormatError, match="format 'bf16' has no codes"):
        choose(name, weights(2, 2), Format.parse("bf16"))
    w = weights(3, 70)
    w[1, 69] = torch.nan
    with pytest.raises(FormatError, match=r"1 of 210 weights are not finite \(first at \[1, 69\]\)"):
        choose(name, w, Format.parse("nf4-b64"))


def test_an_unknown_method_is_refused_with_the_nearest():
    with pytest.raises(FormatError) as caught:
        choose("rtn-msee", weights(2, 2), Format.parse("nf4-b64"))
    assert str(caught.value).startswith("'rtn-msee' is not a method. Methods are rtn, rtn-mse, rtn-percentile, rtn-kl")
    assert str(caught.value).endswith("; perhaps rtn-mse.")
