"""Which model, at which format, is the best to run in so many bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kbit.errors import BudgetError
from kbit.laws.runs import UNQUANTIZED_BITS
from kbit.laws.text import size
from kbit.planner.answer import Plan
from kbit.planner.candidates import MEASURED, Candidate, candidates
from kbit.planner.choice import Choice
from kbit.planner.memory import Footprint, budget_text, footprint, parse_size

NEGLIGIBLE = 0.001  # nats per token, a thousandth of the perplexity: differences that no reader would notice are ties too
DEFAULT_CONTEXT = 4096  # tokens, or the longest that a model was made for where that is less


def plan(
    table: Mapping[str, np.ndarray],
    memory_bytes: int | str,
    *,
    context: int = DEFAULT_CONTEXT,
    batch: int = 1,
    kv_bits: float = 16,
    bootstrap: int = 400,
    family: str | None = None,
    protocol: str | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Plan:
    """The choices of model and format that run in `memory_bytes` (a number, or a size such as "2GiB"), the best first.

    A choice takes its weights (every stored bit), the KV cache of `context` tokens (at most the model's own longest) for each
    of `batch` sequences at kv_bits, and activations. Quality is bits per byte of the protocol's text (default: the protocol with
    most runs), which compares across tokenizers; its interval is the text's, by resampled windows, and for what was not
    measured that of the prediction too. Choices whose paired difference from the best may be zero are tied; of those the
    smallest is recommended, and a measured one before a predicted one.
    Raises BudgetError where nothing fits, with the smallest that would.
    """
    budget = parse_size(memory_bytes) if isinstance(memory_bytes, str) else int(memory_bytes)
    for name, value in (("context", context), ("batch", batch), ("kv_bits", kv_bits)):
        if value <= 0:
            raise BudgetError(f"{name} {value} is not above zero. Write a positive number.")
    found, protocol = candidates(table, protocol, family, bootstrap, seed)
    tail = (1 - confidence) / 2
    needs = [
        footprint(-(-one.total_bits // 8), one.model.architecture, budget, context=context, batch=batch, kv_bits=kv_bits)
        for one in found
    ]
    fitting = [i for i, need in enumerate(needs) if need.total <= budget]
    if not fitting:
        least = min(range(len(found)), key=lambda i: needs[i].total)
        raise BudgetError(nothing_fits(found[least], needs[least], budget))
    best = min(fitting, key=lambda i: found[i].bits_per_byte)
    tied = {i for i in fitting if is_tied(found[i], found[best], tail)}
    in_16_bits = all_floats_fit(found, needs, budget)
    pick = recommended(found, needs, tied, best, in_16_bits)
    hidden = dominated(found, needs, fitting) - {pick}
    order = sorted(fitting, key=lambda i: (i != pick, i not in tied, needs[i].total if i in tied else found[i].bits_per_byte))

    def choice(i: int) -> Choice:
        return choice_of(found[i], needs[i], found[pick], tail, tied=i in tied and i != pick, dominated=i in hidden)

    better = [
        i
        for i in range(len(found))
        if i not in fitting and found[i].bits_per_byte < found[pick].bits_per_byte and not is_tied(found[i], found[pick], tail)
    ]
    following = min(better, key=lambda i: (needs[i].total, found[i].bits_per_byte), default=None)
    return Plan(
        memory_bytes=budget,
        context=context,
        batch=batch,
        kv_bits=kv_bits,
        protocol=protocol,
        confidence=confidence,
        choices=tuple(choice(i) for i in order),
        next_better=choice(following) if following is not None else None,
        everything_in_16_bits=in_16_bits,
        models=len({one.model.name for one in found}),
    )


def nothing_fits(least: Candidate, needs: Footprint, budget: int) -> str:
    """The line that names the smallest choice there is."""
    return (
        f"nothing fits in {budget_text(budget)}. The smallest choice, {name_of(least)}, takes {size(needs.total)}: "
        f"{size(needs.weights)} of weights, {size(needs.kv_cache)} of KV cache for {needs.context} tokens, "
        f"{size(needs.one_token)} of activations. Give it that much, or a shorter --context."
    )


def choice_of(one: Candidate, needs: Footprint, pick: Candidate, tail: float, *, tied: bool, dominated: bool) -> Choice:
    """A candidate with its memory, the interval of its quality, and that of its difference from the recommended one."""
    low, high = np.quantile(one.draws, [tail, 1 - tail])
    scale = one.model.bits_per_byte_per_nat
    less, more = np.quantile(one.scores - pick.scores, [tail, 1 - tail])
    return Choice(
        name=name_of(one),
        family=one.model.family,
        model=one.model.name,
        format=one.format,
        embeddings=one.embeddings,
        method=one.method,
        k=one.k,
        parameters=one.model.parameters,
        weights_bytes=needs.weights,
        kv_cache_bytes=needs.kv_cache,
        activation_bytes=needs.one_token,
        total_bytes=needs.total,
        context=needs.context,
        prompt_chunk=needs.chunk,
        loss=one.loss,
        loss_interval=(float(low), float(high)),
        bits_per_byte=one.bits_per_byte,
        bits_per_byte_interval=(float(low) * scale, float(high) * scale),
        difference=one.bits_per_byte - pick.bits_per_byte,
        difference_interval=(float(less), float(more)),
        basis=one.basis,
        tied=tied,
        dominated=dominated,
    )


def name_of(one: Candidate) -> str:
    """prose-1.9m at int4-b64; the embeddings and the method are named where they are not the usual ones."""
    usual = "int8-row" if one.k < UNQUANTIZED_BITS else one.format
    method = f" by {one.method}" if one.k < UNQUANTIZED_BITS and one.method != "rtn" else ""
    kept = "" if one.embeddings == usual else f", embeddings {one.embeddings}"
    return f"{one.model.name} at {one.format}{method}{kept}"


def is_tied(one: Candidate, other: Candidate, tail: float) -> bool:
    """Whether the interval of the difference, over the same resampled windows, holds zero, or the difference is negligible."""
    if abs(one.bits_per_byte - other.bits_per_byte) < negligible(other):
        return True
    low, high = np.quantile(one.scores - other.scores, [tail, 1 - tail])
    return bool(low <= 0 <= high)


def negligible(one: Candidate) -> float:
    """NEGLIGIBLE in bits per byte."""
    return NEGLIGIBLE * one.model.bits_per_byte_per_nat


def all_floats_fit(found: Sequence[Candidate], needs: Sequence[Footprint], budget: int) -> bool:
    """Whether every model fits in 16 bits, in its smallest such choice."""
    fits = {one.model.name: False for one in found}
    for one, need in zip(found, needs, strict=True):
        fits[one.model.name] |= one.k >= UNQUANTIZED_BITS and need.total <= budget
    return all(fits.values())


def recommended(found: Sequence[Candidate], needs: Sequence[Footprint], tied: set[int], best: int, in_16_bits: bool) -> int:
    """Of the tied the smallest, measured before predicted; where everything fits in 16 bits, the best model in 16 bits."""
    floats = {i for i in tied if found[i].k >= UNQUANTIZED_BITS and found[i].model.name == found[best].model.name}
    pool = floats if in_16_bits and floats else {i for i in tied if found[i].basis == MEASURED} or tied
    return min(pool, key=lambda i: (needs[i].total, found[i].bits_per_byte))


def dominated(found: Sequence[Candidate], needs: Sequence[Footprint], fitting: Sequence[int]) -> set[int]:
    """The fitting choices that are no better, beyond the negligible, than another of no more bytes."""
    out, frontier = set(), float("inf")
    for i in sorted(fitting, key=lambda i: (needs[i].total, found[i].bits_per_byte)):
        if found[i].bits_per_byte > frontier - negligible(found[i]):
            out.add(i)
        frontier = min(frontier, found[i].bits_per_byte)
    return out
