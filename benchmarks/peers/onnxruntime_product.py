"""ONNX Runtime's products: MatMulNBits of 2, 4 and 8 bits, and what quantize_dynamic makes of a product (whole rows in int8).

A model holds a node for each copy of the weight on the same input; one run multiplies by all. accuracy_level 4 lets the kernel
round activations to int8.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from kbit.models.bench import copies_of
from peers import NotInstalled
from peers.turns import Candidate, say

try:
    import onnx
    import onnxruntime
except ImportError as error:
    missing: ImportError | None = error
else:
    missing = None

BITS, BLOCKS, INT8_ACTIVATIONS = (2, 4, 8), (64, 128), 4


def about() -> str:
    """Its version. Raises NotInstalled."""
    if missing:
        raise NotInstalled(f"onnxruntime is left out, for it is not there: {missing}. pip install onnxruntime onnx")
    return f"onnxruntime {onnxruntime.__version__}"


def candidates(shape: tuple[int, int], batch: int, threads: int) -> Iterator[Candidate]:
    """Each width and block, then whole rows in int8. Raises NotInstalled."""
    about()
    makers = [(f"MatMulNBits {bits}-bit b{block}", bits, block) for bits in BITS for block in BLOCKS]
    for name, bits, block in makers:
        try:
            yield packed(name, shape, batch, threads, bits, block)
        except Exception as error:
            say(f"onnxruntime {name} was not built: {type(error).__name__}: {str(error)[:200]}")
    yield whole_rows(shape, batch, threads)


def packed(name: str, shape: tuple[int, int], batch: int, threads: int, bits: int, block: int) -> Candidate:
    """MatMulNBits: codes and a float32 scale to a block."""
    n_out, n_in = shape
    n_bytes = n_out * n_in * bits // 8 + n_out * n_in // block * 4
    copies, rng = copies_of(n_bytes, batch), np.random.default_rng(0)
    nodes, weights = [], {}
    for i in range(copies):
        weights[f"w{i}"] = rng.integers(0, 256, (n_out, n_in // block, block * bits // 8), np.uint8)
        weights[f"s{i}"] = rng.random(n_out * n_in // block, np.float32) * 0.01
        options = {"K": n_in, "N": n_out, "bits": bits, "block_size": block, "accuracy_level": INT8_ACTIVATIONS}
        nodes.append(node("MatMulNBits", ["x", f"w{i}", f"s{i}"], f"y{i}", domain="com.microsoft", **options))
    turn = run_of(nodes, weights, shape, batch, copies, threads)
    return Candidate("onnxruntime", name, str(bits), str(block), f"int8 by {block}", n_bytes, copies, turn)


def whole_rows(shape: tuple[int, int], batch: int, threads: int) -> Candidate:
    """Activations to uint8 with one scale, the integer product, and the scale of each row."""
    n_out, n_in = shape
    n_bytes = n_out * n_in + 4 * n_out
    copies, rng = copies_of(n_bytes, batch), np.random.default_rng(0)
    nodes = [onnx.helper.make_node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"])]
    weights = {"z": np.zeros(n_out, np.int8)}
    for i in range(copies):
        weights[f"w{i}"] = rng.integers(-127, 128, (n_in, n_out), np.int8)
        weights[f"s{i}"] = rng.random(n_out, np.float32)
        nodes += [
            node("MatMulInteger", ["xq", f"w{i}", "xz", "z"], f"a{i}"),
            node("Cast", [f"a{i}"], f"f{i}", to=onnx.TensorProto.FLOAT),
            node("Mul", ["xs", f"s{i}"], f"t{i}"),
            node("Mul", [f"f{i}", f"t{i}"], f"y{i}"),
        ]
    turn = run_of(nodes, weights, shape, batch, copies, threads)
    return Candidate("onnxruntime", "int8 dynamic", "8", "row", "uint8 by token", n_bytes, copies, turn)


def node(kind: str, inputs: list[str], output: str, **options: Any) -> Any:
    """One operation of a model."""
    return onnx.helper.make_node(kind, inputs, [output], **options)


def run_of(nodes: list, weights: dict[str, np.ndarray], shape: tuple[int, int], batch: int, copies: int, threads: int) -> Any:
    """The call that runs a model of these nodes once."""
    (n_out, n_in), value, number = shape, onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    outputs = [value(f"y{i}", number, ["b", n_out]) for i in range(copies)]
    stored = [onnx.numpy_helper.from_array(values, name) for name, values in weights.items()]
    graph = onnx.helper.make_graph(nodes, "g", [value("x", number, ["b", n_in])], outputs, stored)
    sets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    model = onnx.helper.make_model(graph, opset_imports=sets, ir_version=10).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((batch, n_in), np.float32)
    return lambda: session.run(None, {"x": x})
