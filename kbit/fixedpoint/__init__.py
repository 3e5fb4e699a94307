"""Integer-only operators: tensors of k-bit integers with dyadic scales in, the same out, no floating-point operation between.

docs/fixedpoint.md writes the arithmetic down; native kernels must equal it bit for bit. Knows codes and scales; no names of
formats, no models.
"""

from kbit.fixedpoint.checker import IntegerOnly
from kbit.fixedpoint.network import convert

__all__ = ["IntegerOnly", "convert"]
