"""Numbers: formats, codebooks, ranges, encoding and decoding, error theory, bit counts. Pure functions on tensors."""

from kbit.formats.codebooks import CODEBOOKS, Codebook
from kbit.formats.encoded import Encoded, Grid, encode_on_grid
from kbit.formats.encoding import choose_grid, encode
from kbit.formats.format import Format
from kbit.formats.linear import linear_dequantize, linear_quantize, quantization_error_variance, quantized_matmul
from kbit.formats.nearest import nearest
from kbit.formats.parse import ALIASES
from kbit.formats.ranges import RANGES
from kbit.formats.scales import join_scale, split_scale

__all__ = [
    "ALIASES",
    "CODEBOOKS",
    "RANGES",
    "Codebook",
    "Encoded",
    "Format",
    "Grid",
    "choose_grid",
    "encode",
    "encode_on_grid",
    "join_scale",
    "linear_dequantize",
    "linear_quantize",
    "nearest",
    "quantization_error_variance",
    "quantized_matmul",
    "split_scale",
]
