"""A plan as its reader sees it: one sentence, a table of the choices worth a look, and what more memory would buy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kbit.laws.runs import UNQUANTIZED_BITS
from kbit.laws.text import as_text, size
from kbit.planner.candidates import MEASURED
from kbit.planner.choice import Choice
from kbit.planner.memory import budget_text

if TYPE_CHECKING:
    from rich.console import RenderableType

SHOWN = 12  # rows of the table, unless all are asked for


@dataclass(frozen=True)
class Plan:
    """The choices that fit, the recommended one first; `next_better` is the smallest choice that is better and does not fit."""

    memory_bytes: int
    context: int
    batch: int
    kv_bits: float
    protocol: str
    confidence: float
    choices: tuple[Choice, ...]
    next_better: Choice | None
    everything_in_16_bits: bool
    models: int
    show_all: bool = False

    @property
    def best(self) -> Choice:
        """The recommended choice."""
        return self.choices[0]

    @property
    def ties(self) -> tuple[Choice, ...]:
        """What may be as good as the best and is worth a look, without the recommended choice itself."""
        return tuple(choice for choice in self.choices[1:] if choice.tied and not choice.dominated)

    @property
    def verdict(self) -> str:
        """The answer in one sentence, and in a second one what to know about it."""
        best = self.best
        quality = f"{best.bits_per_byte:.3f} bits per byte, {best.basis}"
        memory = f"{size(best.total_bytes)} of {budget_text(self.memory_bytes)}"
        if self.everything_in_16_bits and best.k >= UNQUANTIZED_BITS:
            start = "The model fits" if self.models == 1 else f"All {self.models} models fit"
            return f"{start} in 16 bits, so nothing needs quantizing: run {best.name}: {quality}, {memory}.{self.smaller_tie}"
        return f"Run {best.name}: {quality}, {memory}.{self.other_tie}"

    @property
    def smaller_tie(self) -> str:
        """The smallest measured choice as good as the best, where one is smaller than it."""
        smaller = [choice for choice in self.choices[1:] if choice.tied and choice.basis == MEASURED]
        least = min(smaller, key=lambda choice: choice.total_bytes, default=self.best)
        if least.total_bytes >= self.best.total_bytes:
            return ""
        return f" As good in less memory: {least.name}, {size(least.total_bytes)}."

    @property
    def other_tie(self) -> str:
        """What the recommended choice is tied with."""
        if not self.ties:
            return ""
        names = ", ".join(f"{choice.name} ({size(choice.total_bytes)}, {choice.basis})" for choice in self.ties[:2])
        more = f" and {len(self.ties) - 2} more" if len(self.ties) > 2 else ""
        return f" Tied with it, as far as this text tells: {names}{more}."

    @property
    def more_memory(self) -> str:
        """What the budget would have to be for the next better choice."""
        better = self.next_better
        if better is None:
            return "No choice is better at any budget."
        gain = self.best.bits_per_byte - better.bits_per_byte
        return (
            f"The next better choice needs {size(better.total_bytes)}: {better.name}, {better.bits_per_byte:.3f} bits per byte "
            f"({gain:.3f} less, {better.basis})."
        )

    @property
    def shown(self) -> tuple[Choice, ...]:
        """Choices worth a look: none that another beats in both memory and quality, and the first dozen of them."""
        return self.choices if self.show_all else tuple(choice for choice in self.choices if not choice.dominated)[:SHOWN]

    def with_all(self) -> Plan:
        """The same plan, dominated choices shown too."""
        return replace(self, show_all=True)

    def to_json(self) -> dict[str, object]:
        """The question, the answer in words, and the choices."""
        return {
            "memory_bytes": self.memory_bytes,
            "context": self.context,
            "batch": self.batch,
            "kv_bits": self.kv_bits,
            "protocol": self.protocol,
            "confidence": self.confidence,
            "verdict": self.verdict,
            "everything_in_16_bits": self.everything_in_16_bits,
            "choices": [choice.to_json() for choice in self.shown],
            "next_better": self.next_better.to_json() if self.next_better else None,
        }

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        title = f"What fits in {budget_text(self.memory_bytes)} (protocol {self.protocol})"
        table = Table(title=title, title_justify="left")
        for heading in (
            "",
            "model",
            "format",
            "memory",
            "weights",
            "KV cache",
            "bits per byte",
            "than the first",
            "perplexity",
            "",
        ):
            table.add_column(heading, justify="left" if heading in ("", "model", "format") else "right", no_wrap=True)
        for rank, choice in enumerate(self.shown, 1):
            table.add_row(
                str(rank),
                choice.model,
                choice.name.removeprefix(f"{choice.model} at "),
                size(choice.total_bytes),
                size(choice.weights_bytes),
                size(choice.kv_cache_bytes),
                with_half_width(choice.bits_per_byte, choice.bits_per_byte_interval),
                "" if rank == 1 else with_half_width(choice.difference, choice.difference_interval, "+"),
                f"{choice.perplexity:.2f}",
                choice.basis + (", tied" if choice.tied else "") + (", dominated" if choice.dominated else ""),
                style="bold" if rank == 1 else "dim" if choice.basis != MEASURED or choice.dominated else None,
            )
        hidden = len(self.choices) - len(self.shown)
        return Group(
            Text(self.verdict, style="bold"),
            "",
            table,
            *(
                [f"{hidden} more fit; a choice above is as good in no more memory, or better. --all shows them."]
                if hidden
                else []
            ),
            self.more_memory,
            self.notes,
        )

    @property
    def notes(self) -> str:
        """What the numbers of the table mean."""
        best = self.best
        longest = ", the longest it was made for" if best.context < self.context else ""
        return (
            f"± is the {self.confidence:.0%} interval over texts; differences are taken on the same text. {best.model} holds "
            f"{best.context} tokens{longest}, and reads a prompt {best.prompt_chunk} at a time in what is left."
        )

    def __str__(self) -> str:
        return as_text(self, width=150)


def with_half_width(value: float, interval: tuple[float, float], sign: str = "") -> str:
    """1.416 ±0.048."""
    return f"{value:{sign}.3f} ±{(interval[1] - interval[0]) / 2:.3f}"
