"""The operators of packed weights: torch's own checks of them, gradients, compiling, exporting, and never a stale answer."""

from __future__ import annotations

import gc
import threading

import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from kbit.packed import PackedTensor, ops, pack
from tests.packed.formats import encoded

FORMATS = [
    "int4-b64",
    "int4-b40-asym",
    "nf3-row-o3",
    "kmeans2-b40",
    "ternary-b64",
    "fp4-b16-e4m3",
    "int8-tensor",
    "binary-b40-s8",
]


def stored(packed):
    return packed.stored, packed.format_string, *packed.shape


def numbers(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Product(nn.Module):
    def __init__(self, packed, compute):
        super().__init__()
        self.packed, self.compute = packed, compute

    def forward(self, x):
        return self.packed.matmul(x * 2, self.compute) + 1


@pytest.mark.parametrize("text", FORMATS)
def test_torch_finds_no_fault_with_the_operators(text):
    packed = pack(encoded(text, (21, 70)))
    for compute in ("exact", "int8"):
        torch.library.opcheck(ops.matmul, (numbers(2, 3, 70).requires_grad_(), *stored(packed), compute))
        torch.library.opcheck(ops.matmul, (numbers(70).bfloat16(), *stored(packed), compute))
    torch.library.opcheck(ops.matmul_transposed, (numbers(2, 3, 21).requires_grad_(), *stored(packed)))
    torch.library.opcheck(ops.rows, (torch.tensor([[3, 20], [0, 3]]), *stored(packed)))


@pytest.mark.parametrize("compute", ["exact", "int8"])
@pytest.mark.parametrize("text", FORMATS)
def test_the_gradient_is_that_of_the_dequantized_weight(text, compute):
    packed = pack(encoded(text, (21, 70)))
    x, y = numbers(2, 3, 70).requires_grad_(), numbers(2, 3, 21)
    packed.matmul(x, compute).backward(y)
    torch.testing.assert_close(x.grad, y @ packed.dequantize())


def test_the_gradient_of_the_gradient_too():
    packed = pack(encoded("nf4-b64", (5, 7)))
    x, y = numbers(3, 7).requires_grad_(), numbers(3, 5).requires_grad_()
    (grad,) = torch.autograd.grad(packed.matmul(x), x, y, create_graph=True)
    (back,) = torch.autograd.grad(grad, y, grad.detach())
    torch.testing.assert_close(back, (y @ packed.dequantize() @ packed.dequantize().T).detach())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.float32])
def test_x_and_its_gradient_keep_their_dtype(dtype):
    packed = pack(encoded("int4-b64", (21, 70)))
    x = numbers(3, 70).to(dtype).requires_grad_()
    y = packed.matmul(x)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == dtype
    torch.testing.assert_close(y.float(), packed.matmul(x.detach().float()).to(dtype).float())


@pytest.mark.parametrize("compute", ["exact", "int8"])
@pytest.mark.parametrize("shape", [(70,), (1, 70), (2, 3, 70), (0, 70)])
def test_leading_sides_and_strides_make_no_difference(shape, compute):
    packed = pack(encoded("nf4-b40", (21, 70)))
    x = numbers(*shape)
    wide = torch.stack([x, x + 1], -1)[..., 0]  # the same numbers, two apart
    y = packed.matmul(x, compute)
    assert y.shape == (*shape[:-1], 21)
    assert torch.equal(packed.matmul(wide, compute), y)
    assert torch.equal(packed.matmul(x.flatten(0, -2) if x.dim() > 1 else x[None], compute).view(y.shape), y)


@pytest.mark.parametrize("compute", ["exact", "int8"])
def test_a_compiled_module_is_one_graph_and_gives_the_same(compute):
    module = Product(pack(encoded("int3-b40-asym", (21, 70))), compute)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for n in (1, 4, 5):
        x, again = numbers(n, 70).requires_grad_(), numbers(n, 70).requires_grad_()
        module(x).sum().backward()
        compiled(again).sum().backward()
        assert torch.equal(compiled(x), module(x))
        torch.testing.assert_close(again.grad, x.grad)


