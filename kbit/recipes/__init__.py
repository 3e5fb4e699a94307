"""Recipes: which format each layer gets, applied to a model in memory or layer by layer on disk; bits are counted."""

from kbit.recipes.bits import BitCount, total_bits
from kbit.recipes.encoding import pack
from kbit.recipes.inspection import Inspection, inspect_model
from kbit.recipes.on_disk import quantize_checkpoint
from kbit.recipes.recipe import Recipe
from kbit.recipes.result import LayerResult, QuantizeResult
from kbit.recipes.simulate import hold, packed_weights, quantize, quantized_weights, rest_values

__all__ = [
    "BitCount",
    "Inspection",
    "LayerResult",
    "QuantizeResult",
    "Recipe",
    "hold",
    "inspect_model",
    "pack",
    "packed_weights",
    "quantize",
    "quantize_checkpoint",
    "quantized_weights",
    "rest_values",
    "total_bits",
]
