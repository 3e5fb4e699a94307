"""ggml, the library of tensors in llama.cpp, through ctypes: it is found in LLAMA_CPP_LIB_PATH, or in the package llama_cpp."""

from __future__ import annotations

import ctypes as C  # noqa: N812 - a name for each type would be longer than the signatures
import importlib.util
import os
from functools import cache
from pathlib import Path

import numpy as np

from peers import NotInstalled

INSTALL = (
    'llama.cpp is left out, for it is not there. CMAKE_ARGS="-DGGML_NATIVE=ON" pip install --no-binary llama-cpp-python '
    "llama-cpp-python, or name a folder with libggml.so and libllama.so in LLAMA_CPP_LIB_PATH."
)
# Numbers of types, from ggml.h.
TYPES = {
    "F16": 1,
    "Q4_0": 2,
    "Q8_0": 8,
    "Q2_K": 10,
    "Q3_K": 11,
    "Q4_K": 12,
    "Q5_K": 13,
    "Q6_K": 14,
    "TQ2_0": 35,
    "Q1_0": 41,
}
SAMPLE_ROWS = 32
P, I64, SIZE, INT = C.c_void_p, C.c_int64, C.c_size_t, C.c_int


class InitParams(C.Structure):
    """struct ggml_init_params."""

    _fields_ = (("mem_size", SIZE), ("mem_buffer", P), ("no_alloc", C.c_bool))


# name -> result, arguments
SIGNATURES = {
    "ggml_version": (C.c_char_p,),
    "ggml_init": (P, InitParams),
    "ggml_free": (None, P),
    "ggml_new_tensor_2d": (P, P, INT, I64, I64),
    "ggml_mul_mat": (P, P, P, P),
    "ggml_new_graph": (P, P),
    "ggml_build_forward_expand": (None, P, P),
    "ggml_quantize_init": (None, INT),
    "ggml_quantize_chunk": (SIZE, INT, P, P, I64, I64, I64, P),
    "ggml_row_size": (SIZE, INT, I64),
    "ggml_log_set": (None, P, P),
    "ggml_backend_cpu_init": (P,),
    "ggml_backend_cpu_set_n_threads": (None, P, INT),
    "ggml_backend_cpu_buffer_type": (P,),
    "ggml_backend_cpu_reg": (P,),
    "ggml_backend_graph_compute": (INT, P, P),
    "ggml_backend_buft_name": (C.c_char_p, P),
    "ggml_backend_buft_alloc_buffer": (P, P, SIZE),
    "ggml_backend_buft_get_alloc_size": (SIZE, P, P),
    "ggml_backend_buffer_get_base": (P, P),
    "ggml_backend_buffer_free": (None, P),
    "ggml_backend_tensor_alloc": (INT, P, P, P),
    "ggml_backend_tensor_set": (None, P, P, SIZE, SIZE),
    "ggml_backend_tensor_get": (None, P, P, SIZE, SIZE),
    "ggml_backend_reg_dev_get": (P, P, SIZE),
    "ggml_backend_reg_get_proc_address": (P, P, C.c_char_p),
    "ggml_backend_dev_supports_op": (C.c_bool, P, P),
}


class Ggml:
    """The functions of SIGNATURES without their first word, a processor backend, and the kinds of memory that it takes."""

    def __init__(self) -> None:
        """Raises NotInstalled."""
        try:
            libraries = [C.CDLL(str(folder() / f"libggml{part}.so"), mode=C.RTLD_GLOBAL) for part in ("-base", "-cpu", "")]
        except OSError as error:
            raise NotInstalled(f"{INSTALL} ({error})") from None
        for name, (result, *arguments) in SIGNATURES.items():
            function = next(getattr(library, name) for library in libraries if hasattr(library, name))
            function.restype, function.argtypes = result, arguments
            setattr(self, name.removeprefix("ggml_"), function)
        self._quiet = C.CFUNCTYPE(None, INT, C.c_char_p, P)(lambda *_: None)
        self.log_set(C.cast(self._quiet, P), None)
        self.backend = self.backend_cpu_init()
        registered = self.backend_cpu_reg()
        self.device = self.backend_reg_dev_get(registered, 0)
        self.memory = {"": self.backend_cpu_buffer_type(), **self._repacking(registered)}

    def _repacking(self, registered: int) -> dict[str, int]:
        """Memory that a type is repacked into as llama.cpp loads it, by what is added to the type's name."""
        address = self.backend_reg_get_proc_address(registered, b"ggml_backend_dev_get_extra_bufts")
        extra = C.CFUNCTYPE(C.POINTER(P), P)(address)(self.device) if address else None
        found: dict[str, int] = {}
        while extra and extra[len(found)]:
            kind = extra[len(found)]
            found["+" + self.backend_buft_name(kind).decode().removeprefix("CPU_").lower()] = kind
        return found

    def quantize(self, type_name: str, w: np.ndarray) -> np.ndarray:
        """The rows of w, float32 (rows, n_in), in a type: uint8 (rows, bytes of a row)."""
        number, (rows, n_in) = TYPES[type_name], w.shape
        packed = np.empty((rows, self.row_size(number, n_in)), np.uint8)
        importance = np.ones(n_in, np.float32)
        self.quantize_init(number)
        self.quantize_chunk(number, w.ctypes.data, packed.ctypes.data, 0, rows, n_in, importance.ctypes.data)
        return packed


def folder() -> Path:
    """Where the libraries lie. Raises NotInstalled."""
    if path := os.environ.get("LLAMA_CPP_LIB_PATH"):
        return Path(path)
    found = importlib.util.find_spec("llama_cpp")
    if found is None or found.origin is None:
        raise NotInstalled(INSTALL)
    return Path(found.origin).parent / "lib"


@cache
def ggml() -> Ggml:
    """The library, loaded once. Raises NotInstalled."""
    return Ggml()
