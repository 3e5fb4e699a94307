"""encode and dequantize: nearest on the stored grid, and every edge of shapes and values."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kbit.errors import FormatError
from kbit.formats import Encoded, Format, encode, linear_quantize
from kbit.formats.encoded import coded_columns
from tests.formats.examples import ALL, VARIED, parse, weights


def values_of_each_code(encoded: Encoded, row: int, column: int) -> torch.Tensor:
    """What the coded weight at [row, column] would be under every code, from the words of docs/formats.md."""
    block = column // encoded.fmt.block_size(encoded.codes.shape[1])
    own = (0, 0) if encoded.fmt.granularity == "tensor" else (row, block)
    if encoded.zero is not None:
        return (encoded.levels - encoded.zero[own]) * encoded.scale[own]
    shift = encoded.minimum if encoded.minimum is not None else encoded.mean
    return encoded.levels * encoded.scale[own] + (0 if shift is None else shift[own])


@pytest.mark.parametrize("text", ALL)
def test_every_weight_takes_the_nearest_value_of_its_stored_grid(text):
    w = weights(3, 133, seed=len(text))  # 133: no block divides it
    encoded = encode(w, parse(text))
    kept = encoded.kept_columns if encoded.kept_columns is not None else torch.tensor([])
    columns = coded_columns(133, kept)
    found = encoded.dequantize()
    for row in range(3):
        for place in range(0, len(columns), 7):
            column = int(columns[place])
            values = values_of_each_code(encoded, row, place)
            best = (values.double() - w[row, column].double()).abs().min()
            assert found[row, column] == values[int(encoded.codes[row, place])]
            assert abs(found[row, column].double() - w[row, column].double()) <= best + 1e-6 * values.abs().max()


@pytest.mark.parametrize("text", ALL)
@pytest.mark.parametrize("shape", [(1, 1), (1, 65), (17, 3)])
def test_any_shape_has_the_codes_and_scales_that_the_format_says(text, shape):
    fmt = parse(text)
    encoded = encode(weights(*shape), fmt)
    coded = shape[1] - fmt.n_kept(shape[1])
    assert encoded.codes.shape == (shape[0], coded)
    assert encoded.codes.dtype == torch.uint8
    assert encoded.scale.shape == ((1, 1) if fmt.granularity == "tensor" else (shape[0], fmt.n_blocks(coded)))
    assert int(encoded.codes.max()) < len(encoded.levels) <= 2**fmt.k
    assert encoded.dequantize().shape == shape
    for extra in (encoded.zero, encoded.minimum, encoded.mean):
        assert extra is None or extra.shape == encoded.scale.shape


EXTREME = st.one_of(
    st.floats(-1, 1, width=32), st.floats(width=32, allow_nan=False, allow_infinity=False), st.sampled_from([0.0, 1e-45, -3.4e38])
)


@example("kmeans3-b64-o5", [3.4028234663852886e38], 1)
@given(st.sampled_from(VARIED), st.lists(EXTREME, min_size=1, max_size=70), st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_any_finite_weights_give_finite_values(text, numbers, n_out):
    fmt = parse(text)
    w = torch.tensor(numbers).expand(n_out, -1)
    encoded = encode(w, fmt)
    for each in (encoded.dequantize(), encoded.scale, encoded.levels):
        assert bool(each.isfinite().all())
    assert int(encoded.codes.max()) < len(encoded.levels)


@pytest.mark.parametrize("text", ALL)
def test_a_weight_of_zeros_comes_back_as_zeros(text):
    encoded = encode(torch.zeros(2, 70), parse(text))
    assert encoded.dequantize().abs().max() <= 2.0**-120  # e8m0 has no scale of 0


@pytest.mark.parametrize("text", ["int4-b64-min", "int1-b64-min", "int8-tensor-min", "int4-b64-asym", "int4-b64-center"])
@pytest.mark.parametrize("value", [0.25, -3.0])
def test_a_block_of_no_width_comes_back(text, value):
    encoded = encode(torch.full((2, 70), value), parse(text))
    torch.testing.assert_close(encoded.dequantize(), torch.full((2, 70), value), rtol=2**-11, atol=0)


@pytest.mark.parametrize("text", ["int4-b64", "int4-b64-asym", "int4-b64-min", "nf4-b64", "mxfp8", "nvfp4", "kmeans4-row"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_are_their_float32(text, dtype):
    w = weights(4, 100).to(dtype)
    assert torch.equal(encode(w, parse(text)).dequantize(), encode(w.float(), parse(text)).dequantize())


@pytest.mark.parametrize("text", ["int4-b64", "nf4-b64-s8", "int2-b64", "int4-tensor-asym", "kmeans3-b64"])
def test_a_transposed_weight_is_read_as_it_stands(text):
    w = weights(100, 64)
    assert torch.equal(encode(w.T, parse(text)).dequantize(), encode(w.T.contiguous(), parse(text)).dequantize())


@pytest.mark.parametrize("text", VARIED)
def test_rows_do_not_depend_on_how_they_are_cut_into_chunks(text, monkeypatch):
    w = weights(50, 96)
    whole = encode(w, parse(text)).dequantize()
    for module in ("encoded", "encoding", "mse"):
        monkeypatch.setattr(f"kbit.formats.{module}.CHUNK", 1000)
    torch.testing.assert_close(encode(w, parse(text)).dequantize(), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("text", [text for text in VARIED if not parse(text).kept_percent])
def test_what_was_dequantized_encodes_to_itself_on_its_grid(text):
    fmt = parse(text)
    once = encode(weights(8, 128), fmt)
    again = encode(once.dequantize(), fmt, grid=once.grid)
    assert torch.equal(once.codes, again.codes)


def test_the_seeds_formula_is_what_min_formats_do():
    w = weights(1, 64)
    encoded = encode(w, Format.parse("int4-b64-min"))
    low, step = encoded.minimum, encoded.scale
    assert low is not None
    codes = linear_quantize(w, 4, low, low + step * 15)
    ties = ((w - low) / step).frac().sub(0.5).abs() < 1e-4
    assert torch.equal(codes[~ties], encoded.codes[~ties])


def test_kept_columns_come_back_in_16_bits():
    w = weights(6, 100)
    fmt = Format.parse("int2-b64-o10")
    columns = torch.tensor([3, 99, 5, 7, 11, 13, 17, 19, 23, 0])
    encoded = encode(w, fmt, kept_columns=columns)
    assert encoded.kept_columns is not None
    assert encoded.kept_columns.tolist() == sorted(columns.tolist())
    assert torch.equal(encoded.dequantize()[:, columns], w[:, columns].half().float())
    rest = [c for c in range(100) if c not in columns.tolist()]
    assert torch.equal(encoded.dequantize()[:, rest], encode(w[:, rest], Format.parse("int2-b64")).dequantize())


def test_without_a_choice_the_columns_of_largest_deviation_are_kept():
    w = weights(50, 40)
    w[:, 17] *= 5
    encoded = encode(w, Format.parse("nf4-b64-o2"))
    assert encoded.kept_columns is not None
    assert encoded.kept_columns.tolist() == [17]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ([1], "format 'int4-b64-o5' keeps 2 of 40 columns, but 1 distinct ones were named. Name 2 of 0 to 39."),
        ([1, 1], "format 'int4-b64-o5' keeps 2 of 40 columns, but 1 distinct ones were named. Name 2 of 0 to 39."),
        ([1, 40], "format 'int4-b64-o5' keeps 2 of 40 columns, but 2 distinct ones were named. Name 2 of 0 to 39."),
    ],
)
def test_wrong_kept_columns_are_refused(columns, message):
    with pytest.raises(FormatError) as caught:
        encode(weights(4, 40), Format.parse("int4-b64-o5"), kept_columns=torch.tensor(columns))
    assert str(caught.value) == message


def test_kept_columns_for_a_format_that_keeps_none_are_refused():
    with pytest.raises(FormatError, match="format 'int4-b64' keeps no columns in 16 bits"):
        encode(weights(4, 40), Format.parse("int4-b64"), kept_columns=torch.tensor([1]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(bad):
    w = weights(1000, 402)
    w[17, 401] = bad
    w[999, 0] = bad
    with pytest.raises(FormatError) as caught:
        encode(w, Format.parse("nf4-b64"))
    assert str(caught.value) == (
        "2 of 402000 weights are not finite (first at [17, 401]). Mend the checkpoint, or keep this layer in 16 bits."
    )


@pytest.mark.parametrize(
    ("w", "message"),
    [
        (torch.zeros(3), r"a weight of shape \(3,\) and torch.float32 cannot be quantized. Give a matrix"),
        (torch.zeros(3, 0), r"a weight of shape \(3, 0\) and torch.float32 cannot be quantized"),
        (torch.zeros(3, 4, dtype=torch.int32), r"a weight of shape \(3, 4\) and torch.int32 cannot be quantized"),
        (torch.full((1, 1), 1e300, dtype=torch.float64), r"1 of 1 weights are not finite"),
    ],
)
def test_what_is_no_matrix_of_floats_is_refused(w, message):
    with pytest.raises(FormatError, match=message):
        encode(w, Format.parse("nf4-b64"))


def test_float_formats_and_unknown_ranges_are_refused():
    with pytest.raises(FormatError, match=r"format 'bf16' has no codes: it keeps weights as they are. Cast to it"):
        encode(weights(2, 2), Format.parse("bf16"))
    with pytest.raises(FormatError, match=r"'minmax' is not a range. Ranges are min-max, percentile, mse, kl."):
        encode(weights(2, 2), Format.parse("nf4-b64"), range_name="minmax")


def test_mxfp4_of_a_block_worked_out_by_hand():
    """max |x| = 5 gives the power floor(log2(5)) - 2 = 0, so x itself is rounded to the nearest of 0, .5, 1, 1.5, 2, 3, 4, 6."""
    w = torch.tensor([[5.0, -4.9, 0.2, 0.3, -0.75, 1.2, 2.4, 3.4]])
    encoded = encode(w, Format.parse("mxfp4"))
    assert encoded.scale.tolist() == [[1.0]]
    assert encoded.dequantize().tolist() == [[4.0, -4.0, 0.0, 0.5, -1.0, 1.0, 2.0, 3.0]]


def test_nvfp4_of_two_blocks_worked_out_by_hand():
    """The tensor's float32 is 12 / 6 / 448; the scales 12 / 6 and 3 / 6 are 448 and 112 of it, both e4m3 values."""
    w = torch.cat([torch.full((1, 16), 12.0), torch.full((1, 16), 3.0)], 1)
    encoded = encode(w, Format.parse("nvfp4"))
    assert encoded.tensor_scale is not None
    assert encoded.tensor_scale.item() == pytest.approx(12 / 6 / 448)
    torch.testing.assert_close(encoded.scale, torch.tensor([[2.0, 0.5]]))
    torch.testing.assert_close(encoded.dequantize(), w)
