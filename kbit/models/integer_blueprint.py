"""A transformer as its parts: norms, matrices, activation, positions. Conversion to integers changes these, then lowers them.

`blueprint_of(model)` takes Llama-like models (RMSNorm, gated SiLU, rotary positions, grouped queries), GPT-2 and GPT-NeoX. KINDS
is the table; to add a kind, write a function that finds its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from kbit.errors import FixedPointError
from kbit.models.architecture import architecture

# transformers' name of an activation -> the table S of kbit.fixedpoint: the activation is x * S(x)
TABLES = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "quick_gelu": "gelu_quick",
}
CHANGING_POSITIONS = ("dynamic", "longrope")  # kinds of rotary embedding whose tables change with the length of the text
MOST_AMPLITUDE = 2 - 2**-13
MOST_POSITIONS = 32768  # rows of attention for which kbit.fixedpoint proves its accumulators


@dataclass
class Linear:
    """A matrix by the name under which a checkpoint stores it, float32 (n_out, n_in), with its bias (n_out,)."""

    name: str
    weight: Tensor
    bias: Tensor | None = None


@dataclass
class Norm:
    """RMSNorm, or LayerNorm where `centred`."""

    name: str
    weight: Tensor
    bias: Tensor | None
    epsilon: float
    centred: bool


@dataclass
class Attention:
    """Query head h reads key-value head h // (heads / kv_heads); scores times `scaling`."""

    q: Linear
    k: Linear
    v: Linear
    o: Linear
    scaling: float
    q_norm: Norm | None = None
    k_norm: Norm | None = None


@dataclass
class Mlp:
    """down(act(gate) * up), or down(act(up)) without a gate. table: S of the activation x * S(x)."""

    gate: Linear | None
    up: Linear
    down: Linear
    table: str

    @property
    def activated(self) -> Linear:
        """The matrix whose result goes through the activation."""
        return self.gate or self.up


@dataclass
class Layer:
    """x + attention(norm(x)), then + mlp(norm(...)); parallel: both from the same x."""

    attention_norm: Norm
    attention: Attention
    mlp_norm: Norm
    mlp: Mlp
    parallel: bool = False


@dataclass
class Blueprint:
    """All parts of a model.

    frequencies: radians a position, float64 (pairs,), where positions are rotary; amplitude: what cosine and sine are multiplied
    by. table: positions that are learned, (positions, n). rotated: of a place whose values go through a Hadamard transform before
    they are multiplied, how many of them together; the matrices there are stored rotated, and so is a tied embedding.
    """

    name: str
    embedding: Linear
    layers: list[Layer]
    norm: Norm
    head: Linear
    heads: int
    kv_heads: int
    head_dim: int
    positions: int
    frequencies: Tensor | None = None
    amplitude: float = 1.0
    table: Tensor | None = None
    changes: list[str] = field(default_factory=list)  # what was done to the weights, in words
    rotated: dict[str, int] = field(default_factory=dict)

    @property
    def tied(self) -> bool:
        """Whether the output head is the embedding."""
        return self.head.name == self.embedding.name

    @property
    def turned_back(self) -> int:
        """How many numbers of an embedded token are turned back together: the rows that a tied head wants are rotated."""
        return self.rotated.get("head", 0) if self.tied else 0

    def readers(self) -> Iterator[tuple[str, tuple[Linear, ...]]]:
        """Each place whose values are multiplied, and the matrices there."""
        for index, layer in enumerate(self.layers):
            attention, mlp = layer.attention, layer.mlp
            yield f"{index}.attention", (attention.q, attention.k, attention.v)
            yield f"{index}.mixed", (attention.o,)
            yield f"{index}.mlp", (mlp.gate, mlp.up) if mlp.gate else (mlp.up,)
            yield f"{index}.inner", (mlp.down,)
        yield "head", (self.head,)

    def linears(self) -> Iterator[Linear]:
        """The matrices of all layers, in order; neither embedding nor head."""
        for layer in self.layers:
            attention, mlp = layer.attention, layer.mlp
            yield from (attention.q, attention.k, attention.v, attention.o)
            yield from ([mlp.gate] if mlp.gate else [])
            yield from (mlp.up, mlp.down)


def blueprint_of(model: PreTrainedModel) -> Blueprint:
    """The parts of `model`, weights copied as float32. Raises FixedPointError, with module and operator, where a part has no
    integer form.
    """
    kind = type(model).__name__
    if kind not in KINDS:
        raise FixedPointError(_strange(model))
    with torch.no_grad():
        return KINDS[kind](model)


