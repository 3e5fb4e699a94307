"""torch's own products: floats, whole rows in int8, and the operators for 8 and 4 bits that its other libraries build on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from kbit.models.bench import copies_of
from peers.turns import Candidate, say

BLOCK = 64


def about() -> str:
    """Its version."""
    return f"torch {torch.__version__}"


def candidates(shape: tuple[int, int], batch: int, threads: int) -> Iterator[Candidate]:
    """Each kind of product. Sets torch's threads."""
    torch.set_num_threads(threads)
    x = torch.randn(batch, shape[1], generator=torch.Generator().manual_seed(0))
    makers: dict[str, Callable[[], Candidate]] = {
        "float32": lambda: floats(shape, x, torch.float32),
        "bfloat16": lambda: floats(shape, x, torch.bfloat16),
        "fbgemm": lambda: int8_dynamic(shape, x, "fbgemm"),
        "onednn": lambda: int8_dynamic(shape, x, "onednn"),
        "int8pack": lambda: int8_weights(shape, x),
        "int4pack": lambda: int4_weights(shape, x),
    }
    for name, make in makers.items():
        try:
            yield make()
        except Exception as error:
            say(f"torch {name} was not built: {type(error).__name__}: {str(error)[:200]}")


def floats(shape: tuple[int, int], x: Tensor, dtype: torch.dtype) -> Candidate:
    """linear() in a float type."""
    word, n_bytes = str(dtype).removeprefix("torch."), shape[0] * shape[1] * dtype.itemsize
    weights = [torch.randn(shape).to(dtype) for _ in range(copies_of(n_bytes, len(x)))]
    x = x.to(dtype)
    return candidate(word, str(8 * dtype.itemsize), "", word, n_bytes, weights, lambda w: torch.nn.functional.linear(x, w))


def int8_dynamic(shape: tuple[int, int], x: Tensor, engine: str) -> Candidate:
    """What quantize_dynamic makes of a linear layer: activations to uint8 at each call, of which it uses 7 bits."""
    torch.backends.quantized.engine = engine
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch means to drop these tensors one day
        w = torch.quantize_per_tensor(torch.randn(shape), 0.02, 0, torch.qint8)
    n_bytes = shape[0] * shape[1] + shape[0] * 4
    weights = [torch.ops.quantized.linear_prepack(w, None) for _ in range(copies_of(n_bytes, len(x)))]

    def multiply(packed: object) -> None:
        torch.backends.quantized.engine = engine
        torch.ops.quantized.linear_dynamic(x, packed, reduce_range=True)

    return candidate(f"int8 dynamic ({engine})", "8", "row", "uint7 by tensor", n_bytes, weights, multiply)


def int8_weights(shape: tuple[int, int], x: Tensor) -> Candidate:
    """int8 weights, a scale to a row, activations in bfloat16."""
    n_bytes = shape[0] * shape[1] + shape[0] * 2
    weights = [torch.randint(-127, 128, shape, dtype=torch.int8) for _ in range(copies_of(n_bytes, len(x)))]
    scales, x = torch.rand(shape[0]).bfloat16(), x.bfloat16()
    return candidate(
        "_weight_int8pack_mm", "8", "row", "bfloat16", n_bytes, weights, lambda w: torch._weight_int8pack_mm(x, w, scales)
    )


def int4_weights(shape: tuple[int, int], x: Tensor) -> Candidate:
    """4-bit weights, scale and zero point to a block, activations in bfloat16."""
    n_out, n_in = shape
    n_bytes = n_out * n_in // 2 + n_out * n_in // BLOCK * 4
    codes = torch.randint(0, 16, shape, dtype=torch.int32)
    first = torch._convert_weight_to_int4pack_for_cpu(codes, 1)
    weights = [first.clone() for _ in range(copies_of(n_bytes, len(x)))]
    scales, x = torch.rand(n_in // BLOCK, n_out, 2).bfloat16(), x.bfloat16()
    return candidate(
        f"_weight_int4pack_mm b{BLOCK}",
        "4",
        str(BLOCK),
        "bfloat16",
        n_bytes,
        weights,
        lambda w: torch._weight_int4pack_mm_for_cpu(x, w, BLOCK, scales),
    )


def candidate(
    name: str, width: str, scales: str, activations: str, n_bytes: int, weights: list, multiply: Callable[..., object]
) -> Candidate:
    """A Candidate that multiplies by each of `weights`, without gradients."""

    def turn() -> None:
        with torch.inference_mode():
            for w in weights:
                multiply(w)

    return Candidate("torch", name, width, scales, activations, n_bytes, len(weights), turn)
