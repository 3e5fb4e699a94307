"""PackedTensor: nothing is lost, nothing is added, and its size is what the format says."""

from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.errors import CheckpointError, FormatError
from kbit.formats import Encoded, Format
from kbit.packed import COMPUTE, PackedTensor, keep, pack
from tests.packed.formats import SOME, encoded, formats, shapes


def assert_same(a: Encoded, b: Encoded) -> None:
    for field in fields(Encoded):
        left, right = getattr(a, field.name), getattr(b, field.name)
        if isinstance(left, torch.Tensor):
            assert left.dtype == right.dtype, field.name
            assert left.shape == right.shape, field.name
            assert torch.equal(left, right), field.name
        else:
            assert left == right, field.name


@pytest.mark.parametrize("text", SOME)
def test_unpack_undoes_pack_bit_for_bit(text):
    e = encoded(text, (19, 70))
    packed = pack(e)
    assert_same(e, packed.unpack())
    assert torch.equal(packed.dequantize(), e.dequantize())
    assert packed.nbytes * 8 == e.fmt.stored_bits(e.shape)


@settings(max_examples=200, deadline=None)
@given(formats, shapes, st.integers(0, 2**31))
def test_unpack_undoes_pack_for_every_format_and_shape(text, shape, seed):
    e = encoded(text, shape, seed)
    packed = pack(e)
    assert_same(e, packed.unpack())
    assert torch.equal(packed.dequantize(), e.dequantize())
    assert packed.nbytes * 8 == e.fmt.stored_bits(shape) == 8 * sum(part.nbytes for part in packed.parts().values())


@pytest.mark.parametrize("text", ["int4-b64-asym", "nf3-b40-o3", "kmeans2-row", "ternary-tensor", "fp4-b16-e4m3", "int8-b16-s8"])
def test_rows_that_do_not_fit_one_chunk_dequantize_alike(text, monkeypatch):
    e = encoded(text, (37, 70))
    monkeypatch.setattr("kbit.packed.packed_tensor.CHUNK", 200)
    assert torch.equal(pack(e).dequantize(), e.dequantize())


@pytest.mark.parametrize("text", ["int4-b64", "int3-b40-min", "nf4-row-o3", "binary-b64"])
@pytest.mark.parametrize("lead", [(), (3,), (2, 4)])
def test_exact_product_is_that_of_the_dequantized_weight(text, lead):
    packed = pack(encoded(text, (21, 70)))
    x = torch.randn(*lead, 70, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(packed.matmul(x), x @ packed.dequantize().T)
    assert packed.matmul(x.bfloat16()).dtype == torch.bfloat16


def test_a_product_that_cannot_be_had_says_what_can():
    packed = pack(encoded("int4-b64", (21, 70)))
    with pytest.raises(FormatError, match=f"compute 'fast' is not to be had. Write {' or '.join(COMPUTE)}"):
        packed.matmul(torch.ones(70), compute="fast")
    with pytest.raises(
        FormatError, match=r"x of shape \(69,\) does not fit a weight of shape \(21, 70\). Its last side must be 70"
    ):
        packed.matmul(torch.ones(69))


@pytest.mark.parametrize("text", ["f32", "f16", "bf16"])
def test_a_kept_weight_is_the_weight_in_its_dtype(text):
    w, fmt = torch.randn(5, 7), Format.parse(text)
    packed = keep(w, fmt)
    assert torch.equal(packed.dequantize(), w.to(fmt.dtype).float())
    assert packed.nbytes * 8 == fmt.stored_bits((5, 7))
    with pytest.raises(FormatError, match="no codes"):
        packed.unpack()
    with pytest.raises(FormatError, match="has codes"):
        keep(w, Format.parse("int4-b64"))


def test_parts_of_another_size_or_dtype_are_refused():
    packed = pack(encoded("int4-b64", (21, 70)))
    for suffix, wrong in {
        "": packed.parts()[""][:-1],
        "_scale": packed.parts()["_scale"].float(),
        "_extra": torch.zeros(1),
    }.items():
        with pytest.raises(CheckpointError, match=rf"the parts \['{suffix}'\] are missing, left over or of the wrong size"):
            PackedTensor.from_parts(packed.fmt, packed.shape, packed.parts() | {suffix: wrong})


@settings(max_examples=200, deadline=None)
@given(formats, shapes, st.integers(0, 2**31))
def test_random_bytes_are_refused_or_give_finite_weights(text, shape, seed):
    """No byte makes an index run outside a table, or a NaN pass as a weight."""
    packed = pack(encoded(text, shape))
    generator = torch.Generator().manual_seed(seed)
    parts = {
        suffix: torch.randint(0, 256, (part.nbytes,), dtype=torch.uint8, generator=generator).view(part.dtype)
        for suffix, part in packed.parts().items()
    }
    try:
        w = PackedTensor.from_parts(packed.fmt, shape, parts).dequantize()
    except (CheckpointError, FormatError):
        return
    assert not w.isnan().any()
