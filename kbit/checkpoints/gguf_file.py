"""A GGUF file under Hugging Face names: tensors dequantized one at a time, settings and names mapped by transformers' tables."""

from __future__ import annotations

import struct
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, MODEL_ARCH_NAMES, GGMLQuantizationType, get_tensor_name_map
from gguf.quants import dequantize
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, load_gguf_checkpoint
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from kbit.checkpoints import stored_bytes
from kbit.checkpoints.checkpoint import Checkpoint, found
from kbit.checkpoints.gguf_header import MAGIC, GgufHeader, read_gguf_header
from kbit.checkpoints.json_file import one_line
from kbit.checkpoints.rope_factors import ROPE_FACTORS, rope_scaling
from kbit.checkpoints.safetensors_header import Entry, quoted
from kbit.errors import CheckpointError

# Settings that transformers leaves at its defaults, which are right for the published sizes alone
ADDED_SETTINGS = {
    "qwen3": {"attention.key_length": "head_dim"},
    "qwen2moe": {
        "expert_feed_forward_length": "moe_intermediate_size",
        "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
    },
    "qwen3moe": {"expert_feed_forward_length": "moe_intermediate_size"},
    "gpt2": {"context_length": "n_positions"},
}
CHUNK = 2**20  # weights dequantized at once
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}  # all others come as float32


@dataclass(frozen=True)
class Mapping:
    """What transformers makes of the file: the config, each parameter's shape and GGUF tensors, and how they become it."""

    config: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    sources: dict[str, list[Entry]]  # parameter -> its tensors; several where experts' matrices are joined
    names: dict[str, str]  # GGUF name -> parameter, as transformers maps them
    processor: TensorProcessor


class GgufCheckpoint(Checkpoint):
    """Opened from its checked header alone; the first look at config or names builds transformers' mapping (a second or so)."""

    kind = "gguf"

    def __init__(self, path: Path, header: GgufHeader) -> None:
        self.path = path
        self.header = header

    @cached_property
    def _mapping(self) -> Mapping:
        return map_names(self.header)

    @property
    def config(self) -> dict[str, Any]:
        """The config.json that transformers makes of the file's settings."""
        return self._mapping.config

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters that the file holds, sorted."""
        return tuple(sorted(self._mapping.sources))

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of the parameter `name`, as the model has it."""
        found(self._mapping.sources, name, self.path)
        return self._mapping.shapes[name]

    def dtype(self, name: str) -> torch.dtype:
        """The dtype of the parameter `name`: that of the file, or float32 where it is quantized there."""
        dtypes = {DTYPES.get(entry.dtype, torch.float32) for entry in found(self._mapping.sources, name, self.path)}
        return dtypes.pop() if len(dtypes) == 1 else torch.float32

    def nbytes(self, name: str) -> int:
        """The bytes of the parameter `name` in the file."""
        return sum(entry.nbytes for entry in found(self._mapping.sources, name, self.path))

    def read(self, name: str) -> Tensor:
        """The parameter `name`, dequantized, its rows in the order of transformers."""
        mapping = self._mapping
        handled: dict[str, dict[str, Tensor]] = {"tensors": {}}  # where transformers' processors put what they join
        tensor = None
        for entry in found(mapping.sources, name, self.path):
            weights = read_weights(entry)
            try:
                result = mapping.processor.process(
                    weights=weights, name=entry.name, tensor_key_mapping=mapping.names, parsed_parameters=handled
                )
            except Exception as error:  # processors trust shapes and settings, which here may not fit each other
                raise self._unfit(name, one_line(error)) from None
            tensor = (
                torch.from_numpy(np.ascontiguousarray(result.weights))
                if result.name is not None
                else handled["tensors"].get(name)
            )
        if tensor is None or tuple(tensor.shape) != self.shape(name):
            raise self._unfit(name, f"it comes out as {None if tensor is None else list(tensor.shape)}")
        return tensor.to(self.dtype(name))

    def fingerprint(self) -> str:
        """SHA-256 over the GGUF names, types, shapes and bytes of all tensors."""
        return stored_bytes.fingerprint(self.header.tensors.values())

    def _unfit(self, name: str, why: str) -> CheckpointError:
        shape = list(self._mapping.shapes[name])
        return CheckpointError(
            f"{self.path}: its tensors for {quoted(name)} do not make the parameter of shape {shape} that its settings ask for "
            f"({why}). Get the file again, or from another converter."
        )


