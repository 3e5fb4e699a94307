"""Damaged and malicious kbit checkpoints: another version, sizes that disagree with the formats, numbers out of range."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from kbit.checkpoints import kbit_folder, modules, open_checkpoint, stored_bytes
from kbit.errors import CheckpointError, KbitError
from tests.checkpoints.kbit_folders import experts, packed_random, two_modules, write_modules
from tests.hostile.mutations import mutate, replace
from tests.hostile.reading import read_all

UP, DOWN = "model.up", "model.down"
Quantization = dict[str, Any]
Tensors = dict[str, torch.Tensor]


def edit(change: Callable[[Quantization], object]) -> Callable[[Path], Path]:
    """A checkpoint of two modules whose quantization_config was changed."""

    def make(out: Path) -> Path:
        two_modules(out)
        return rewrite_config(out, change)

    return make


def rewrite_config(folder: Path, change: Callable[[Quantization], object]) -> Path:
    """Apply `change` to the quantization_config in `folder`."""
    config = json.loads((folder / "config.json").read_text())
    change(config["quantization_config"])
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def module(change: Quantization, *, key: str = UP) -> Callable[[Path], Path]:
    """A checkpoint of which one module says something else."""
    return edit(lambda quantization: quantization["modules"][key].update(change))


def store(
    change: Callable[[dict[str, torch.Tensor]], object], make: Callable[[Path], Path] = two_modules
) -> Callable[[Path], Path]:
    """A checkpoint whose tensors were changed; the header is right again."""

    def make_and_change(out: Path) -> Path:
        make(out)
        tensors = load_file(out / "model.safetensors")
        change(tensors)
        save_file(tensors, out / "model.safetensors", {"format": "pt"})
        return out

    return make_and_change


def edit_experts(change: Callable[[Quantization], object]) -> Callable[[Path], Path]:
    """A checkpoint of experts whose modules were changed."""
    return lambda out: rewrite_config(experts(out), lambda quantization: change(quantization["modules"]))


def older(out: Path) -> Path:
    """A checkpoint of format_version 0."""
    return Path(shutil.copytree(Path(__file__).parents[1] / "checkpoints" / "version0", out))


# name -> (fault, how it is made)
HOSTILE: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "next version": ("version", edit(lambda q: q.update(format_version=2))),
    "version before the first": ("version", edit(lambda q: q.update(format_version=-1))),
    "version true": ("version", edit(lambda q: q.update(format_version=True))),
    "version 1.0": ("version", edit(lambda q: q.update(format_version=1.0))),
    "no version": ("version", edit(lambda q: q.pop("format_version"))),
    "no modules": ("modules", edit(lambda q: q.pop("modules"))),
    "modules are a list": ("modules", edit(lambda q: q.update(modules=[]))),
    "a module is text": ("modules", edit(lambda q: q["modules"].update({UP: "nf4-b64"}))),
    "recipe is text": ("recipe", edit(lambda q: q.update(recipe="nf4-b64"))),
    "no source": ("recipe", edit(lambda q: q.pop("source"))),
    "no format": ("keys", edit(lambda q: q["modules"][UP].pop("format"))),
    "unknown key": ("keys", module({"code": "import os"})),
    "format is a number": ("keys", module({"format": 4})),
    "unknown format": ("format", module({"format": "nf9-b64"})),
    "another spelling": ("format", module({"format": "NF4-b64"})),
    "shape is a number": ("shape", module({"shape": 48})),
    "three sides": ("shape", module({"shape": [48, 100, 1]})),
    "a side of 0": ("shape", module({"shape": [0, 100]})),
    "a negative side": ("shape", module({"shape": [-48, -100]})),
    "a side of true": ("shape", module({"shape": [True, 100]})),
    "a side of 2^31": ("shape", module({"shape": [2**31, 100]})),
    "transposed is 1": ("expert", module({"transposed": 1})),
    "an expert of no parameter": ("expert", module({"expert": 0})),
    "a parameter without a number": ("expert", module({"parameter": "model.experts"})),
    "a negative expert": ("expert", module({"parameter": "model.experts", "expert": -1})),
    "more rows than bytes": ("wrong part", module({"shape": [49, 100]})),
    "fewer rows than bytes": ("wrong part", module({"shape": [32, 100]})),
    "a bomb of rows": ("wrong part", module({"shape": [2**31 - 1, 2**31 - 1]})),
    "more bits than bytes": ("wrong part", module({"format": "nf5-b64"})),
    "smaller blocks": ("wrong part", module({"format": "nf4-b32"})),
    "another scale": ("wrong part", module({"format": "nf4-b64-e8m0"})),
    "kept as it is": ("wrong part", module({"format": "bf16"})),
    "a part that is not there": ("no part", module({"format": "int4-b64-asym"})),
    "a part too many": ("surplus", module({"format": "int3-b32"}, key=DOWN)),
    "a module that is not there": ("no part", edit(lambda q: q["modules"].update({"model.gone": q["modules"][UP]}))),
    "codes cut short": ("wrong part", store(lambda t: t.update({f"{UP}.weight": t[f"{UP}.weight"][:-64].clone()}))),
    "codes of two dimensions": ("wrong part", store(lambda t: t.update({f"{UP}.weight": t[f"{UP}.weight"].view(2, -1)}))),
    "codes of another dtype": ("wrong part", store(lambda t: t.update({f"{UP}.weight": t[f"{UP}.weight"].view(torch.int8)}))),
    "no scale": ("no part", store(lambda t: t.pop(f"{UP}.weight_scale"))),
    "no guard of experts": ("no guard", store(lambda t: t.pop("model.experts"), experts)),
    "a guard with values": ("no guard", store(lambda t: t.update({"model.experts": torch.zeros(3, 24, 40)}), experts)),
    "an expert twice": ("experts", edit_experts(lambda m: m["model.experts.2"].update(expert=1))),
    "an expert is missing": ("experts", edit_experts(lambda m: m["model.experts.2"].update(expert=3))),
    "a program of another name": (
        "fixed point",
        edit(lambda q: q.update(fixed_point={"program": "steps.json", "sha256": ""})),
    ),
    "a program without a hash": ("fixed point", edit(lambda q: q.update(fixed_point={"program": "fixed_point.json"}))),
    "experts of two shapes": ("experts", edit_experts(lambda m: m["model.experts.1"].update(transposed=True))),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_checkpoint_is_refused_before_anything_is_read(name, tmp_path, monkeypatch):
    fault, make = HOSTILE[name]
    folder = make(tmp_path / "m")
    monkeypatch.setattr(stored_bytes, "read_into", lambda *_: pytest.fail("read a tensor"))
    monkeypatch.setattr(stored_bytes, "map_tensor", lambda *_: pytest.fail("mapped a tensor"))
    text = (modules.FAULTS | kbit_folder.FAULTS)[fault]
    expected = ".*".join(re.escape(piece) for piece in re.split(r"\{\w+\}", text))
    with pytest.raises(CheckpointError, match=expected) as caught:
        open_checkpoint(folder)
    assert str(caught.value).startswith(str(folder))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700


def test_every_fault_has_a_hostile_checkpoint():
    assert modules.FAULTS.keys().isdisjoint(kbit_folder.FAULTS)
    later = {"program"}  # read when the model is made; the next test
    assert {fault for fault, _ in HOSTILE.values()} == (modules.FAULTS.keys() | kbit_folder.FAULTS.keys()) - later


@pytest.mark.parametrize("program", [None, "{}"])
def test_a_program_that_is_not_the_one_that_was_written_is_refused(program, tmp_path):
    hashed = {"program": "fixed_point.json", "sha256": "0" * 64}
    folder = edit(lambda quantization: quantization.update(fixed_point=hashed))(tmp_path / "m")
    if program is not None:
        (folder / "fixed_point.json").write_text(program)
    expected = re.escape(kbit_folder.FAULTS["program"].format(name="'fixed_point.json'"))
    with pytest.raises(CheckpointError, match=expected):
        open_checkpoint(folder).read_program()


NAN, INF = torch.tensor(float("nan")), torch.tensor(float("inf"))


@pytest.mark.parametrize(
    ("text", "suffix", "index", "value", "message"),
    [
        ("nf4-b64", "_scale", 0, NAN, "its scale is not finite"),
        ("int4-b64-min", "_min", 1, -INF, "its minimum is not finite"),
        ("kmeans3-b64", "_levels", 7, INF, "its levels is not finite"),
        ("kmeans3-b64", "_levels", 2, torch.tensor(-99.0), "levels that do not ascend"),
        ("nf4-b64-o3", "_kept_columns", 0, torch.tensor(100), "kept columns that are not ascending columns of its 100"),
        ("nf4-b64-o3", "_kept_columns", 0, torch.tensor(-1), "kept columns that are not ascending"),
        ("nf4-b64-o3", "_kept_columns", 1, torch.tensor(0), "kept columns that are not ascending"),
        ("nf4-b64-e4m3", "_tensor_scale", 0, NAN, "is not finite"),
    ],
)
def test_stored_numbers_that_no_packer_writes_are_refused_when_read(text, suffix, index, value, message, tmp_path):
    folder = write_modules(tmp_path / "m", {UP: packed_random(text, (48, 100))})
    tensors = load_file(folder / "model.safetensors")
    tensors[f"{UP}.weight{suffix}"][index] = value
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=f"^{re.escape(str(folder))}, {UP}: .*{message}"):
        read_all(folder)


STRANGE = [None, True, -1, 0, 1, 31, 2**31, 2**63, 1e300, "", "x", "nf4-b64", "int3-b32-asym", "bf16", [], {}, [1, 2]]


def mutate_json(value: Any, rng: random.Random) -> Any:
    """`value` with one of its inner values replaced, dropped, renamed or doubled."""
    value = deepcopy(value)
    inside, key = value, None
    while isinstance(inside, dict | list) and len(inside) and (key is None or rng.random() < 0.8):
        parent, key = inside, rng.choice(list(inside)) if isinstance(inside, dict) else rng.randrange(len(inside))
        inside = parent[key]
    strange = [
        None,
        True,
        -1,
        0,
        1,
        31,
        2**31,
        2**63,
        1e300,
        "",
        "x",
        "nf4-b64",
        "int3-b32-asym",
        "bf16",
        [],
        {},
        [1, 2],
        inside,
        [inside],
    ]
    parent[key] = rng.choice(strange)
    if isinstance(parent, dict) and rng.random() < 0.3:
        parent[rng.choice(["x", "format", "shape", "expert", "parameter", UP, DOWN])] = parent.pop(key)
    return value


def outcome(folder: Path) -> str:
    """What becomes of a changed checkpoint; all but KbitError fails the test."""
    try:
        checkpoint = open_checkpoint(folder)
    except CheckpointError:
        return "refused"
    try:
        read_all(checkpoint)
    except KbitError:
        return "refused when read"
    return "read"


def test_two_thousand_changed_configs_are_refused_or_read(tmp_path):
    folder = two_modules(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    outcomes = set()
    for seed in range(2000):
        rng = random.Random(seed)
        changed = mutate_json(config["quantization_config"], rng)
        replace(folder / "config.json", json.dumps(config | {"quantization_config": changed}).encode())
        outcomes.add(outcome(folder))
    assert outcomes >= {"refused", "read"}


def test_two_thousand_mutations_of_the_configs_bytes_are_refused_or_read(tmp_path):
    folder = two_modules(tmp_path / "m")
    content = (folder / "config.json").read_bytes()
    for seed in range(2000):
        replace(folder / "config.json", mutate(content, random.Random(seed)))
        outcome(folder)


@pytest.mark.parametrize("make", [two_modules, experts, older])
def test_a_thousand_mutations_of_the_weights_are_refused_or_read(make, tmp_path):
    folder = make(tmp_path / "m")
    content = (folder / "model.safetensors").read_bytes()
    for seed in range(500):
        replace(folder / "model.safetensors", mutate(content, random.Random(seed), head=1000))
        outcome(folder)


@pytest.mark.slow
def test_fifty_thousand_changed_configs_are_refused_or_read(tmp_path):
    folder = two_modules(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    for seed in range(50_000):
        changed = mutate_json(config["quantization_config"], random.Random(seed))
        replace(folder / "config.json", json.dumps(config | {"quantization_config": changed}).encode())
        outcome(folder)
