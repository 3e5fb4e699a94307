"""Other programs that multiply packed matrices, each behind the same few lines, so that they take turns with kbit in one process.

LIBRARIES names their modules. Each has `about()`, its version in words, and `candidates(shape, batch, threads)`, which yields a
Candidate for each of its types; both raise NotInstalled where the library is not there. To add one: a module, and a line here.
Whole models, kbit's among them, are in `runners`.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

LIBRARIES = {"llama.cpp": "peers.ggml_product", "onnxruntime": "peers.onnxruntime_product", "torch": "peers.torch_product"}


class NotInstalled(Exception):  # noqa: N818 - a fact about this machine
    """This library is not on this machine; the message says how to get it."""


def library(name: str) -> ModuleType:
    """The module of a library, imported now."""
    return import_module(LIBRARIES[name])
