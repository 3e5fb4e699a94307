"""Models of TinyLlama's shape with random weights, as files of kbit's kind and of llama.cpp's: a real size, made in a minute.

SmolLM2-135M has rows of 576, which the K types of llama.cpp do not divide, and a fifth of it is its embedding: this one shows how
tokens a second follow the bytes. All matrices repeat a few rows: speed does not hang on the values.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from peers.ggml import SAMPLE_ROWS, ggml

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
D, FFN, VOCABULARY, LAYERS = 2048, 5632, 32000, 22
HEADS, KV_HEADS, HEAD = 32, 4, 64
# name in transformers -> name in a GGUF file, shape (out, in)
MATRICES = {
    "self_attn.q_proj": ("attn_q", (D, D)),
    "self_attn.k_proj": ("attn_k", (KV_HEADS * HEAD, D)),
    "self_attn.v_proj": ("attn_v", (KV_HEADS * HEAD, D)),
    "self_attn.o_proj": ("attn_output", (D, D)),
    "mlp.gate_proj": ("ffn_gate", (FFN, D)),
    "mlp.up_proj": ("ffn_up", (FFN, D)),
    "mlp.down_proj": ("ffn_down", (D, FFN)),
}
OUTSIDE = {"model.embed_tokens": ("token_embd", (VOCABULARY, D)), "lm_head": ("output", (VOCABULARY, D))}
NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}


def matrices() -> Iterator[tuple[str, str, tuple[int, int]]]:
    """Every matrix: its name in transformers, in a GGUF file, and its shape."""
    yield from ((name, short, shape) for name, (short, shape) in OUTSIDE.items())
    for layer in range(LAYERS):
        for name, (short, shape) in MATRICES.items():
            yield f"model.layers.{layer}.{name}", f"blk.{layer}.{short}", shape


def norms() -> Iterator[tuple[str, str]]:
    """Every norm: its name in transformers and in a GGUF file."""
    yield "model.norm", "output_norm"
    for layer in range(LAYERS):
        for name, short in NORMS.items():
            yield f"model.layers.{layer}.{name}", f"blk.{layer}.{short}"


def rows(n_in: int) -> Tensor:
    """The rows that every matrix of so many columns repeats."""
    return torch.randn(SAMPLE_ROWS, n_in, generator=torch.Generator().manual_seed(0)) * 0.02


def write_huggingface(folder: Path) -> None:
    """The model in bfloat16, 2.2 GB."""
    folder.mkdir(parents=True)
    weights = {f"{name}.weight": rows(n_in).bfloat16().repeat(n_out // SAMPLE_ROWS, 1) for name, _, (n_out, n_in) in matrices()}
    weights |= {f"{name}.weight": torch.ones(D, dtype=torch.bfloat16) for name, _ in norms()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG))


def write_gguf(path: Path, type_name: str) -> None:
    """The model with all matrices in one type of llama.cpp. Raises NotInstalled without it."""
    import gguf

    writer, kind = gguf.GGUFWriter(path, "llama"), gguf.GGMLQuantizationType[type_name]
    writer.add_context_length(2048)
    writer.add_embedding_length(D)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HEAD)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("none")
    packed = {n_in: ggml().quantize(type_name, rows(n_in).numpy()) for n_in in (D, FFN)}
    for _, name, (n_out, n_in) in matrices():
        repeated = torch.from_numpy(packed[n_in]).repeat(n_out // SAMPLE_ROWS, 1).numpy()
        writer.add_tensor(f"{name}.weight", repeated, raw_dtype=kind)
    for _, name in norms():
        writer.add_tensor(f"{name}.weight", torch.ones(D).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
