"""Small GGUF files for the tests, written by gguf-py from tiny transformers models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from transformers import PreTrainedModel
from transformers.integrations import GGUF_CONFIG_MAPPING
from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

from kbit.checkpoints.gguf_file import ADDED_SETTINGS

# GGUF's architecture -> (name in tiny_models.TINY, name in transformers' table of settings)
ARCHITECTURES = {
    "llama": ("llama", "llama"),
    "qwen2": ("qwen2", "qwen2"),
    "qwen3": ("qwen3", "qwen3"),
    "gemma2": ("gemma2", "gemma2"),
    "gemma3": ("gemma3", "gemma3"),
    "phi3": ("phi3", "phi3"),
    "falcon": ("falcon", "falcon"),
    "bloom": ("bloom", "bloom"),
    "gpt2": ("gpt2", "gpt2"),
    "qwen2moe": ("qwen2_moe", "qwen2_moe"),
    "qwen3moe": ("qwen3_moe", "qwen3_moe"),
}


def settings_of(model: PreTrainedModel, architecture: str) -> dict[str, Any]:
    """The settings that transformers reads back for `architecture`, with the values of `model`."""
    config, table = model.config, GGUF_CONFIG_MAPPING[ARCHITECTURES[architecture][1]]
    found = {f"{architecture}.{key}": getattr(config, name, None) for key, name in table.items() if isinstance(name, str)}
    found[f"{architecture}.rope.freq_base"] = getattr(config, "rope_parameters", {}).get("rope_theta")
    found |= {f"{architecture}.{key}": getattr(config, name) for key, name in ADDED_SETTINGS.get(architecture, {}).items()}
    found |= {f"tokenizer.ggml.{word}_token_id": i for word, i in (("bos", 256), ("eos", 257), ("padding", 0))}
    return {key: value for key, value in found.items() if isinstance(value, int | float)}


def tensors_of(model: PreTrainedModel, architecture: str) -> dict[str, np.ndarray]:
    """The weights of `model` by their GGUF names; rows are not reordered, so an oracle must read them back alike."""
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=model.config.to_dict())
    state, tensors = model.state_dict(), {}
    names = get_gguf_hf_weights_map(model, processor)
    for name, parameter in names.items():
        if parameter in state and not (parameter == "lm_head.weight" and model.config.tie_word_embeddings):
            values = state[parameter].float().numpy()
            if "gate_up_proj" in parameter and values.ndim == 3:
                values = np.split(values, 2, axis=1)["_up_" in name]
            if "gate_inp_shexp" in name:
                values = values[0]
            if architecture == "gpt2" and values.ndim == 2 and name.startswith("blk."):
                values = values.T
            tensors[name if name.endswith((".weight", ".bias")) else name + ".weight"] = values
    return tensors


def write_gguf(
    path: Path,
    tensors: dict[str, np.ndarray],
    settings: dict[str, Any],
    *,
    architecture: str = "llama",
    kind: Kind = Kind.F32,
    tokens: int = 258,
) -> Path:
    """Write `tensors` (matrices in `kind` where its blocks divide their rows) and `settings`: ints as uint32, else float32."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in settings.items():
        writer.add_uint32(key, value) if isinstance(value, int) else writer.add_float32(key, value)
    if tokens:
        writer.add_array("tokenizer.ggml.tokens", [f"<{i}>" for i in range(tokens)])
        writer.add_array("tokenizer.ggml.scores", [float(i) for i in range(tokens)])
    block = gguf.GGML_QUANT_SIZES[kind][0]
    for name, values in tensors.items():
        this = kind if values.ndim > 1 and values.shape[-1] % block == 0 else Kind.F32
        stored = gguf.quants.quantize(np.ascontiguousarray(values), this)
        writer.add_tensor(name, stored, raw_dtype=this)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def model_to_gguf(path: Path, model: PreTrainedModel, architecture: str, *, kind: Kind = Kind.F32, tokens: int = 258) -> Path:
    """Write all of `model`."""
    settings = settings_of(model, architecture)
    return write_gguf(path, tensors_of(model, architecture), settings, architecture=architecture, kind=kind, tokens=tokens)


def llama_rows(w: torch.Tensor, n_heads: int) -> torch.Tensor:
    """Rows of q or k as llama.cpp stores them: each head's halves interleaved (convert_hf_to_gguf.py, LlamaModel.permute)."""
    return w.reshape(n_heads, 2, w.shape[0] // n_heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)
