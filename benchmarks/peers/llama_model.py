"""llama.cpp's models: load one, read a prompt, generate. The token is always the same: speed does not hang on it."""

from __future__ import annotations

import ctypes as C  # noqa: N812
from functools import cache
from pathlib import Path
from typing import Any

from peers import NotInstalled
from peers.ggml import INSTALL

TOKEN = 5
ALIVE: list[object] = []  # what llama.cpp calls must not be freed


@cache
def llama() -> Any:
    """The package llama_cpp. Raises NotInstalled."""
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:
        raise NotInstalled(f"{INSTALL} ({error})") from None
    llama_cpp.llama_log_set(quiet := llama_cpp.llama_log_callback(lambda *_: None), C.c_void_p())
    ALIVE.append(quiet)
    return llama_cpp


def requantize(source: Path, type_name: str, out: Path) -> None:
    """A GGUF file in another type, from one that is quantized already: good for measuring speed and memory, not quality."""
    api = llama()
    options = api.llama_model_quantize_default_params()
    options.ftype, options.allow_requantize, options.nthread = getattr(api, f"LLAMA_FTYPE_MOSTLY_{type_name}"), True, 2
    if status := api.llama_model_quantize(str(source).encode(), str(out).encode(), options):
        raise RuntimeError(f"llama.cpp cannot make {type_name} of {source}: status {status}")


class LlamaModel:
    """A model and its cache of `capacity` positions, in float16 as is llama.cpp's default."""

    def __init__(self, path: Path, threads: int, capacity: int) -> None:
        """Raises NotInstalled."""
        self.path = path
        self.api = api = llama()
        api.llama_backend_init()
        self.model = api.llama_model_load_from_file(str(path).encode(), api.llama_model_default_params())
        options = api.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = capacity, 512, 512
        options.n_threads = options.n_threads_batch = threads
        self.context = api.llama_init_from_model(self.model, options)
        self.memory = api.llama_get_memory(self.context)

    @property
    def token_bytes(self) -> int:
        """Bytes of weights that a token reads: all, but for an embedding that is not the head too."""
        import gguf

        sizes = {tensor.name: int(tensor.n_bytes) for tensor in gguf.GGUFReader(self.path).tensors}
        return sum(sizes.values()) - ("output.weight" in sizes) * sizes["token_embd.weight"]

    def read(self, count: int) -> None:
        """Forget all, then read so many tokens at once."""
        self.api.llama_memory_clear(self.memory, False)
        self._step(count)

    def generate(self, count: int) -> None:
        """Forget all, then read so many tokens one by one, with logits after each."""
        self.api.llama_memory_clear(self.memory, False)
        for _ in range(count):
            self._step(1)

    def _step(self, count: int) -> None:
        tokens = (C.c_int32 * count)(*[TOKEN] * count)
        if status := self.api.llama_decode(self.context, self.api.llama_batch_get_one(tokens, count)):
            raise RuntimeError(f"llama_decode gives status {status}")