def with_weights(blueprint: Blueprint, read: Callable[[str], Tensor]) -> Blueprint:
    """A copy whose matrices have the weights of `read`, by name: what stored bits stand for, to be run in floating point."""
    tied = blueprint.tied
    copy = deepcopy(blueprint)
    for linear in (*copy.linears(), copy.embedding, copy.head):
        linear.weight = read(linear.name)
    if tied:
        copy.head.weight = copy.embedding.weight
    return copy


def _llama_like(model: PreTrainedModel) -> Blueprint:
    body: Any = model.model
    _check_rotary(model)
    embedding = Linear("model.embed_tokens", _floats(body.embed_tokens.weight))
    layers = []
    for index, layer in enumerate(body.layers):
        path, attention, mlp = f"model.layers.{index}", layer.self_attn, layer.mlp
        table = _table(model, f"{path}.mlp.act_fn", model.config.hidden_act)
        q, k, v, o = (_linear(f"{path}.self_attn.{name}_proj", getattr(attention, f"{name}_proj")) for name in "qkvo")
        gate, up, down = (_linear(f"{path}.mlp.{name}_proj", getattr(mlp, f"{name}_proj")) for name in ("gate", "up", "down"))
        norms = {name: getattr(attention, name, None) for name in ("q_norm", "k_norm")}
        head_norms = [None if norm is None else _rms(f"{path}.self_attn.{name}", norm) for name, norm in norms.items()]
        layers.append(
            Layer(
                _rms(f"{path}.input_layernorm", layer.input_layernorm),
                Attention(q, k, v, o, attention.scaling, *head_norms),
                _rms(f"{path}.post_attention_layernorm", layer.post_attention_layernorm),
                Mlp(gate, up, down, table),
            )
        )
    return _whole(model, embedding, layers, _rms("model.norm", body.norm), "lm_head", body.rotary_emb)


def _gpt_neox(model: PreTrainedModel) -> Blueprint:
    body: Any = model.gpt_neox
    _check_rotary(model)
    config: Any = model.config
    heads = config.num_attention_heads
    layers = []
    for index, layer in enumerate(body.layers):
        path, attention = f"gpt_neox.layers.{index}", layer.attention
        fused = _linear(f"{path}.attention.query_key_value", attention.query_key_value)
        rows = torch.arange(len(fused.weight)).view(heads, 3, -1)  # of each head its query, key and value
        q, k, v = (_rows(fused, name, rows[:, place].flatten()) for place, name in enumerate("qkv"))
        layers.append(
            Layer(
                _layer_norm(f"{path}.input_layernorm", layer.input_layernorm),
                Attention(q, k, v, _linear(f"{path}.attention.dense", attention.dense), attention.scaling),
                _layer_norm(f"{path}.post_attention_layernorm", layer.post_attention_layernorm),
                Mlp(
                    None,
                    _linear(f"{path}.mlp.dense_h_to_4h", layer.mlp.dense_h_to_4h),
                    _linear(f"{path}.mlp.dense_4h_to_h", layer.mlp.dense_4h_to_h),
                    _table(model, f"{path}.mlp.act", config.hidden_act),
                ),
                parallel=bool(layer.use_parallel_residual),
            )
        )
    embedding = Linear("gpt_neox.embed_in", _floats(body.embed_in.weight))
    final = _layer_norm("gpt_neox.final_layer_norm", body.final_layer_norm)
    head = "embed_out" if hasattr(model, "embed_out") else "lm_head"
    return _whole(model, embedding, layers, final, head, body.rotary_emb)


def _gpt2(model: PreTrainedModel) -> Blueprint:
    body: Any = model.transformer
    config: Any = model.config
    if config.add_cross_attention:
        raise FixedPointError(f"{_name(model)}, transformer.h.0.crossattention: cross attention has no fixed-point form.")
    layers = []
    for index, layer in enumerate(body.h):
        path, attention = f"transformer.h.{index}", layer.attn
        fused = _linear(f"{path}.attn.c_attn", attention.c_attn)
        rows = torch.arange(len(fused.weight)).view(3, -1)
        q, k, v = (_rows(fused, name, rows[place]) for place, name in enumerate("qkv"))
        layers.append(
            Layer(
                _layer_norm(f"{path}.ln_1", layer.ln_1),
                Attention(q, k, v, _linear(f"{path}.attn.c_proj", attention.c_proj), float(attention.scaling)),
                _layer_norm(f"{path}.ln_2", layer.ln_2),
                Mlp(
                    None,
                    _linear(f"{path}.mlp.c_fc", layer.mlp.c_fc),
                    _linear(f"{path}.mlp.c_proj", layer.mlp.c_proj),
                    _table(model, f"{path}.mlp.act", config.activation_function),
                ),
            )
        )
    embedding = Linear("transformer.wte", _floats(body.wte.weight))
    final = _layer_norm("transformer.ln_f", body.ln_f)
    return _whole(model, embedding, layers, final, "lm_head", None, table=_floats(body.wpe.weight))


