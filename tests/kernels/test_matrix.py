"""Matrix: what does not agree is refused before a kernel reads, memory stays alive, and threads of Python do not disturb it."""

from __future__ import annotations

import gc
import multiprocessing
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from kbit.errors import CheckpointError, KernelError
from kbit.kernels import Matrix, _native
from tests.kernels.matrices import small_fields, small_matrix

N_OUT, N_IN = 40, 70  # 48 rows and 96 columns with padding
HALF = torch.float16


def expected(matrix_fields: dict, x: torch.Tensor) -> torch.Tensor:
    """x @ w.T out of the codes alone, whose place docs/formats.md gives."""
    n_out, n_in = matrix_fields["n_out"], matrix_fields["n_in"]
    rows, columns = -(-n_out // 16) * 16, -(-n_in // 32) * 32
    vectors = matrix_fields["codes"].view(rows // 16, columns // 32, 4, 16, 4)  # tile, unit, vector, row, column of a group
    groups = torch.stack([vectors & 15, vectors >> 4], 3)  # two groups to a vector
    codes = groups.permute(0, 4, 1, 2, 3, 5).reshape(rows, columns)
    return x @ (codes[:n_out, :n_in].float() - 7).T


def test_a_product_is_that_of_the_codes():
    fields = small_fields(N_OUT, N_IN)
    x = torch.randint(-3, 4, (3, N_IN)).float()  # sums of whole numbers are exact in float32
    y = torch.empty(3, N_OUT)
    Matrix(**fields).product(x, y, "exact")
    assert torch.equal(y, expected(fields, x))


def test_dequantize_gives_the_rows_that_were_asked_for():
    fields = small_fields(N_OUT, N_IN)
    w = expected(fields, torch.eye(N_IN)).T
    out = torch.empty(5, N_IN)
    Matrix(**fields).dequantize(out, row=30)
    assert torch.equal(out, w[30:35])


def test_activations_are_quantized_segment_by_segment():
    x = torch.linspace(-1, 2, 200)
    q, scale, total = small_matrix(16, 200).quantize_activations(x)
    assert q.tolist() == [*(x[:128] * (127 / x[:128].abs().max())).round().tolist(), *(x[128:] * (127 / 2)).round().tolist()]
    torch.testing.assert_close(scale, torch.stack([x[:128].abs().max(), x[128:].abs().max()]) / 127)
    assert total.tolist() == [q[:128].sum(dtype=torch.int32), q[128:].sum(dtype=torch.int32)]


KEPT = {
    "n_kept": 2,
    "kept_columns": torch.tensor([3, 5, *[0] * 14], dtype=torch.int32),
    "kept_weight": torch.zeros(48 * 2, dtype=HALF),
}
TABLE = {"coding": "table", "first": 0, "integer_levels": torch.arange(16, dtype=torch.int16)}
REFUSED = [
    ({"codes": torch.zeros(48 * 96 // 2 - 1, dtype=torch.uint8)}, "codes is uint8 (2303) and must be uint8 (2304)."),
    ({"codes": torch.zeros(48 * 96 // 2 + 64, dtype=torch.uint8)}, "codes is uint8 (2368) and must be uint8 (2304)."),
    ({"codes": torch.zeros(48 * 96 // 2, dtype=torch.int8)}, "codes is int8 (2304) and must be uint8 (2304)."),
    ({"codes": torch.zeros(48, 48, dtype=torch.uint8)}, "codes is uint8 (48, 48) and must be uint8 (2304)."),
    ({"codes": torch.zeros(48 * 96, dtype=torch.uint8)[::2]}, "codes is uint8 (2304) and must be contiguous."),
    ({"codes": None}, "codes is missing."),
    ({"codes": "bytes"}, "codes is no tensor."),
    ({"codes": torch.zeros(2304, dtype=torch.uint8, device="meta")}, "codes is a tensor without memory of its own."),
    ({"scale": torch.zeros(64)}, "scale is float32 (64) and must be float16 (64)."),
    ({"scale": torch.zeros(64, dtype=torch.bfloat16)}, "scale is bfloat16 (64) and must be float16 (64)."),
    ({"scale": torch.zeros(96, dtype=HALF)}, "scale is float16 (96) and must be float16 (64)."),
    ({"scale": torch.zeros(64, dtype=HALF), "block": 32}, "scale is float16 (64) and must be float16 (160)."),
    ({"scales": "s8", "scale": torch.zeros(64, dtype=torch.uint8)}, "second_scale is missing."),
    ({"second_scale": torch.zeros(64, dtype=HALF)}, "second_scale is given, but this matrix has no such part."),
    ({"zero": torch.zeros(64, dtype=torch.uint8)}, "zero is given, but levels begin elsewhere than at 0."),
    ({"zero": torch.zeros(32, dtype=torch.uint8), "first": 0}, "zero is uint8 (32) and must be uint8 (64)."),
    ({**TABLE, "zero": torch.zeros(64, dtype=torch.uint8)}, "zero is given, but the levels are no whole numbers."),
    ({"shift": torch.zeros(63, dtype=HALF)}, "shift is float16 (63) and must be float16 (64)."),
    ({"levels": torch.zeros(15)}, "levels is float32 (15) and must be float32 (16)."),
    ({**TABLE, "integer_levels": None}, "integer_levels is missing."),
    ({**TABLE, "integer_levels": torch.full((16,), 128, dtype=torch.int16)}, "its integer levels do not fit 8 bits."),
    ({**TABLE, "integer_bits": 12}, "integer_bits is 12, not 16 to 16."),
    ({"integer_levels": torch.zeros(16, dtype=torch.int16)}, "integer_levels is given, but this matrix has no such part."),
    ({"n_kept": 2}, "kept_weight is missing."),
    ({**KEPT, "kept_columns": torch.tensor([5, 3, *[0] * 14], dtype=torch.int32)}, "its kept columns are not ascending"),
    ({**KEPT, "kept_columns": torch.tensor([3, 70, *[0] * 14], dtype=torch.int32)}, "its kept columns are not ascending"),
    ({**KEPT, "kept_columns": torch.tensor([-1, 3, *[0] * 14], dtype=torch.int32)}, "its kept columns are not ascending"),
    ({**KEPT, "kept_columns": torch.tensor([3, 5], dtype=torch.int32)}, "kept_columns is int32 (2) and must be int32 (16)."),
    ({"n_out": 0}, "n_out is 0, not 1 to 2147483647."),
    ({"n_in": 2**31}, "n_in is 2147483648, not 1 to 2147483647."),
    ({"n_out": 2**30, "n_in": 2**30}, "n_in is 1073741824, not 1 to 262144."),
    ({"n_out": 49}, "codes is uint8 (2304) and must be uint8 (3072)."),
    ({"n_kept": 70}, "n_kept is 70, not 0 to 69."),
    ({"block": 0}, "block is 0, not 1 to"),
    ({"block": 32, "per_tensor": True}, "block of a matrix with one scale is 32, not 70 to"),
    ({"k": 0}, "k is 0, not 1 to 8."),
    ({"k": 9}, "k is 9, not 1 to 8."),
    ({"k": 3, "first": -3}, "codes is uint8 (2304) and must be uint8 (1728)."),
    ({"coding": "ternary"}, "k of ternary is 4, not 2 to 2."),
    ({"first": -9}, "first is -9, not -8 to 0."),
    ({"rise": 2}, "rise is 2, not 1 to 1."),
]


@pytest.mark.parametrize(("change", "why"), REFUSED, ids=[why[:50] for _, why in REFUSED])
def test_parts_that_do_not_agree_are_refused(change, why):
    fields = {**small_fields(N_OUT, N_IN), **change}
    with pytest.raises(CheckpointError) as fault:
        Matrix(**fields)
    start = f"a packed weight of shape ({fields['n_out']}, {fields['n_in']}), k = {fields['k']}: {why}"
    assert str(fault.value).startswith(start)
    assert str(fault.value).endswith("The file is damaged: download or copy it again.")


X, Y = torch.zeros(3, N_IN), torch.zeros(3, N_OUT)
PRODUCTS = [
    ((X.double(), Y), "x is float64 (3, 70) and must be float32 (any, 70)."),
    ((X[:, 1:], Y), "x is float32 (3, 69) and must be float32 (any, 70)."),
    ((X[0], Y), "x is float32 (70) and must be float32 (any, 70)."),
    ((torch.zeros(3, 80)[:, :70], Y), "x is float32 (3, 70) and must be contiguous."),
    ((X, Y[:2]), "y is float32 (2, 40) and must be float32 (3, 40)."),
    ((X, torch.zeros(40, 3).T), "y is float32 (3, 40) and must be contiguous."),
    ((X, Y.to(torch.bfloat16)), "y is bfloat16 (3, 40) and must be float32 (3, 40)."),
    ((X, Y, "int4"), "compute is 'int4', not int8 or exact."),
    ((X.to("meta"), Y), "x is a tensor without memory of its own."),
    (([[1.0]], Y), "x is no tensor."),
    ((X, np.broadcast_to(np.float32(0), (3, 40))), "y is no tensor that can be written."),
]


@pytest.mark.parametrize(("arguments", "why"), PRODUCTS, ids=[why[:50] for _, why in PRODUCTS])
def test_activations_that_do_not_fit_are_refused(arguments, why):
    with pytest.raises(KernelError) as fault:
        small_matrix(N_OUT, N_IN).product(*arguments)
    assert str(fault.value) == f"product with a weight of shape (40, 70): {why}"


@pytest.mark.parametrize(("rows", "row"), [(1, 40), (41, 0), (2, -1)])
def test_rows_that_do_not_exist_are_not_dequantized(rows, row):
    with pytest.raises(KernelError, match=r"dequantize a weight of shape \(40, 70\): rows -?\d+ to \d+ are not of 40\."):
        small_matrix(N_OUT, N_IN).dequantize(torch.empty(rows, N_IN), row)


def test_no_rows_are_a_product_too():
    y = torch.empty(0, N_OUT)
    small_matrix(N_OUT, N_IN).product(torch.empty(0, N_IN), y)
    assert y.shape == (0, N_OUT)


def test_arrays_of_numpy_are_taken_as_well():
    fields = small_fields(N_OUT, N_IN)
    arrays = {name: part.numpy() if isinstance(part, torch.Tensor) else part for name, part in fields.items()}
    x, y, same = torch.randn(2, N_IN), torch.empty(2, N_OUT), torch.empty(2, N_OUT)
    Matrix(**fields).product(x, y)
    Matrix(**arrays).product(x.numpy(), same.numpy())
    assert torch.equal(y, same)


def test_a_matrix_keeps_its_bytes_alive_and_lets_them_go_with_it():
    fields = small_fields(N_OUT, N_IN)
    codes = weakref.ref(fields["codes"])
    x, before, after = torch.randn(1, N_IN), torch.empty(1, N_OUT), torch.empty(1, N_OUT)
    matrix = Matrix(**fields)
    matrix.product(x, before)
    del fields
    gc.collect()
    matrix.product(x, after)
    assert torch.equal(before, after)
    assert codes() is not None
    del matrix
    gc.collect()
    assert codes() is None


def test_bytes_that_torch_moves_are_found_where_they_are():
    fields = small_fields(N_OUT, N_IN)
    x, before, after = torch.randn(1, N_IN), torch.empty(1, N_OUT), torch.empty(1, N_OUT)
    matrix = Matrix(**fields)
    matrix.product(x, before)
    fields["codes"].share_memory_()  # to another place; the old one is freed
    matrix.product(x, after)
    assert torch.equal(before, after)


def test_bytes_that_are_taken_away_are_refused_at_the_next_product():
    fields = small_fields(N_OUT, N_IN)
    matrix = Matrix(**fields)
    fields["codes"].resize_(7)
    with pytest.raises(KernelError, match=r"codes is uint8 \(7\) and must be uint8 \(2304\)\."):
        matrix.product(X, torch.empty(3, N_OUT))


@pytest.mark.parametrize("threads", [1, 3])
def test_several_threads_of_python_multiply_at_once(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    matrix = small_matrix(200, 300)
    x = torch.randn(5, 300)
    expected = torch.empty(5, 200)
    matrix.product(x, expected)

    def multiply(_: int) -> bool:
        y = torch.empty(5, 200)
        matrix.product(x, y)
        return torch.equal(y, expected)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(multiply, range(200)))
    torch.set_num_threads(before)


def _product_in_child(matrix, x, send):  # forked, so nothing is pickled
    y = torch.empty(5, 200)
    matrix.product(x, y)
    send.send(y.tolist())


def test_a_forked_child_multiplies_too(monkeypatch):
    _native.set_threads(3)
    monkeypatch.setattr("kbit.kernels.matrix.follow_threads", lambda: None)  # torch's own threads do not survive a fork
    matrix, x, y = small_matrix(200, 300), torch.randn(5, 300), torch.empty(5, 200)
    matrix.product(x, y)
    receive, send = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_product_in_child, args=(matrix, x, send))
    child.start()
    assert receive.poll(30)
    assert receive.recv() == y.tolist()
    child.join(10)
    assert child.exitcode == 0


def test_the_typed_face_of_the_module_names_what_is_there():
    import ast
    from pathlib import Path

    from kbit import kernels

    stub = ast.parse((Path(kernels.__file__).parent / "_native.pyi").read_text(encoding="utf-8"))
    named = {node.name: node for node in stub.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    assert named.keys() == {name for name in vars(_native) if not name.startswith("_")}
    for name, node in named.items():
        if isinstance(node, ast.ClassDef):
            members = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
            assert members - {"__init__"} == {member for member in vars(getattr(_native, name)) if not member.startswith("_")}
