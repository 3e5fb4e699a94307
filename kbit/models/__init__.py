"""Models: load them, find their matrices, state their sizes."""

from kbit.models.architecture import Architecture, architecture, parameters, parameters_linear
from kbit.models.assembly import Assembly
from kbit.models.kbit_linear import (
    KbitEmbedding,
    KbitLinear,
    computing,
    dequantized,
    install,
    packable,
    packed_layers,
    set_floats,
)
from kbit.models.load import load, load_tokenizer
from kbit.models.skeleton import configuration, skeleton
from kbit.models.walk import ROLES, Site, check_finite, rest, unknown, walk, walkable

__all__ = [
    "ROLES",
    "Architecture",
    "Assembly",
    "KbitEmbedding",
    "KbitLinear",
    "Site",
    "architecture",
    "check_finite",
    "computing",
    "configuration",
    "dequantized",
    "install",
    "load",
    "load_tokenizer",
    "packable",
    "packed_layers",
    "parameters",
    "parameters_linear",
    "rest",
    "set_floats",
    "skeleton",
    "unknown",
    "walk",
    "walkable",
]
