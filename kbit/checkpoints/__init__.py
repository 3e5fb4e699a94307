"""What lies on disk: Hugging Face directories, GGUF files and kbit checkpoints, read lazily; kbit's own, written."""

from kbit.checkpoints.checkpoint import Checkpoint
from kbit.checkpoints.companions import copy_companions
from kbit.checkpoints.gguf_file import GgufCheckpoint
from kbit.checkpoints.huggingface import HuggingFaceCheckpoint
from kbit.checkpoints.kbit_folder import KbitCheckpoint
from kbit.checkpoints.modules import FORMAT_VERSION
from kbit.checkpoints.open import open_checkpoint
from kbit.checkpoints.writer import SHARD_BYTES, CheckpointWriter

__all__ = [
    "FORMAT_VERSION",
    "SHARD_BYTES",
    "Checkpoint",
    "CheckpointWriter",
    "GgufCheckpoint",
    "HuggingFaceCheckpoint",
    "KbitCheckpoint",
    "copy_companions",
    "open_checkpoint",
]
