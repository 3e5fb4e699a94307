"""A table of runs as a study would store it, simulated from a law that is known."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

Table = dict[str, np.ndarray]
HEAD_DIM = 32


@dataclass(frozen=True)
class Size:
    """The shape of one simulated Llama-like model with tied embeddings."""

    name: str
    layers: int
    hidden: int
    intermediate: int
    vocabulary: int = 1024
    context: int = 256

    @property
    def parameters_linear(self) -> int:
        """Weights of the linear layers."""
        return self.layers * (4 * self.hidden**2 + 3 * self.hidden * self.intermediate)

    @property
    def embedding(self) -> int:
        """Weights of the tied embedding."""
        return self.vocabulary * self.hidden

    @property
    def norms(self) -> int:
        """Weights of the norms, which stay in 16 bits."""
        return (2 * self.layers + 1) * self.hidden

    @property
    def architecture(self) -> dict[str, int]:
        """The numbers that a planner needs for the KV cache and the activations."""
        heads = self.hidden // HEAD_DIM
        return {
            "layers": self.layers,
            "hidden": self.hidden,
            "intermediate": self.intermediate,
            "heads": heads,
            "kv_heads": heads,
            "head_dim": HEAD_DIM,
            "vocabulary": self.vocabulary,
            "context": self.context,
            "kv_bytes_per_token": 2 * self.layers * heads * HEAD_DIM * 2,
        }


SIZES = (
    Size("prose-94k", 2, 64, 160),
    Size("prose-276k", 3, 96, 192),
    Size("prose-754k", 4, 128, 320),
    Size("prose-1.9m", 4, 192, 576),
    Size("prose-5.1m", 6, 256, 768),
)
FORMATS = ("bf16", *(f"int{k}-b64" for k in range(2, 9)))
TRUTH = {"E": 2.0, "A": 75.0, "alpha": 0.35, "C": 40.0, "gamma": 0.16, "lambda": 2.1}
BLOCK_GAIN = {0: 1.6, 16: 0.8, 32: 0.9, 64: 1.0, 128: 1.15, 256: 1.3}
CODEBOOK_GAIN = {"int": 1.0, "nf": 0.75, "fp": 0.85, "log": 2.5, "dyn": 1.2, "kmeans": 0.6, "quantile": 0.9}


def additive_loss(N: float, D: float, text: str, truth: Mapping[str, float] = TRUTH) -> float:
    """E + A N^-alpha [+ B D^-beta] + gain C N^-gamma 2^(-lambda k), no cost at 16 bits and above: nats per token."""
    codebook, k, block = read_format(text)
    gain = CODEBOOK_GAIN.get(codebook, 1.0) * BLOCK_GAIN[block]
    cost = 0.0 if k >= 16 else gain * truth["C"] * N ** -truth["gamma"] * 2.0 ** (-truth["lambda"] * k)
    data = truth["B"] * D ** -truth["beta"] if "B" in truth else 0.0
    return truth["E"] + truth["A"] * N ** -truth["alpha"] + data + cost


def simulate_table(
    seed: int = 0,
    sizes: Sequence[Size] = SIZES,
    formats: Sequence[str] = FORMATS,
    *,
    embeddings: Sequence[str] = ("int8-row",),
    protocols: Sequence[str] = ("books",),
    training_tokens: Sequence[float] = (8_388_608.0,),
    seeds: Sequence[int] = (0,),
    windows: int = 64,
    difficulty: float = 0.35,
    disagreement: float = 0.05,
    model_noise: float = 0.004,
    own_noise: float = 1.0,
    loss_of: Callable[[float, float, str], float] = additive_loss,
    family: str = "prose",
) -> Table:
    """Runs of every (size, training tokens, seed) x format x embeddings x protocol, with the columns of `kbit.study.read_table`.

    A run's loss over a window is the law's loss + the window's difficulty (the same for every run of a protocol)
    + the model's own taste in windows (sd `disagreement`) + the format's (sd `own_noise` times an eighth of its cost + 0.002)
    + the luck of the training (sd `model_noise`, one number per model). `loss` and `loss_stderr` are the windows' mean and its
    standard error. loss_of(N, D, format) is the law, in nats per token. The names of models trained on fewer than the most
    tokens, or with a seed other than 0, say so.
    """
    rng = np.random.default_rng(seed)
    shape = (len(protocols), windows)
    hardness = rng.normal(0.0, difficulty, shape)
    rows: list[dict[str, object]] = []
    for size, tokens, trained in product(sizes, training_tokens, seeds):
        name = size.name + ("" if tokens == max(training_tokens) else f"-{tokens:.0f}") + (f"-seed-{trained}" if trained else "")
        of_model = hardness + rng.normal(0.0, model_noise) + rng.normal(0.0, disagreement, shape)
        for text in formats:
            loss = loss_of(float(size.parameters_linear), tokens, text)
            cost = loss - loss_of(float(size.parameters_linear), tokens, "bf16")
            own = rng.normal(0.0, own_noise * (abs(cost) / 8 + 0.002 * (cost != 0)), shape)
            for kept, (p, protocol) in product(embeddings, enumerate(protocols)):
                row = {
                    "run": f"{len(rows):016x}",
                    "family": family,
                    "model": name,
                    "protocol": protocol,
                    "training_tokens": tokens,
                }
                losses = loss + of_model[p] + own[p] + (0.0 if kept == "bf16" else 1e-4)
                rows.append({**row, "seed": trained, **of_format(size, text, kept), **measured(losses, cost), **of_machine(size)})
    return as_table(rows)


def of_format(size: Size, text: str, embeddings: str) -> dict[str, object]:
    """The columns that the size and the format decide."""
    codebook, k, block = read_format(text)
    return {
        "format": text,
        "codebook": codebook,
        "k": k,
        "block": block,
        "method": "none" if k >= 16 else "rtn",
        "embeddings": embeddings,
        "parameters": size.parameters_linear + size.embedding + size.norms,
        "parameters_linear": size.parameters_linear,
        **stored_bits(size, text, embeddings),
        "architecture": size.architecture,
    }


def measured(losses: np.ndarray, cost: float) -> dict[str, object]:
    """The columns of quality, from the losses of the windows and what quantizing cost."""
    return {
        "loss": losses.mean(),
        "loss_stderr": losses.std(ddof=1) / len(losses) ** 0.5,
        "bits_per_byte": losses.mean() / np.log(2) / 2.6,  # about as many bytes a token
        "perplexity": float(np.exp(losses.mean())),
        "kld_mean": cost * 1.1,
        "kld_median": cost * 0.6,
        "kld_p99": cost * 9,
        "kld_max": cost * 30,
        "same_top": 1 / (1 + abs(cost)),
        "window_losses": losses,
    }


def of_machine(size: Size) -> dict[str, object]:
    """The columns of time and place."""
    return {"seconds": 1e-6 * size.parameters_linear + 0.2, "peak_bytes": 3e8 + 4.0 * size.parameters_linear, "host": "simulated"}


def read_format(text: str) -> tuple[str, int, int]:
    """Codebook, k and block (0: row or tensor) of a plain format string."""
    if text in ("f32", "f16", "bf16"):
        return text, 32 if text == "f32" else 16, 0
    head, granularity = text.split("-")[:2]
    codebook, k = re.fullmatch(r"([a-z]+)(\d+)", head).groups()  # type: ignore[union-attr]
    return codebook, int(k), int(granularity[1:]) if granularity[1:].isdigit() else 0


def stored_bits(size: Size, text: str, embeddings: str) -> dict[str, float]:
    """total_bits, linear_bits and bits_per_weight: codes, a float16 scale per block or row, the embeddings as told."""
    _, k, block = read_format(text)
    scales = 0.0 if k >= 16 else 16 / (block or size.hidden)
    linear = float(round(size.parameters_linear * (k + scales)))
    kept = size.embedding * 8 + size.vocabulary * 16 if embeddings == "int8-row" else size.embedding * 16
    return {"total_bits": linear + kept + 16 * size.norms, "linear_bits": linear, "bits_per_weight": k + scales}


def as_table(rows: Sequence[Mapping[str, object]]) -> Table:
    """Columns of rows: numbers and strings as NumPy's own types, arrays and dicts as objects."""
    table: Table = {}
    for column in rows[0]:
        values = [row[column] for row in rows]
        if isinstance(values[0], np.ndarray | dict):
            table[column] = np.empty(len(rows), dtype=object)
            table[column][:] = values
        else:
            table[column] = np.array(values)
    return table
