"""A Hugging Face directory: config.json beside one safetensors file, or shards and their index."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

from kbit.checkpoints.checkpoint import SafetensorsCheckpoint, without_code
from kbit.checkpoints.json_file import DAMAGED, read_json
from kbit.checkpoints.safetensors_header import Entry, quoted, read_header
from kbit.errors import CheckpointError

CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

FAULTS = {
    "no config": f"holds no {CONFIG}, so it is no Hugging Face directory. Give the folder that holds the model's {CONFIG}.",
    "pickle": "holds weights only as {name}, a pickle, which can run any code when read. Get the safetensors from its maker, "
    "or, where you trust him, convert it (in transformers: from_pretrained, then save_pretrained).",
    "no weights": f"holds neither {SINGLE} nor {INDEX}. Give a folder with the whole model in safetensors.",
    "adapter": "holds only an adapter. Merge it into its base model first (in peft: merge_and_unload, then save_pretrained).",
    "quantized": "is already quantized ({method}). Give the model in 16 bits, before it was quantized.",
    "index": f"has an {INDEX} whose weight_map is not a map of tensor names to file names. " + DAMAGED,
    "outside": f"has an {INDEX} that names the file {{name}}, which is not a safetensors file of this folder. " + DAMAGED,
    "no shard": f"lacks the shard {{name}} that its {INDEX} names. Download or copy the folder again, whole.",
    "twice": "holds tensor {name} in two shards. " + DAMAGED,
    "unlisted": f"holds tensor {{name}} in a shard that its {INDEX} does not give it. The shards are of two versions. " + DAMAGED,
    "not in shard": f"lacks tensor {{name}}: the shard that its {INDEX} gives for it does not hold it. " + DAMAGED,
}


class HuggingFaceCheckpoint(SafetensorsCheckpoint):
    """Weights in f32, f16 or bf16 under the names that transformers saved them by."""

    kind = "huggingface"


def open_huggingface(folder: Path, *, keep_code_keys: bool = False) -> HuggingFaceCheckpoint:
    """Check the settings and headers in `folder`. Raises CheckpointError with one of FAULTS."""
    config = read_config(folder, keep_code_keys=keep_code_keys)
    if (quantization := config.get("quantization_config")) is not None:
        method = quantization.get("quant_method") if isinstance(quantization, dict) else None
        fail(folder, "quantized", method=method or "its quantization_config does not say how")
    return HuggingFaceCheckpoint(folder, config, read_entries(folder))


def read_config(folder: Path, *, keep_code_keys: bool = False) -> dict[str, Any]:
    """config.json of `folder`, without the keys that name code unless `keep_code_keys`."""
    if not (folder / CONFIG).is_file():
        fail(folder, "no config")
    config = read_json(folder / CONFIG)
    return config if keep_code_keys else without_code(config)


def read_entries(folder: Path) -> dict[str, Entry]:
    """The tensors of `folder`: those of model.safetensors where it exists (transformers' order), else those of all shards."""
    if (folder / SINGLE).is_file():
        return read_header(folder / SINGLE)
    if not (folder / INDEX).is_file():
        _explain_absence(folder)
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        fail(folder, "index")
    entries: dict[str, Entry] = {}
    for shard in sorted(set(weight_map.values())):
        for name, entry in read_header(_shard(folder, shard)).items():
            if name in entries:
                fail(folder, "twice", name=name)
            if weight_map.get(name) != shard:
                fail(folder, "unlisted", name=name)
            entries[name] = entry
    for name in weight_map:
        if name not in entries:
            fail(folder, "not in shard", name=name)
    return entries


def fail(folder: Path, fault: str, *, name: str = "", **details: Any) -> NoReturn:
    """Raise the CheckpointError of `fault`, a key of FAULTS."""
    raise CheckpointError(f"{folder}: {FAULTS[fault].format(name=quoted(name), **details)}")


def _shard(folder: Path, name: str) -> Path:
    """The file of shard `name`, which must lie in `folder` itself."""
    if "/" in name or "\\" in name or "\0" in name or not name.endswith(".safetensors"):
        fail(folder, "outside", name=name)
    if not (folder / name).is_file():
        fail(folder, "no shard", name=name)
    return folder / name


def _explain_absence(folder: Path) -> NoReturn:
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    if "adapter_config.json" in files:
        fail(folder, "adapter")
    pickle = next((name for name in files if name.endswith(PICKLES) and not name.startswith("training_args")), None)
    if pickle:
        fail(folder, "pickle", name=pickle)
    fail(folder, "no weights")
