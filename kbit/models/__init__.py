"""Models: load them, find their matrices, state their sizes."""

from kbit.models.architecture import Architecture, architecture, parameters, parameters_linear
from kbit.models.assembly import Assembly
from kbit.models.load import load, load_tokenizer
from kbit.models.skeleton import configuration, skeleton
from kbit.models.walk import ROLES, Site, check_finite, rest, unknown, walk, walkable

__all__ = [
    "ROLES",
    "Architecture",
    "Assembly",
    "Site",
    "architecture",
    "check_finite",
    "configuration",
    "load",
    "load_tokenizer",
    "parameters",
    "parameters_linear",
    "rest",
    "skeleton",
    "unknown",
    "walk",
    "walkable",
]
