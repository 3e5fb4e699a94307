"""A PackedWeight is a parameter to torch: right when it is read, packed when it is copied, refused when it is written."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional

from kbit.errors import FormatError
from kbit.formats import Format
from kbit.packed import PackedWeight, keep, pack
from tests.packed.formats import encoded


@pytest.fixture(params=["nf4-b64", "int3-b40-asym", "ternary-row", "bf16"])
def packed(request):
    if request.param == "bf16":
        return keep(torch.randn(21, 70), Format.parse("bf16"))
    return pack(encoded(request.param, (21, 70)))


def parameter(packed, **how):
    return nn.Parameter(PackedWeight(packed, **how), requires_grad=False)


def test_it_is_a_parameter_of_the_weights_shape_and_reads_as_the_weight(packed):
    weight, w = parameter(packed), packed.dequantize()
    assert isinstance(weight, nn.Parameter)
    assert isinstance(weight, PackedWeight)
    assert (weight.shape, weight.dtype, weight.device.type) == (w.shape, torch.float32, "cpu")
    assert torch.equal(weight + 0, w)
    assert torch.equal(weight.T @ torch.ones(21, 2), w.T @ torch.ones(21, 2))
    assert torch.equal(weight[3:5], w[3:5])
    assert torch.equal(weight.data.float().sum(), w.sum())
    assert torch.equal(parameter(packed, transposed=True) + 0, w.T)


def test_copies_and_casts_share_the_bits(packed):
    weight = parameter(packed)
    for same in (weight.detach(), weight.clone(), weight.to(torch.bfloat16), weight.half(), copy.deepcopy(weight), weight.data):
        assert isinstance(same, PackedWeight)
        assert same.packed is packed
    assert weight.to(torch.bfloat16).dtype == torch.bfloat16
    assert torch.equal(weight.to(torch.bfloat16) + 0, packed.dequantize().bfloat16())
    assert isinstance(copy.deepcopy(weight), nn.Parameter)
    assert weight.to("meta").device.type == "meta"


def test_pickles_hold_the_bits_and_no_floats(packed):
    layer = nn.Linear(70, 21, bias=False)
    layer.weight = parameter(packed)
    again = pickle.loads(pickle.dumps(layer))
    assert isinstance(again.weight, PackedWeight)
    assert isinstance(again.weight, nn.Parameter)
    assert torch.equal(again.weight + 0, packed.dequantize())
    file = io.BytesIO()
    torch.save(layer, file)
    assert len(file.getvalue()) < packed.nbytes + 10_000
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False).weight + 0, packed.dequantize())


def test_writing_is_refused(packed):
    weight = parameter(packed)
    for write in (lambda: weight.add_(1), lambda: weight.copy_(torch.zeros(21, 70)), lambda: nn.init.normal_(weight)):
        with pytest.raises(
            FormatError, match=r"writes to a packed weight, which holds no floats. Load the model with packed=False"
        ):
            write()


def test_linear_and_embedding_work_on_the_bits(packed):
    weight, w = parameter(packed), packed.dequantize()
    x, bias, ids = torch.randn(2, 3, 70), torch.randn(21), torch.tensor([[0, 20, 3]])
    torch.testing.assert_close(functional.linear(x, weight, bias), functional.linear(x, w, bias))
    torch.testing.assert_close(functional.linear(x, weight), functional.linear(x, w))
    assert torch.equal(functional.embedding(ids, weight), w[ids])
    assert torch.equal(functional.embedding(ids, weight, padding_idx=0), w[ids])
    assert functional.embedding(ids, weight.to(torch.float16)).dtype == torch.float16


def test_torch_can_take_it_apart_and_put_it_together(packed):
    weight = PackedWeight(packed, torch.bfloat16, transposed=True)
    names, context = weight.__tensor_flatten__()
    again = PackedWeight.__tensor_unflatten__({name: getattr(weight, name) for name in names}, context, None, None)
    assert again.shape == weight.shape == (70, 21)
    assert torch.equal(again + 0, weight + 0)
