"""The members of the bundled family: one Llama-like shape in five sizes, evenly spaced in the logarithm of size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import LlamaConfig

HEAD_DIM = 32
VOCABULARY = 1024
CONTEXT = 256


@dataclass(frozen=True)
class Member:
    """One size: decoder layers, residual width and width of the gated MLP."""

    name: str
    layers: int
    hidden: int
    intermediate: int

    @property
    def parameters_linear(self) -> int:
        """Weights of the linear layers: four square attention projections and three of the MLP in each layer."""
        return self.layers * (4 * self.hidden**2 + 3 * self.hidden * self.intermediate)

    @property
    def learning_rate(self) -> float:
        """Peak learning rate of AdamW, falling with the square root of the width: 4e-3 at width 64."""
        return 4e-3 * (64 / self.hidden) ** 0.5

    def config(self) -> LlamaConfig:
        """The transformers configuration, embeddings tied."""
        from transformers import LlamaConfig

        return LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.hidden // HEAD_DIM,
            num_key_value_heads=self.hidden // HEAD_DIM,
            max_position_embeddings=CONTEXT,
            initializer_range=0.4 / self.hidden**0.5,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
        )


MEMBERS = {
    member.name: member
    for member in (
        Member("prose-94k", layers=2, hidden=64, intermediate=160),
        Member("prose-276k", layers=3, hidden=96, intermediate=192),
        Member("prose-754k", layers=4, hidden=128, intermediate=320),
        Member("prose-1.9m", layers=4, hidden=192, intermediate=576),
        Member("prose-5.1m", layers=6, hidden=256, intermediate=768),
    )
}
