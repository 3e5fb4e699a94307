"""open_checkpoint: whatever the user named, found and opened."""

from __future__ import annotations

from pathlib import Path

from kbit.checkpoints.checkpoint import Checkpoint
from kbit.checkpoints.gguf_file import GgufCheckpoint, open_gguf
from kbit.checkpoints.gguf_header import MAGIC
from kbit.checkpoints.hub import fetch, is_hub_id
from kbit.checkpoints.huggingface import CONFIG, PICKLES, HuggingFaceCheckpoint, open_huggingface, read_config
from kbit.checkpoints.kbit_folder import KbitCheckpoint, open_kbit
from kbit.checkpoints.modules import QUANT_METHOD
from kbit.errors import CheckpointError

AnyCheckpoint = HuggingFaceCheckpoint | KbitCheckpoint | GgufCheckpoint


def open_checkpoint(path_or_hub_id: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> AnyCheckpoint:
    """Open a Hugging Face or kbit directory, a GGUF file (or a folder of one), or a model of the hub. No weights are read yet.

    What lies on this machine goes before the hub. revision: branch, tag or commit on the hub. trust_remote_code: keep the keys
    of config.json that name code (auto_map); without it they are dropped. Raises CheckpointError where it is missing, damaged,
    unsafe or of another version.
    """
    path = Path(path_or_hub_id).expanduser()
    try:
        if path.is_dir():
            return _open_folder(path, trust_remote_code)
        if path.is_file():
            return _open_file(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}). Check the path and its permissions.") from None
    if isinstance(path_or_hub_id, Path) or not is_hub_id(path_or_hub_id):
        raise CheckpointError(f"{path}: does not exist, and is no hub id. Check the path, or write a hub id as owner/name.")
    return _open_folder(fetch(path_or_hub_id, revision=revision), trust_remote_code)


def _open_folder(folder: Path, trust_remote_code: bool) -> AnyCheckpoint:
    ggufs = sorted(folder.glob("*.gguf"))
    if ggufs and not (folder / CONFIG).is_file():
        if len(ggufs) > 1:
            names = ", ".join(path.name for path in ggufs[:5])
            raise CheckpointError(f"{folder}: holds {len(ggufs)} GGUF files ({names}). Name one of them.")
        return open_gguf(ggufs[0])
    quantization = read_config(folder).get("quantization_config")
    if isinstance(quantization, dict) and quantization.get("quant_method") == QUANT_METHOD:
        return open_kbit(folder, keep_code_keys=trust_remote_code)
    return open_huggingface(folder, keep_code_keys=trust_remote_code)


def _open_file(path: Path) -> AnyCheckpoint:
    with path.open("rb") as file:
        start = file.read(len(MAGIC))
    if start == MAGIC or path.suffix == ".gguf":
        return open_gguf(path)
    if path.suffix in PICKLES:
        raise CheckpointError(
            f"{path}: looks like a pickle, which can run any code when read. Give a folder with the model in safetensors."
        )
    if path.suffix == ".safetensors" or path.name == CONFIG:
        raise CheckpointError(f"{path}: is one file of a model. Give the folder that it lies in.")
    raise CheckpointError(f"{path}: is no GGUF file. Give a GGUF file, or a folder with {CONFIG} and safetensors.")


__all__ = ["AnyCheckpoint", "Checkpoint", "open_checkpoint"]
