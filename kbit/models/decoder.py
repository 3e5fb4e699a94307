"""The native decoder: a Llama-like model as one list of steps, which the kernels run from token ids to logits in one call.

`Decoder.of(model, capacity)` gives one for the kinds of NATIVE, and raises ModelError, with the reason, for all others: those run
as modules (kbit.models.generation does either).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kbit import kernels
from kbit.errors import ModelError
from kbit.kernels import Step
from kbit.models.kbit_linear import KbitEmbedding, KbitLinear

# Kinds whose layers are norm, attention with rotary positions, norm, gated SiLU; Qwen 2 has biases, Qwen 3 norms of heads.
NATIVE = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
CHANGING_POSITIONS = ("dynamic", "longrope")  # kinds of rotary embedding whose tables change with the length of the text


@dataclass
class Program:
    """What the native decoder is made of: steps over numbered buffers, and the weights that they name by number."""

    steps: list[Step] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    matrices: list[Any] = field(default_factory=list)
    vectors: list[Tensor] = field(default_factory=list)

    def buffer(self, width: int) -> int:
        """A new buffer of rows of `width` floats."""
        self.widths.append(width)
        return len(self.widths) - 1

    def vector(self, values: Tensor | None) -> int:
        """The number of these float32 values; -1 for none."""
        if values is None:
            return -1
        self.vectors.append(values.detach().float().flatten().contiguous())
        return len(self.vectors) - 1

    def weight(self, module: nn.Module) -> dict[str, int]:
        """A module's weight as a matrix of packed bits, or as dense floats."""
        if isinstance(module, (KbitLinear, KbitEmbedding)):
            self.matrices.append(module.packed.native)
            return {"matrix": len(self.matrices) - 1, "dense": -1}
        assert isinstance(module.weight, Tensor)
        return {"matrix": -1, "dense": self.vector(module.weight)}

    def add(self, op: str, from_: list[int], to: list[int], **operands: Any) -> None:
        """One more step."""
        self.steps.append(Step(op=op, from_=from_, to=to, **operands))

    def norm(self, module: Any, from_: int, to: int) -> None:
        """RMSNorm of all of a row, or of each of its heads."""
        weight = module.weight
        self.add("norm", [from_], [to], vector=[self.vector(weight)], width=weight.numel(), value=module.variance_epsilon)

    def linear(self, from_: int, *modules_to: tuple[nn.Module, int]) -> None:
        """Up to three products of one input."""
        weights = [self.weight(module) for module, _ in modules_to]
        bias = [self.vector(getattr(module, "bias", None)) for module, _ in modules_to]
        self.add(
            "linear",
            [from_],
            [to for _, to in modules_to],
            matrix=[weight["matrix"] for weight in weights],
            dense=[weight["dense"] for weight in weights],
            vector=bias,
        )


def why_not_native(model: PreTrainedModel, capacity: int) -> str | None:
    """Why the native decoder cannot run `model` with so many positions; None where it can."""
    kind, config = type(model).__name__, model.config
    if kind not in NATIVE:
        return f"{kind} is none of {', '.join(NATIVE)}"
    if config.hidden_act not in ("silu", "swish"):
        return f"its activation is {config.hidden_act}, not silu"
    window = getattr(config, "sliding_window", None)
    if window and getattr(config, "use_sliding_window", True) and window < capacity:
        return f"its attention slides over {window} positions, fewer than the {capacity} asked for"
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope in CHANGING_POSITIONS:
        return f"its positions ({rope}) depend on how many there are"
    if any(parameter.device.type not in ("cpu", "meta") for parameter in model.parameters()):
        return "it is not on the CPU"
    return None


