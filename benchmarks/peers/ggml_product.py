"""llama.cpp's products: ggml's mul_mat for each type, all copies of a weight in one graph, as a model's layers are.

A type that ggml repacks for this processor, as llama.cpp does where it may, appears a second time, as NAME+repack. The weights
are a few random rows, quantized and repeated: speed does not hang on the values.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kbit.models.bench import copies_of
from peers.ggml import SAMPLE_ROWS, TYPES, Ggml, InitParams, ggml
from peers.turns import Candidate, say

WIDTHS = {name: "ternary" if name.startswith("TQ") else "16" if name == "F16" else name[1] for name in TYPES}
BY_32 = ("Q1_0", "Q4_0", "Q8_0")  # whose activations have a scale to 32 columns; K types and TQ: to 256
WRONG = 2.0  # relative error of a product that computes something else


def about() -> str:
    """Its version. Raises NotInstalled."""
    return f"ggml {ggml().version().decode()} (llama.cpp)"


def candidates(shape: tuple[int, int], batch: int, threads: int) -> Iterator[Candidate]:
    """Each type, plain and repacked. They hold their weights until they are no longer referred to."""
    g = ggml()
    for name in TYPES:
        for added, memory in g.memory.items():
            product = Product(g, name, shape, batch, threads, memory)
            if not product.supported:
                continue
            if (error := product.error()) > WRONG:
                say(f"llama.cpp {name}{added} is left out: its product is off by {error:.1f} times the result")
                continue
            activations = "float16" if name == "F16" else f"int8 by {32 if name in BY_32 else 256}"
            scales = "" if name == "F16" else {"Q1_0": "128", "Q4_0": "32", "Q8_0": "32", "TQ2_0": "256"}.get(name, "16 or 32")
            yield Candidate(
                "llama.cpp", name + added, WIDTHS[name], scales, activations, product.n_bytes, product.copies, product.turn
            )


class Product:
    """y[batch, out] = x[batch, in] w[out, in]^T for several copies of w, in one graph."""

    def __init__(self, g: Ggml, name: str, shape: tuple[int, int], batch: int, threads: int, memory: int) -> None:
        self.g, self.threads, self.batch, self.n_out = g, threads, batch, shape[0]
        (n_out, n_in), number = shape, TYPES[name]
        self.n_bytes = g.row_size(number, n_in) * n_out
        self.copies = copies_of(self.n_bytes, batch)
        rng = np.random.default_rng(0)
        self.w = rng.standard_normal((SAMPLE_ROWS, n_in), np.float32)
        self.x = rng.standard_normal((batch, n_in), np.float32)
        self.buffers: list[int] = []
        self.context = g.init(InitParams(1 << 22, None, True))
        x = g.new_tensor_2d(self.context, 0, n_in, batch)
        self.graph = g.new_graph(self.context)
        weights = [g.new_tensor_2d(self.context, number, n_in, n_out) for _ in range(self.copies)]
        products = [g.mul_mat(self.context, w, x) for w in weights]
        self.y = products[0]
        self._place(x, g.memory[""], self.x.nbytes)
        base = self._place(self.y, g.memory[""], 4 * batch * n_out)
        for y in products[1:]:
            g.backend_tensor_alloc(self.buffers[-1], y, base)  # all into the same place
        self._place(weights[0], memory, None)
        self.supported = g.backend_dev_supports_op(g.device, self.y)
        if not self.supported:
            return
        packed = g.quantize(name, self.w) if name != "F16" else self.w.astype(np.float16).view(np.uint8)
        packed = np.tile(packed, (n_out // SAMPLE_ROWS, 1))
        for w, y in zip(weights, products, strict=True):
            if w != weights[0]:
                self._place(w, memory, None)
            g.backend_tensor_set(w, packed.ctypes.data, 0, self.n_bytes)
            g.build_forward_expand(self.graph, y)
        g.backend_tensor_set(x, self.x.ctypes.data, 0, self.x.nbytes)

    def _place(self, tensor: int, memory: int, n_bytes: int | None) -> int:
        """A buffer of its own for a tensor; where it begins."""
        size = self.g.backend_buft_get_alloc_size(memory, tensor) if n_bytes is None else n_bytes
        self.buffers.append(self.g.backend_buft_alloc_buffer(memory, size))
        base = self.g.backend_buffer_get_base(self.buffers[-1])
        self.g.backend_tensor_alloc(self.buffers[-1], tensor, base)
        return base

    def turn(self) -> None:
        """Multiply by every copy."""
        self.g.backend_cpu_set_n_threads(self.g.backend, self.threads)
        if status := self.g.backend_graph_compute(self.g.backend, self.graph):
            raise RuntimeError(f"ggml gives status {status}")

    def error(self) -> float:
        """The product's error against float32, relative: that of the type and of its activations."""
        self.turn()
        y = np.empty((self.batch, self.n_out), np.float32)
        self.g.backend_tensor_get(self.y, y.ctypes.data, 0, y.nbytes)
        expected = self.x @ self.w.T
        return float(np.linalg.norm(y[:, -SAMPLE_ROWS:] - expected) / np.linalg.norm(expected))

    def __del__(self) -> None:
        for buffer in self.buffers:
            self.g.backend_buffer_free(buffer)
        self.g.free(self.context)
