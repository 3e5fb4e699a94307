"""Recipes: which format each layer gets, applied to a model in memory or layer by layer on disk; bits are counted."""

from kbit.recipes.bits import BitCount, total_bits
from kbit.recipes.conversion import Converted, FixedPointResult, convert, fixed_point_recipe, quantize_fixed_point
from kbit.recipes.encoding import pack
from kbit.recipes.fixed_point import FixedPoint, integer_format
from kbit.recipes.inspection import Inspection, inspect_model
from kbit.recipes.on_disk import quantize_checkpoint
from kbit.recipes.recipe import Recipe
from kbit.recipes.result import LayerResult, QuantizeResult
from kbit.recipes.simulate import hold, packed_weights, quantize, quantized_weights, rest_values

__all__ = [
    "BitCount",
    "Converted",
    "FixedPoint",
    "FixedPointResult",
    "Inspection",
    "LayerResult",
    "QuantizeResult",
    "Recipe",
    "convert",
    "fixed_point_recipe",
    "hold",
    "inspect_model",
    "integer_format",
    "pack",
    "packed_weights",
    "quantize",
    "quantize_checkpoint",
    "quantize_fixed_point",
    "quantized_weights",
    "rest_values",
    "total_bits",
]