# class of the model -> how its parts are found
KINDS: dict[str, Callable[[PreTrainedModel], Blueprint]] = {
    "LlamaForCausalLM": _llama_like,
    "MistralForCausalLM": _llama_like,
    "Qwen2ForCausalLM": _llama_like,
    "Qwen3ForCausalLM": _llama_like,
    "GPT2LMHeadModel": _gpt2,
    "GPTNeoXForCausalLM": _gpt_neox,
}


def _whole(
    model: PreTrainedModel,
    embedding: Linear,
    layers: list[Layer],
    norm: Norm,
    head: str,
    rotary: Any,
    table: Tensor | None = None,
) -> Blueprint:
    """The blueprint of these parts, with the tables of positions and an output head that is tied where the model's is."""
    sizes = architecture(model.config)
    module: Any = model.get_submodule(head)
    tied = module.weight is model.get_input_embeddings().weight
    made = Blueprint(
        name=_name(model),
        embedding=embedding,
        layers=layers,
        norm=norm,
        head=Linear(embedding.name, embedding.weight) if tied else _linear(head, module),
        heads=sizes["heads"],
        kv_heads=sizes["kv_heads"],
        head_dim=sizes["head_dim"],
        positions=_positions(model, sizes["context"]),
    )
    if tied:
        made.head.bias = None if module.bias is None else _floats(module.bias)
    if table is not None:
        made.table = table[: made.positions]
    if rotary is not None:
        made.frequencies, made.amplitude = rotary.inv_freq.detach().double(), float(rotary.attention_scaling)
        if abs(made.amplitude) >= MOST_AMPLITUDE:
            raise FixedPointError(
                f"{made.name}, rotary_emb: it scales cosine and sine by {made.amplitude:.3g}, and 16 bits hold no more than 2."
            )
    return made


def _positions(model: PreTrainedModel, context: int) -> int:
    """As many as the model's context, but no more than one sliding window, and than the integers are proven for."""
    config: Any = model.config
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return min(context, MOST_POSITIONS, window or context)


def _check_rotary(model: PreTrainedModel) -> None:
    rope = (getattr(model.config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope in CHANGING_POSITIONS:
        raise FixedPointError(
            f"{_name(model)}, rotary_emb: {rope} positions depend on the length of the text, so they have no fixed-point form."
        )


def _table(model: PreTrainedModel, module: str, activation: str) -> str:
    if activation not in TABLES:
        raise FixedPointError(
            f"{_name(model)}, {module}: the activation {activation} has no fixed-point form. Those that have one: "
            f"{', '.join(sorted(TABLES))}."
        )
    return TABLES[activation]


def _linear(name: str, module: Any) -> Linear:
    weight = module.weight.T if type(module) is Conv1D else module.weight
    return Linear(name, _floats(weight), None if module.bias is None else _floats(module.bias))


def _rows(fused: Linear, name: str, rows: Tensor) -> Linear:
    """Some rows of a fused matrix, as a matrix of its own."""
    bias = None if fused.bias is None else fused.bias[rows]
    return Linear(f"{fused.name}.{name}", fused.weight[rows], bias)


def _rms(name: str, module: Any) -> Norm:
    return Norm(name, _floats(module.weight), None, float(module.variance_epsilon), centred=False)


def _layer_norm(name: str, module: nn.LayerNorm) -> Norm:
    bias = None if module.bias is None else _floats(module.bias)
    return Norm(name, _floats(module.weight), bias, float(module.eps), centred=True)


def _floats(tensor: Tensor) -> Tensor:
    """A float32 copy."""
    return tensor.detach().to(torch.float32, copy=True).contiguous()


def _name(model: PreTrainedModel) -> str:
    return str(model.name_or_path) or type(model).__name__


def _strange(model: PreTrainedModel) -> str:
    """Why a model of no known kind is refused: the first of its modules that no integer operator stands for."""
    known = (nn.Linear, nn.Embedding, nn.Dropout, nn.LayerNorm, nn.ModuleList, Conv1D)
    inside = [(name, module) for name, module in model.named_modules() if name and not isinstance(module, known)]
    leaves = [pair for pair in inside if not any(True for _ in pair[1].children())]
    attention = [pair for pair in inside if "attention" in type(pair[1]).__name__.lower()]
    name, module = (attention or leaves or [("", model)])[0]
    return (
        f"{_name(model)}, {name}: {type(module).__name__} of {type(model).__name__} has no fixed-point form. "
        f"Models that have one: {', '.join(KINDS)}."
    )
