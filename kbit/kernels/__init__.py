"""Native kernels: the product of a packed k-bit matrix and float32 activations, on the best instruction set of this machine.

Knows codes, tables and scales; no formats, no models. docs/formats.md describes the bytes, csrc/kbit.h the C interface.
"""

from kbit.kernels.decoder import Decoder, Step
from kbit.kernels.fixed import FixedDecoder, FixedStep
from kbit.kernels.machine import (
    InstructionSet,
    isa,
    isa_reason,
    isas,
    read_bandwidth,
    set_isa,
    threads,
    threads_reason,
)
from kbit.kernels.matrix import Matrix

__all__ = [
    "Decoder",
    "FixedDecoder",
    "FixedStep",
    "InstructionSet",
    "Matrix",
    "Step",
    "isa",
    "isa_reason",
    "isas",
    "read_bandwidth",
    "set_isa",
    "threads",
    "threads_reason",
]
