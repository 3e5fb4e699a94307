"""kbit: quantize language models to any k from 1 to 8 bits, measure what each bit costs, and plan under a memory budget.

    model = kbit.load("HuggingFaceTB/SmolLM2-135M")
    small = kbit.quantize(model, "nf4-b64")
    print(kbit.evaluate(small, text, reference=model))

The names of PUBLIC are imported when they are first used, so that `import kbit` takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kbit.errors import KbitError
    from kbit.evaluation import Protocol, Quality, evaluate
    from kbit.formats import (
        Format,
        linear_dequantize,
        linear_quantize,
        quantization_error_variance,
        quantized_matmul,
    )
    from kbit.models import load, load_tokenizer
    from kbit.models.generation import generate
    from kbit.models.sampling import Sampling
    from kbit.packed.packed_tensor import PackedTensor
    from kbit.recipes import Recipe, pack, quantize, quantize_checkpoint, total_bits

# Public name -> the module that defines it.
PUBLIC: dict[str, str] = {
    "Format": "kbit.formats",
    "KbitError": "kbit.errors",
    "PackedTensor": "kbit.packed.packed_tensor",
    "Protocol": "kbit.evaluation",
    "Quality": "kbit.evaluation",
    "Recipe": "kbit.recipes",
    "Sampling": "kbit.models.sampling",
    "evaluate": "kbit.evaluation",
    "generate": "kbit.models.generation",
    "linear_dequantize": "kbit.formats",
    "linear_quantize": "kbit.formats",
    "load": "kbit.models",
    "load_tokenizer": "kbit.models",
    "pack": "kbit.recipes",
    "quantization_error_variance": "kbit.formats",
    "quantize": "kbit.recipes",
    "quantize_checkpoint": "kbit.recipes",
    "quantized_matmul": "kbit.formats",
    "total_bits": "kbit.recipes",
}

__all__ = [
    "Format",
    "KbitError",
    "PackedTensor",
    "Protocol",
    "Quality",
    "Recipe",
    "Sampling",
    "evaluate",
    "generate",
    "linear_dequantize",
    "linear_quantize",
    "load",
    "load_tokenizer",
    "pack",
    "quantization_error_variance",
    "quantize",
    "quantize_checkpoint",
    "quantized_matmul",
    "total_bits",
]


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module 'kbit' has no attribute '{name}'. Public names are {', '.join(PUBLIC)}.")
    value = globals()[name] = getattr(import_module(PUBLIC[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *PUBLIC])
