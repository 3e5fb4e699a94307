"""Writes a Llama of transformers as a GGUF file in float32, so that llama.cpp can be asked about the same model."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from gguf import GGUFWriter, TokenType
from transformers import PreTrainedModel, PreTrainedTokenizerBase

LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def export_gguf(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: Path, *, add_bos: bool = False) -> Path:
    """Write `path`: every tensor in float32, the byte-level BPE tokenizer, and whether llama.cpp puts BOS before texts."""
    config = model.config
    writer = GGUFWriter(path, "llama")
    writer.add_name("export")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(0)  # all float32
    add_tokenizer(writer, tokenizer, config.vocab_size, add_bos)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        writer.add_tensor(gguf_name(name), stored(name, tensor, config).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_name(name: str) -> str:
    if name in WHOLE:
        return WHOLE[name]
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{LAYER[rest.removesuffix('.weight')]}.weight"


def stored(name: str, tensor: torch.Tensor, config: object) -> torch.Tensor:
    """float32; rows of Q and K reordered: llama.cpp rotates neighbours (0, 1), transformers the halves (0, d/2)."""
    w = tensor.detach().float()
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return w.contiguous()
    return w.view(heads, 2, -1, w.shape[1]).transpose(1, 2).reshape(w.shape).contiguous()


def add_tokenizer(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase, vocabulary: int, add_bos: bool) -> None:
    bpe = json.loads(tokenizer.backend_tokenizer.to_str())
    special = set(tokenizer.added_tokens_decoder)
    pieces = {index: piece for piece, index in tokenizer.get_vocab().items()}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")  # ByteLevel with GPT-2's regular expression
    writer.add_token_list([pieces.get(i, f"[PAD{i}]") for i in range(vocabulary)])
    writer.add_token_types(
        [TokenType.CONTROL if i in special else TokenType.NORMAL if i in pieces else TokenType.UNUSED for i in range(vocabulary)]
    )
    merges = bpe["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(add_bos)
