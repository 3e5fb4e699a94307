"""Models: load them, find their matrices, state their sizes."""

from kbit.models.architecture import Architecture, architecture, parameters, parameters_linear
from kbit.models.load import load, load_tokenizer
from kbit.models.walk import ROLES, Site, check_finite, rest, unknown, walk, walkable

__all__ = [
    "ROLES",
    "Architecture",
    "Site",
    "architecture",
    "check_finite",
    "load",
    "load_tokenizer",
    "parameters",
    "parameters_linear",
    "rest",
    "unknown",
    "walk",
    "walkable",
]
