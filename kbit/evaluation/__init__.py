"""Evaluation: protocols, perplexity, bits per byte, distance to the 16-bit model, zero-shot tasks."""

from kbit.evaluation.forward import batch_size_for, batches, evaluate, logits_of, protocol_for, ready
from kbit.evaluation.protocols import PROTOCOLS, Protocol, tokenizer_sha256
from kbit.evaluation.quality import Quality
from kbit.evaluation.scorer import Scorer
from kbit.evaluation.windows import Windows, tokenize_windows

__all__ = [
    "PROTOCOLS",
    "Protocol",
    "Quality",
    "Scorer",
    "Windows",
    "batch_size_for",
    "batches",
    "evaluate",
    "logits_of",
    "protocol_for",
    "ready",
    "tokenize_windows",
    "tokenizer_sha256",
]