def open_gguf(path: Path) -> GgufCheckpoint:
    """Check the header of `path`."""
    return GgufCheckpoint(path, read_gguf_header(path))


def read_weights(entry: Entry) -> np.ndarray:
    """The tensor of `entry` in float32, dequantized some rows at a time."""
    kind = GGMLQuantizationType[entry.dtype]
    block, block_bytes = GGML_QUANT_SIZES[kind]
    columns = entry.shape[-1]
    raw = np.empty((entry.nbytes // (columns // block * block_bytes), columns // block * block_bytes), dtype=np.uint8)
    stored_bytes.read_into(entry, memoryview(raw).cast("B"))  # type: ignore[arg-type]  # numpy's stubs hide the buffer
    out = np.empty((len(raw), columns), dtype=np.float32)
    step = max(1, CHUNK // columns)
    with np.errstate(all="ignore"):  # a damaged scale is infinite or NaN, which shows where the weights are used
        for start in range(0, len(raw), step):
            out[start : start + step] = dequantize(raw[start : start + step], kind)
    return out.reshape(entry.shape)


def map_names(header: GgufHeader) -> Mapping:
    """Config, names and shapes of the model that transformers makes of `header`; CheckpointError where it makes none."""
    check_counts(header)
    try:
        settings = transformers_settings(header)
        config = CONFIG_MAPPING[settings["model_type"]].from_dict(settings)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        config.architectures = [type(model).__name__]
        processor = TENSOR_PROCESSORS.get(header.architecture, TensorProcessor)(config=settings)
        names = names_of(list(model.state_dict()), header.architecture, config.num_hidden_layers, processor)
    except Exception as error:  # settings that fit no model fail anywhere inside transformers
        raise CheckpointError(
            f"{header.path}: transformers makes no causal language model of its settings ({one_line(repr(error))}). "
            "Give the model as a Hugging Face directory, or try a newer transformers."
        ) from None
    return join_names(header, model, Mapping(config.to_dict(), {}, {}, names, processor))


def check_counts(header: GgufHeader) -> None:
    """No setting makes transformers build more layers or experts than the file has tensors or rows for."""
    limits = {"block_count": len(header.tensors), "expert_count": max(max(entry.shape) for entry in header.tensors.values())}
    for word, limit in limits.items():
        value = header.settings.get(f"{header.architecture}.{word}", 0)
        if not isinstance(value, int) or value > limit:
            raise CheckpointError(
                f"{header.path}: says {word} = {one_line(value)}, more than its {len(header.tensors)} tensors hold. "
                "Download or copy it again."
            )


def transformers_settings(header: GgufHeader) -> dict[str, Any]:
    """The config that transformers' own load_gguf_checkpoint makes of the file.

    It reads a twin: the same short settings and the same names of tensors, each of one value. That spares the minute-long or
    endless walk of gguf-py through vocabularies, and no library meets a byte of the file that was not checked.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "twin.gguf"
        path.write_bytes(twin(header))
        settings: dict[str, Any] = load_gguf_checkpoint(str(path), return_tensors=False)["config"]
    settings.pop("_model_name_or_path", None)
    if (tokens := header.lengths.get("tokenizer.ggml.tokens")) is not None:
        settings.setdefault("vocab_size", tokens)
    for key, name in ADDED_SETTINGS.get(header.architecture, {}).items():
        if (value := header.settings.get(f"{header.architecture}.{key}")) is not None:
            settings[name] = value
    if ROPE_FACTORS in header.tensors:
        factors = torch.from_numpy(read_weights(header.tensors[ROPE_FACTORS])).flatten()
        if (scaling := rope_scaling(factors, settings, header.path)) is not None:
            settings["rope_scaling"] = scaling
    return settings


def twin(header: GgufHeader) -> bytes:
    """A GGUF file with the kept settings of `header` and its tensors' names."""
    kept = {key: raw for key, raw in header.raw.items() if key != "general.alignment"}
    head = struct.pack("<4sIQQ", MAGIC, 3, len(header.tensors), len(kept)) + b"".join(kept.values())
    for index, name in enumerate(header.tensors):
        text = name.encode()
        head += struct.pack("<Q", len(text)) + text + struct.pack("<IQIQ", 1, 1, int(GGMLQuantizationType.F32), 32 * index)
    return head + bytes(-len(head) % 32 + 32 * len(header.tensors))


def names_of(parameters: list[str], architecture: str, n_layers: int, processor: TensorProcessor) -> dict[str, str]:
    """GGUF name -> parameter, by gguf-py's table and the exceptions of transformers' processors.

    As transformers' get_gguf_hf_weights_map, which looks the table up for every module: a name counts without its first parts
    too (Bloom's were converted without "transformer."), and the longest that the table knows wins. Theirs builds the table
    anew for every module, 20 to 40 seconds for 30 layers; this takes a moment.
    """
    arch = next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == architecture)
    table = get_tensor_name_map(arch, n_layers)
    names: dict[str, str] = {}
    for depth in range(max(name.count(".") for name in parameters)):
        at_depth: dict[str, str] = {}
        for parameter in parameters:
            first, rest = _split(parameter, depth)
            if rest:
                rest = processor.preprocess_name(rest)
                stem, suffix = (
                    (rest.rpartition(".")[0], "." + rest.rpartition(".")[2])
                    if rest.endswith((".weight", ".bias"))
                    else (rest, "")
                )
                if (found_name := table.get_name(stem)) is not None:
                    at_depth[found_name + suffix] = first + rest
                else:
                    processor.perform_fallback_tensor_mapping(at_depth, suffix, first, rest)
        names = at_depth | names
    return names


def _split(parameter: str, depth: int) -> tuple[str, str]:
    """The first `depth` parts of a dotted name with their dots, and the rest."""
    parts = parameter.split(".")
    return "".join(part + "." for part in parts[:depth]), ".".join(parts[depth:])


def join_names(header: GgufHeader, model: nn.Module, mapping: Mapping) -> Mapping:
    """`mapping` with the tensors of each parameter, all of them placed and every parameter of `model` found."""
    state = model.state_dict()
    for name, entry in header.tensors.items():
        parameter = mapping.names.get(name) or mapping.names.get(name.removesuffix(".weight"))
        if name == ROPE_FACTORS:
            continue
        if parameter not in state:
            raise CheckpointError(
                f"{header.path}: holds the tensor {quoted(name)}, which has no place in transformers' {type(model).__name__}. "
                "Give the model as a Hugging Face directory."
            )
        mapping.sources.setdefault(parameter, []).append(entry)
        mapping.shapes[parameter] = tuple(state[parameter].shape)
    held = {id(parameter) for name, parameter in model.named_parameters(remove_duplicate=False) if name in mapping.sources}
    if lacking := [name for name, parameter in model.named_parameters() if id(parameter) not in held]:
        raise CheckpointError(
            f"{header.path}: lacks {len(lacking)} parameters of the model, first {lacking[0]}. Download or copy it again."
        )
    for parameter, entries in mapping.sources.items():
        shape = mapping.shapes[parameter]
        if (count := sum(torch.Size(entry.shape).numel() for entry in entries)) != torch.Size(shape).numel():
            raise CheckpointError(
                f"{header.path}: {quoted(entries[0].name)} holds {count} values, where the settings ask for {list(shape)}. "
                "Download or copy it again."
            )
    return mapping
