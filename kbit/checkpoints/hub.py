"""A model of the Hugging Face hub, fetched into the hub's cache: safetensors, settings and tokenizer, never code or pickles."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import snapshot_download

from kbit.checkpoints.json_file import one_line
from kbit.errors import CheckpointError

WANTED = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]  # *.model and *.txt: SentencePiece, merges, vocabularies
UNWANTED = ["*/*"]  # folders hold other formats of the same weights
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def is_hub_id(text: str) -> bool:
    """Whether `text` could be owner/name or name on the hub."""
    return HUB_ID.fullmatch(text) is not None and ".." not in text


def fetch(hub_id: str, *, revision: str | None = None) -> Path:
    """The folder in the local cache that holds the model `hub_id`, downloaded where it is not there yet."""
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=WANTED, ignore_patterns=UNWANTED))
    except Exception as error:  # the hub, its client and the network have errors of many kinds
        raise CheckpointError(
            f"{hub_id}: is no path here, and the hub does not give it ({one_line(error)}). "
            "Check the name and the network; a private model needs `hf auth login`."
        ) from None
