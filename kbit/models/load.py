"""Load a causal language model, and its tokenizer, from a folder, a hub id, a GGUF file or a kbit checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from kbit.checkpoints.checkpoint import Checkpoint
from kbit.checkpoints.gguf_file import GgufCheckpoint
from kbit.checkpoints.kbit_folder import KbitCheckpoint
from kbit.checkpoints.open import open_checkpoint
from kbit.errors import CheckpointError, ModelError
from kbit.models.assembly import Assembly, require_floats
from kbit.models.fill import Read, fill
from kbit.models.integer_model import IntegerModel, read_program
from kbit.models.kbit_linear import replace_all
from kbit.models.skeleton import configuration, one_line, skeleton
from kbit.models.walk import check_finite
from kbit.packed import PackedWeight

# One of these beside the weights means that there is a tokenizer to load.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt", "spiece.model")


def load(
    path_or_hub_id: str | Path, *, dtype: torch.dtype = torch.float32, packed: bool = True, trust_remote_code: bool = False
) -> PreTrainedModel:
    """The model in evaluation mode, its floats in `dtype`.

    path_or_hub_id: a Hugging Face folder, a kbit checkpoint, a GGUF file, or a model on the hub.
    packed: the quantized layers of a kbit checkpoint are KbitLinear and KbitEmbedding modules over the mapped file, and multiply
    the bits as they lie there; experts, which share one parameter, are dequantized. False: everything is dequantized.
    trust_remote_code: run Python code that comes with the model.
    A fixed-point checkpoint comes as an IntegerModel, which runs on integers alone and has no weights in floats.
    The model has .kbit_tokenizer (None where there is none) and .kbit_source (as asked for).
    Raises CheckpointError for damaged files, and ModelError where parameters are missing, left over or not finite.
    """
    checkpoint = open_checkpoint(path_or_hub_id, trust_remote_code=trust_remote_code)
    if isinstance(checkpoint, KbitCheckpoint) and checkpoint.program_sha256 is not None:
        if not packed:
            require_floats(checkpoint)
        model: PreTrainedModel = IntegerModel(read_program(checkpoint), configuration(checkpoint))
        model.eval()
    else:
        model = _of_floats(checkpoint, str(path_or_hub_id), dtype, packed, trust_remote_code)
    if checkpoint.path.is_dir() and (checkpoint.path / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(str(checkpoint.path))
    tokenizer = _tokenizer(checkpoint, trust_remote_code) if _has_tokenizer(checkpoint) else None
    vars(model).update(name_or_path=str(path_or_hub_id), kbit_source=str(path_or_hub_id), kbit_tokenizer=tokenizer)
    return model


def _of_floats(checkpoint: Checkpoint, name: str, dtype: torch.dtype, packed: bool, trust_remote_code: bool) -> PreTrainedModel:
    """The modules of transformers, with weights that are floats or packed bits."""
    model = skeleton(checkpoint, dtype=dtype, trust_remote_code=trust_remote_code)
    assembly = Assembly(model, checkpoint)
    fill(model, _reader(checkpoint, assembly, dtype) if packed else assembly.read, assembly.names)
    for parameter_name, parameter in model.named_parameters():
        if not isinstance(parameter, PackedWeight):
            check_finite(parameter.detach(), f"{name}, {parameter_name.removesuffix('.weight')}")
    replace_all(model)
    return model


def _reader(checkpoint: Checkpoint, assembly: Assembly, dtype: torch.dtype) -> Read:
    """Parameters by name, those that a kbit checkpoint holds in codes as PackedWeight."""
    if not isinstance(checkpoint, KbitCheckpoint):
        return assembly.read

    def read(name: str) -> Tensor:
        module = checkpoint.modules.get(name.removesuffix(".weight"))
        if module is None or module.fmt.is_float:
            return assembly.read(name)
        packed = checkpoint.read_packed(module.key)
        try:
            packed.check_numbers()
        except CheckpointError as error:
            raise CheckpointError(f"{checkpoint.path}, {module.key}: {error}") from None
        return PackedWeight(packed, dtype, transposed=module.transposed)

    return read


def load_tokenizer(path_or_hub_id: str | Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer beside the weights, or inside the GGUF file. Raises ModelError where transformers reads none."""
    checkpoint = open_checkpoint(path_or_hub_id, trust_remote_code=trust_remote_code)
    if not _has_tokenizer(checkpoint):
        raise ModelError(
            f"{path_or_hub_id}: there is no tokenizer. Copy tokenizer.json and tokenizer_config.json beside the weights."
        )
    return _tokenizer(checkpoint, trust_remote_code)


def _has_tokenizer(checkpoint: Checkpoint) -> bool:
    if isinstance(checkpoint, GgufCheckpoint):
        return "tokenizer.ggml.model" in checkpoint.header.settings
    return any((checkpoint.path / name).is_file() for name in TOKENIZER_FILES)


def _tokenizer(checkpoint: Checkpoint, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    path = checkpoint.path
    try:
        if isinstance(checkpoint, GgufCheckpoint):
            return AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
        return AutoTokenizer.from_pretrained(str(path), trust_remote_code=trust_remote_code)
    except Exception as error:  # tokenizers fail with errors of many kinds
        raise ModelError(
            f"{path}: transformers cannot read its tokenizer: {one_line(error)}. Hand over a tokenizer, or mend these files."
        ) from error