def program(model: PreTrainedModel) -> Program:
    """The steps of a model of NATIVE. The last buffer holds the logits."""
    body: Any = model.model
    made = Program()
    attention = body.layers[0].self_attn
    head = attention.head_dim
    hidden_size = body.embed_tokens.weight.shape[1]
    hidden, normed, out = (made.buffer(hidden_size) for _ in range(3))
    q = made.buffer(attention.q_proj.weight.shape[0])
    k, v = (made.buffer(attention.k_proj.weight.shape[0]) for _ in range(2))
    mixed = made.buffer(made.widths[q])
    gate, up = (made.buffer(body.layers[0].mlp.gate_proj.weight.shape[0]) for _ in range(2))
    embedding = made.weight(body.embed_tokens)
    made.add("embed", [], [hidden], matrix=[embedding["matrix"]], dense=[embedding["dense"]])
    for index, layer in enumerate(body.layers):
        attention, mlp = layer.self_attn, layer.mlp
        made.norm(layer.input_layernorm, hidden, normed)
        made.linear(normed, (attention.q_proj, q), (attention.k_proj, k), (attention.v_proj, v))
        if hasattr(attention, "q_norm"):
            made.norm(attention.q_norm, q, q)
            made.norm(attention.k_norm, k, k)
        made.add("rotate", [q], [], width=head)
        made.add("rotate", [k], [], width=head)
        made.add("store", [k, v], [], layer=index)
        made.add("attend", [q], [mixed], layer=index, value=attention.scaling)
        made.linear(mixed, (attention.o_proj, out))
        made.add("add", [out], [hidden])
        made.norm(layer.post_attention_layernorm, hidden, normed)
        made.linear(normed, (mlp.gate_proj, gate), (mlp.up_proj, up))
        made.add("gate", [gate, up], [gate])
        made.linear(gate, (mlp.down_proj, out))
        made.add("add", [out], [hidden])
    made.add("last", [hidden], [out])
    made.norm(body.norm, out, normed)
    head_module: Any = model.lm_head
    made.linear(normed, (head_module, made.buffer(head_module.weight.shape[0])))
    return made


class Decoder:
    """A model and its cache: `decoder(tokens)` reads them after those so far and gives logits, float32 (1, vocabulary).

    compute: how packed products are made, "int8" or "exact". The same bits for any number of threads, and however the tokens
    are cut into calls; with int8 for any instruction set too.
    """

    def __init__(self, model: PreTrainedModel, capacity: int, compute: str = "int8") -> None:
        """Raises ModelError where the native decoder does not know this kind of model."""
        if (reason := why_not_native(model, capacity)) is not None:
            raise ModelError(f"{type(model).__name__} does not run natively: {reason}. Generate with its modules instead.")
        made = program(model)
        attention: Any = model.model.layers[0].self_attn
        cosine, sine = rotations(model, capacity)
        self.capacity, self.compute, self.vocabulary = capacity, compute, made.widths[-1]
        self._native = kernels.Decoder(
            steps=made.steps,
            widths=made.widths,
            matrices=made.matrices,
            vectors=made.vectors,
            cosine=cosine,
            sine=sine,
            layers=len(model.model.layers),
            kv_heads=made.widths[4] // attention.head_dim,
            head=attention.head_dim,
            capacity=capacity,
        )

    def __call__(self, tokens: Tensor, *, every: bool = False) -> Tensor:
        """Logits after `tokens`, int64 (n,): of the last one, or with `every` of each, (n, vocabulary).

        Raises ModelError where the cache cannot hold them.
        """
        if self.position + len(tokens) > self.capacity:
            raise ModelError(
                f"{self.position} + {len(tokens)} tokens do not fit a cache of {self.capacity}. Ask for a larger capacity."
            )
        logits = torch.empty(len(tokens) if every else 1, self.vocabulary)
        self._native.run(tokens.contiguous(), logits, self.compute)
        return logits

    @property
    def position(self) -> int:
        """Tokens read so far."""
        return self._native.position

    def rewind(self, position: int) -> None:
        """Forget what was read from `position` on."""
        self._native.rewind(position)

    @property
    def cache_bytes(self) -> int:
        """Memory of keys and values, at 32 bits."""
        return self._native.cache_bytes


def rotations(model: PreTrainedModel, capacity: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each position and pair, float32 (capacity, head / 2), as the model's own module has them."""
    rotary: Any = model.model.rotary_emb
    with torch.no_grad():
        cosine, sine = rotary(torch.zeros(1), torch.arange(capacity)[None])
    half = cosine.shape[-1] // 2
    return cosine[0, :, :half].float().contiguous(), sine[0, :, :half].float().contiguous()
