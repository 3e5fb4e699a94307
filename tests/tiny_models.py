"""Tiny transformers causal language models with random weights, one of each kind that the walker must understand."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

VOCABULARY = 258  # 256 bytes, <s>, </s>: no multiple of 16
CONTEXT = 128
HIDDEN, HEADS, KV_HEADS, LAYERS, INTERMEDIATE = 32, 4, 2, 2, 48  # 48: a block of 32 or 64 does not divide the row

TOKENS = {"vocab_size": VOCABULARY, "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": None}
LLAMA_LIKE = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "intermediate_size": INTERMEDIATE,
    "max_position_embeddings": CONTEXT,
}
GPT2_LIKE = {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": HEADS, "n_positions": CONTEXT}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
QWEN_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}

# name -> (model_type, configuration). Names beyond the model_type say what is special.
TINY: dict[str, tuple[str, dict[str, object]]] = {
    "llama": ("llama", dict(LLAMA_LIKE, tie_word_embeddings=False)),
    "llama-tied": ("llama", dict(LLAMA_LIKE, tie_word_embeddings=True)),
    # rows of 36 and 52, 3 heads of 12, one kv head: nothing divides anything
    "llama-ragged": (
        "llama",
        dict(LLAMA_LIKE, hidden_size=36, num_attention_heads=3, num_key_value_heads=1, intermediate_size=52, attention_bias=True),
    ),
    "gpt2": ("gpt2", dict(GPT2_LIKE)),  # Conv1D, tied, learned positions
    "gptj": ("gptj", dict(GPT2_LIKE, rotary_dim=4, tie_word_embeddings=False)),  # a bias in lm_head
    "gpt_neox": (
        "gpt_neox",
        {
            "hidden_size": HIDDEN,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "intermediate_size": INTERMEDIATE,
            "max_position_embeddings": CONTEXT,
        },
    ),
    "opt": (
        "opt",
        {
            "hidden_size": HIDDEN,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "ffn_dim": INTERMEDIATE,
            "max_position_embeddings": CONTEXT,
            "word_embed_proj_dim": HIDDEN,
        },
    ),
    "bloom": ("bloom", {"hidden_size": HIDDEN, "n_layer": LAYERS, "n_head": HEADS}),
    "falcon": (
        "falcon",
        {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "max_position_embeddings": CONTEXT},
    ),
    "mistral": ("mistral", dict(LLAMA_LIKE)),
    "qwen2": ("qwen2", dict(LLAMA_LIKE, tie_word_embeddings=True)),
    "qwen3": ("qwen3", dict(LLAMA_LIKE, head_dim=16)),  # heads * head_dim is not the hidden size
    "gemma2": ("gemma2", dict(LLAMA_LIKE, head_dim=8)),  # scaled, tied embeddings
    "gemma3": ("gemma3_text", dict(LLAMA_LIKE, head_dim=8)),
    "phi": ("phi", dict(LLAMA_LIKE)),
    "phi3": ("phi3", dict(LLAMA_LIKE)),  # fused qkv and gate_up
    "mixtral": ("mixtral", dict(LLAMA_LIKE, **EXPERTS)),  # experts as 3-D parameters
    "qwen2_moe": ("qwen2_moe", dict(LLAMA_LIKE, **QWEN_EXPERTS, shared_expert_intermediate_size=40)),
    "qwen3_moe": ("qwen3_moe", dict(LLAMA_LIKE, **QWEN_EXPERTS, head_dim=8)),
    "gpt_oss": (  # experts transposed, with biases of their own
        "gpt_oss",
        dict(LLAMA_LIKE, **EXPERTS, head_dim=8, rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
    ),
}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer without merges: a token is a byte, <s> is 256 and </s> 257."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: index for index, character in enumerate(alphabet)} | {"<s>": 256, "</s>": 257}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def tiny_model(name: str = "llama", *, seed: int = 0, **changes: object) -> PreTrainedModel:
    """The tiny model `name` of TINY in float32; matrices have the variance 1 / n_in, so that logits are not flat."""
    model_type, settings = TINY[name]
    config = AutoConfig.for_model(model_type, **{**TOKENS, **settings, **changes})
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for parameter in model.parameters():
            noise = torch.randn_like(parameter)
            if parameter.ndim == 1:
                parameter.add_(noise * 0.1)  # norms and biases: near what they were
            else:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5)
    return model.eval()


def tiny(
    name: str, path: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32, shard: str = "50GB", **changes: object
) -> Path:
    """Write the tiny model `name` and its tokenizer to the folder `path` as transformers does; returns `path`."""
    tiny_model(name, seed=seed, **changes).to(dtype).save_pretrained(path, max_shard_size=shard)
    tiny_tokenizer().save_pretrained(path)
    return Path(path)


def tiny_llama(path: Path, *, seed: int = 0, **changes: object) -> Path:
    """Write a tiny Llama (2 layers, hidden 32, vocabulary 258, context 128, not tied) to `path`; returns `path`."""
    return tiny("llama", path, seed=seed, **changes)


def stories260k(path: Path, assets: Path) -> Path:
    """Convert the trained Llama of 260,032 parameters (llama2.c's legacy format) in `assets` to a Hugging Face folder."""
    folder = Path(assets) / "models" / "stories260K"
    raw = (folder / "stories260K.bin").read_bytes()
    dim, hidden, layers, heads, kv_heads, vocabulary, context = struct.unpack("<7i", raw[:28])
    values, at = np.frombuffer(raw, dtype="<f4", offset=28), 0

    def take(*shape: int) -> torch.Tensor:
        nonlocal at
        at += (count := int(np.prod(shape)))
        return torch.from_numpy(values[at - count : at].reshape(shape).copy())

    def half_split(w: torch.Tensor, n_heads: int) -> torch.Tensor:
        """Rotary pairs from (0, 1), (2, 3), ... to (0, d/2), (1, d/2 + 1), ..., as transformers has them."""
        return w.view(n_heads, dim // heads // 2, 2, dim).transpose(1, 2).reshape(-1, dim)

    kv = kv_heads * dim // heads
    tensors = {"model.embed_tokens.weight": take(vocabulary, dim)}
    for name, shape in {
        "input_layernorm": (dim,),
        "self_attn.q_proj": (dim, dim),
        "self_attn.k_proj": (kv, dim),
        "self_attn.v_proj": (kv, dim),
        "self_attn.o_proj": (dim, dim),
        "post_attention_layernorm": (dim,),
        "mlp.gate_proj": (hidden, dim),
        "mlp.down_proj": (dim, hidden),
        "mlp.up_proj": (hidden, dim),
    }.items():
        rotary_heads = {"self_attn.q_proj": heads, "self_attn.k_proj": kv_heads}.get(name)
        for layer, w in enumerate(take(layers, *shape)):
            tensors[f"model.layers.{layer}.{name}.weight"] = half_split(w, rotary_heads) if rotary_heads else w.clone()
    tensors["model.norm.weight"] = take(dim)

    config = AutoConfig.for_model(
        "llama",
        vocab_size=vocabulary,
        hidden_size=dim,
        intermediate_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=context,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert missing == ["lm_head.weight"]
    assert not unexpected
    model.save_pretrained(path)
    stories_tokenizer(folder / "tok512.bin", vocabulary).save_pretrained(path)
    return Path(path)


def stories_tokenizer(file: Path, vocabulary: int) -> PreTrainedTokenizerFast:
    """llama2.c's tok512.bin, a SentencePiece BPE: int32 longest piece, then float32 score, int32 length, bytes of each."""
    raw, at, pieces, scores = file.read_bytes(), 4, [], []
    for _ in range(vocabulary):
        score, length = struct.unpack_from("<fi", raw, at)
        pieces.append(raw[at + 8 : at + 8 + length].decode("utf-8", "replace").replace(" ", "\u2581"))
        scores.append(score)
        at += 8 + length
    pieces[:3] = ["<unk>", "<s>", "</s>"]
    index = {piece: i for i, piece in enumerate(pieces)}
    merges = [
        (scores[i], piece[:cut], piece[cut:])
        for i, piece in enumerate(pieces)
        if i >= 3 and not piece.startswith("<0x")
        for cut in range(1, len(piece))
        if piece[:cut] in index and piece[cut:] in index
    ]
    merges.sort(key=lambda merge: -merge[0])  # the best score merges first
    bpe = models.BPE(vocab=index, merges=[(left, right) for _, left, right in merges], unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