@pytest.mark.slow
def test_inductor_compiles_it():
    module = Product(pack(encoded("nf4-b64", (21, 70))), "int8")
    x = numbers(3, 70)
    torch.testing.assert_close(torch.compile(module, fullgraph=True)(x), module(x))


def test_an_exported_program_holds_the_bits_and_gives_the_same():
    module = Product(pack(encoded("nf4-b64-o3", (21, 70))), "exact")
    n = torch.export.Dim("n", min=1, max=64)
    program = torch.export.export(module, (numbers(3, 70),), dynamic_shapes={"x": {0: n}})
    assert [node.target for node in program.graph.nodes].count(torch.ops.kbit.matmul.default) == 1
    assert sum(tensor.nbytes for tensor in program.constants.values()) == module.packed.nbytes
    for n in (1, 3, 9):
        assert torch.equal(program.module()(numbers(n, 70)), module(numbers(n, 70)))


@pytest.mark.parametrize("suffix", ["", "_scale", "_levels", "_kept_columns", "_kept_weight"])
def test_an_answer_is_never_stale(suffix):
    """Whatever part changes in its place, the next product and the next rows are those of what is stored then."""
    packed, other = pack(encoded("kmeans2-b40-o3", (21, 70))), pack(encoded("kmeans2-b40-o3", (21, 70), seed=5))
    x = numbers(3, 70)
    for compute in ("exact", "int8"):
        packed.matmul(x, compute)
        ops.matmul(x, *stored(packed), compute)
    packed.parts()[suffix].copy_(other.parts()[suffix])
    fresh = PackedTensor.from_parts(packed.fmt, packed.shape, {name: part.clone() for name, part in packed.parts().items()})
    for compute in ("exact", "int8"):
        assert torch.equal(ops.matmul(x, *stored(packed), compute), ops.matmul(x, *stored(fresh), compute))
        assert torch.equal(packed.matmul(x, compute), fresh.matmul(x, compute))
    assert torch.equal(ops.rows(torch.arange(21), *stored(packed)), fresh.dequantize())
    assert torch.equal(packed.dequantize(), fresh.dequantize())


def test_the_same_codes_under_two_formats_are_two_weights():
    """nf4 and fp4 have parts of the same sizes; one must not pass for the other."""
    packed, x = pack(encoded("nf4-b64", (21, 70))), numbers(3, 70)
    other = PackedTensor.from_parts(pack(encoded("fp4-b64", (21, 70))).fmt, packed.shape, packed.parts())
    for weight in (packed, other, packed):
        torch.testing.assert_close(weight.matmul(x), x @ weight.unpack().dequantize().T)


def test_an_eager_product_is_the_operators_and_a_traced_one_is_the_operator():
    packed, x = pack(encoded("nf4-b40", (21, 70))), numbers(3, 70)
    assert torch.equal(packed.matmul(x, "int8"), ops.matmul(x, *stored(packed), "int8"))
    graph = make_fx(lambda x: packed.matmul(x, "int8"))(x).graph
    assert torch.ops.kbit.matmul.default in [node.target for node in graph.nodes]


def test_what_is_made_ready_goes_with_the_codes():
    packed = pack(encoded("int4-b64", (21, 70)))
    ops.matmul(numbers(70), *stored(packed), "exact")
    key = id(packed.stored[0])
    assert key in ops._PACKED
    del packed
    gc.collect()
    assert key not in ops._PACKED


def test_threads_may_share_a_weight():
    packed, x = pack(encoded("int4-b64", (160, 256))), numbers(9, 256)
    expected, found = packed.matmul(x, "int8"), []

    def work():
        for _ in range(50):
            found.append(torch.equal(packed.matmul(x, "int8"), expected))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 200
    assert all(found)
