"""Packed weights: the bits of a k-bit tensor, as they lie in memory and on disk."""

from kbit.packed import ops
from kbit.packed.packed_tensor import COMPUTE, PackedTensor, keep, pack
from kbit.packed.packed_weight import PackedWeight
from kbit.packed.parts import part_sizes

__all__ = ["COMPUTE", "PackedTensor", "PackedWeight", "keep", "ops", "pack", "part_sizes"]
