"""Evaluation: protocols, perplexity, bits per byte, distance to the 16-bit model, zero-shot tasks."""

from kbit.evaluation.findings import Findings
from kbit.evaluation.forward import batch_size_for, batches, evaluate, fit_window, logits_of, protocol_for, ready, tokenizer_of
from kbit.evaluation.protocols import PROTOCOLS, Protocol, named_protocol, tokenizer_sha256
from kbit.evaluation.quality import Quality
from kbit.evaluation.scorer import Scorer
from kbit.evaluation.sizes import stored_sizes
from kbit.evaluation.text import read_text
from kbit.evaluation.windows import Windows, tokenize_windows
from kbit.evaluation.zeroshot import TASKS, find_tasks, run_tasks

__all__ = [
    "PROTOCOLS",
    "TASKS",
    "Findings",
    "Protocol",
    "Quality",
    "Scorer",
    "Windows",
    "batch_size_for",
    "batches",
    "evaluate",
    "find_tasks",
    "fit_window",
    "logits_of",
    "named_protocol",
    "protocol_for",
    "read_text",
    "ready",
    "run_tasks",
    "stored_sizes",
    "tokenize_windows",
    "tokenizer_of",
    "tokenizer_sha256",
]
