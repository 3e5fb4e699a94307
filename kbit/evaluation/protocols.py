"""How quality is measured: a protocol fixes text, tokenizer, window, stride, BOS and compute dtype; only equal ones compare."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from kbit.errors import TextError
from kbit.packed import COMPUTE

Bos = bool | Literal["once", "tokenizer"]
BOS_CHOICES: tuple[Bos, ...] = (False, True, "once", "tokenizer")
SCORES = ("all", "second-half")
DTYPES = ("float32", "float16", "bfloat16", "float64")
EXACT = "exact"


@dataclass(frozen=True)
class Protocol:
    """What decides a measurement beside the model.

    window   tokens that the model reads at once. Windows are full: what is left at the end of the text is not read
    stride   from the start of a window to the next; None is the window (disjoint). A token is scored once, in the first
             window that scores it, so a smaller stride gives each token more context
    bos      True: the first token of every window is replaced by BOS (and the text gets one in front, so that nothing is
             lost there), as llama-perplexity does; "tokenizer": the same where the tokenizer itself puts BOS before a text;
             "once": only the text starts with BOS, where the tokenizer itself puts it there (GPTQ); False: never
    score    "all": every token that has one before it in its window; "second-half": tokens window // 2 + 1 and on,
             which have at least half a window before them (llama-perplexity)
    max_windows  only so many windows from the start; None is all
    dtype    that of the model's parameters and activations; logits are scored in float32 and summed in float64 always
    prepare  "raw": the text as it is; "wikitext-hf": its lines as rows of the Hugging Face data set, joined by blank lines
             as GPTQ, AWQ and most papers since do
    compute  how packed layers multiply: "exact": floats; "int8": activations rounded to 8 bits, as in generating. Other layers,
             and the reference, always compute in floats
    text_sha256, tokenizer_sha256  of the text as given (UTF-8), and of the tokenizer's definition; None until bound

    Raises TextError where a value is not allowed.
    """

    window: int = 2048
    stride: int | None = None
    bos: Bos = False
    score: str = "all"
    max_windows: int | None = None
    dtype: str = "float32"
    prepare: str = "raw"
    compute: str = EXACT
    text_sha256: str | None = None
    tokenizer_sha256: str | None = None

    def __post_init__(self) -> None:
        """Check every value, so that a wrong one is refused before any model is read."""
        if self.window < 2:
            raise TextError(f"protocol: a window of {self.window} tokens predicts nothing. Take 2 or more.")
        if self.stride is not None and not 1 <= self.stride <= self.window:
            raise TextError(f"protocol: stride {self.stride} does not fit a window of {self.window}. Take 1 to {self.window}.")
        if self.max_windows is not None and self.max_windows < 1:
            raise TextError(f"protocol: {self.max_windows} windows measure nothing. Take 1 or more.")
        if self.score == "second-half" and self.window < 4:
            raise TextError(f"protocol: the second half of a window of {self.window} tokens scores nothing. Take 4 or more.")
        _check("bos", self.bos, BOS_CHOICES)
        _check("score", self.score, SCORES)
        _check("dtype", self.dtype, DTYPES)
        _check("prepare", self.prepare, tuple(PREPARATIONS))
        _check("compute", self.compute, COMPUTE)

    def bind(self, text: str, tokenizer: PreTrainedTokenizerBase) -> Protocol:
        """The same protocol with the hashes of the text and the tokenizer."""
        return replace(self, text_sha256=_sha256(text), tokenizer_sha256=tokenizer_sha256(tokenizer))

    def to_json(self) -> str:
        """Canonical JSON: keys sorted, no spaces, the stride spelled out; equal exactly for equal measurements.

        An exact compute is left out, as it was when there was no other.
        """
        values = asdict(self) | {"stride": self.stride or self.window}
        if self.compute == EXACT:
            del values["compute"]
        bound = {key: value for key, value in values.items() if value is not None or not key.endswith("sha256")}
        return json.dumps(bound, sort_keys=True, separators=(",", ":"))


def _check(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if not any(value is choice or (isinstance(choice, str) and value == choice) for choice in allowed):
        raise TextError(f"protocol: {name} {value!r} is none of {', '.join(map(repr, allowed))}.")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def tokenizer_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """Of what decides the ids: model, normalizer, pre-tokenizer and added tokens, without the passing state of padding."""
    definition: object = sorted(tokenizer.get_vocab().items())
    if backend := getattr(tokenizer, "backend_tokenizer", None):
        definition = json.loads(backend.to_str()) | {"truncation": None, "padding": None}
    return _sha256(json.dumps(definition, sort_keys=True, separators=(",", ":")))


def raw(text: str) -> str:
    """The text as it is, as llama-perplexity reads it."""
    return text


def wikitext_hf(text: str) -> str:
    r"""The text as "\n\n".join(rows) of the Hugging Face data set wikitext-2-raw-v1: GPTQ's habit.

    A row is a line with its line feed, and an empty string where the line is blank. What follows the last line feed is a
    row too, if there is anything.
    """
    *lines, rest = text.split("\n")
    rows = [line + "\n" if line.strip() else "" for line in lines]
    return "\n\n".join([*rows, rest] if rest else rows)


PREPARATIONS = {"raw": raw, "wikitext-hf": wikitext_hf}

PROTOCOLS = {
    # Frantar et al. 2022, whose numbers most papers on quantization compare with: disjoint windows of 2048, all scored.
    "gptq": Protocol(window=2048, bos="once", prepare="wikitext-hf"),
    # llama.cpp, tools/perplexity: the file as it is, n_ctx 512, the second half of each window scored.
    "llama-perplexity": Protocol(window=512, bos="tokenizer", score="second-half"),
    # The bundled family, whose context is 256.
    "family": Protocol(window=256),
}


def named_protocol(name: str | None, **changes: Any) -> Protocol:
    """The protocol of PROTOCOLS of that name (None: the defaults of Protocol), with parts changed. Raises TextError."""
    if name is not None and name not in PROTOCOLS:
        raise TextError(f"there is no protocol '{name}'. There are {', '.join(PROTOCOLS)}.")
    return replace(PROTOCOLS[name] if name else Protocol(), **changes)
