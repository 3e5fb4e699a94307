"""A run's hash takes in all that decides its result and nothing else; a grid expands to each of its runs once."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from kbit.errors import CheckpointError, KbitError, StoreError, TextError
from kbit.study import specs as specs_module
from kbit.study.grid import read_grid
from kbit.study.specs import NUMERICS, RunSpec, expand
from tests.study.conftest import GRID

ROOT = Path(__file__).parents[2]
SIZES = [f"prose-{size}" for size in ("94k", "276k", "754k", "1.9m", "5.1m")]

names = st.text("abcdef0123456789", min_size=1, max_size=4)
settings = st.dictionaries(names, names | st.integers() | st.booleans() | st.lists(names, max_size=2), max_size=3)
specs = st.builds(
    RunSpec,
    fingerprint=names,
    config=names,
    recipe=settings.map(json.dumps),
    protocol=settings.map(json.dumps),
    source=names,
    texts=st.tuples(names),
    about=st.fixed_dictionaries({"model": names}),
)
DECIDING = ("fingerprint", "config", "recipe", "protocol")


@given(specs, specs)
def test_two_specs_have_one_hash_exactly_where_all_that_decides_is_equal(left, right):
    assert (left.hash == right.hash) == (left.decided == right.decided)


@given(specs, specs)
def test_paths_and_names_do_not_decide(left, right):
    moved = RunSpec(*(getattr(left, name) for name in DECIDING), source=right.source, texts=right.texts, about=right.about)
    assert moved.hash == left.hash
    assert moved == left


@given(specs)
def test_the_order_of_keys_does_not_decide(spec):
    turned = json.dumps(dict(reversed(json.loads(spec.recipe).items())), indent=3)
    assert RunSpec(spec.fingerprint, spec.config, turned, spec.protocol, "", (), {}).hash == spec.hash


@given(specs, st.sampled_from([None, [], {}]))
def test_a_setting_that_a_later_version_adds_and_nobody_uses_does_not_decide(spec, nothing):
    later = json.dumps({**json.loads(spec.recipe), "zzz": nothing})
    assert RunSpec(spec.fingerprint, spec.config, later, spec.protocol, "", (), {}).hash == spec.hash


def test_the_hash_is_sha256_of_the_canonical_json():
    spec = RunSpec("ab", "cd", '{"weights": "nf4-b64"}', '{"window":256}', "here", ("text",), {})
    text = (
        f'{{"config":"cd","fingerprint":"ab","numerics":{NUMERICS},"protocol":{{"window":256}},"recipe":{{"weights":"nf4-b64"}}}}'
    )
    assert spec.hash == hashlib.sha256(text.encode()).hexdigest()


def test_other_numerics_are_another_run_and_another_version_of_the_package_is_not(monkeypatch):
    def spec() -> RunSpec:
        return RunSpec("ab", "cd", "{}", "{}", "", (), {})

    before = spec().hash
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99.0")
    assert spec().hash == before
    monkeypatch.setattr(specs_module, "NUMERICS", NUMERICS + 1)
    assert spec().hash != before


def test_a_grid_is_the_product_of_its_fields_each_run_once(write_grid):
    more = "embeddings: [int8-row, f32]\nmethods: [rtn, rtn-mse]\n"
    found = expand(read_grid(write_grid("[one, two, one, 'o*']", more)))
    # f32 is cast, so that a method has no say: 2 models x (f32 + 2 formats x 2 methods) x 2 embeddings
    assert len(found) == len({spec.hash for spec in found}) == 2 * (1 + 2 * 2) * 2
    assert Counter(spec.about["method"] for spec in found) == {"none": 4, "rtn": 8, "rtn-mse": 8}


def test_two_names_of_one_format_are_one_run(write_grid):
    grid = write_grid().read_text().replace("f32,", "fp4-b32, fp4e2m1-b32,")
    found = expand(read_grid(write_grid(text=grid)))
    assert [spec.about["format"] for spec in found] == ["fp4e2m1-b32", "int3-b32", "int4-b32"]


def test_parts_add_up(write_grid):
    more = "parts:\n  - {}\n  - {models: two, formats: [int4-b32, int8-row]}\n  - {formats: int4-b32}\n"
    found = expand(read_grid(write_grid("one", more)))
    assert Counter(spec.about["model"] for spec in found) == {"one": 3, "two": 2}


def test_a_spec_says_what_the_table_needs(write_grid):
    spec = expand(read_grid(write_grid()))[-1]
    expected = {
        "model": "one", "family": "llama", "format": "int4-b32", "codebook": "int", "k": 4, "block": 32, "method": "rtn",
        "embeddings": "int8-row", "protocol": "short", "training_tokens": None, "seed": 0, "windows": 6, "tokens": 6 * 64,
    }  # fmt: skip
    assert {name: spec.about[name] for name in expected} == expected
    assert spec.about["parameters"] > spec.about["parameters_linear"] > 0
    assert spec.about["architecture"]["layers"] == 2
    assert json.loads(spec.recipe)["lm_head"] == "int8-row"


@pytest.fixture
def hashes_of(folder, tmp_path):
    """Hashes of a grid's runs after `change` has been applied to a copy of the model and the text."""

    def hashes(change=lambda folder: None) -> list[str]:
        copy = tmp_path / f"copy-{len(list(tmp_path.iterdir()))}"
        copy.mkdir()
        shutil.copytree(folder / "one", copy / "one")
        shutil.copy(folder / "text.txt", copy)
        change(copy)
        grid = copy / "grid.yaml"
        grid.write_text("models: one\nformats: int4-b32\nprotocols:\n  any: {text: text.txt, window: 64}\n")
        return [spec.hash for spec in expand(read_grid(grid))]

    return hashes


def change_a_weight(folder):
    file = folder / "one" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"][0] += 1e-3
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, file, metadata={"format": "pt"})


def change_config(**changes):
    def change(folder):
        file = folder / "one" / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def change_the_tokenizer(folder):
    file = folder / "one" / "tokenizer.json"
    settings = json.loads(file.read_text())
    settings["pre_tokenizer"]["add_prefix_space"] = True
    file.write_text(json.dumps(settings))


def rewrite_the_safetensors_in_another_order(folder):
    file = folder / "one" / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in reversed(load_file(file).items())}
    save_file(tensors, file, metadata={"format": "pt", "more": "words"})


@pytest.mark.parametrize(
    "change",
    [
        change_a_weight,
        change_config(rms_norm_eps=0.1),
        change_the_tokenizer,
        lambda folder: (folder / "text.txt").write_text((folder / "text.txt").read_text() + "."),
    ],
    ids=["weights", "config", "tokenizer", "text"],
)
def test_what_changes_the_result_changes_the_hash(hashes_of, change):
    assert hashes_of(change) != hashes_of()


@pytest.mark.parametrize(
    "change",
    [
        change_config(transformers_version="99.0", use_cache=False, _name_or_path="elsewhere"),
        rewrite_the_safetensors_in_another_order,
        lambda folder: (folder / "one" / "training.json").write_text('{"family": "prose", "seed": 3}'),
    ],
    ids=["who wrote the config", "the order of tensors", "training.json"],
)
def test_what_does_not_change_the_result_does_not_change_the_hash(hashes_of, change):
    assert hashes_of(change) == hashes_of()


def test_training_json_gives_family_tokens_and_seed(write_grid, folder, tmp_path):
    shutil.copytree(folder / "one", tmp_path / "mine")
    (tmp_path / "mine" / "training.json").write_text('{"family": "prose", "training_tokens": 8388608, "seed": 2}')
    about = expand(read_grid(write_grid("mine")))[0].about
    assert (about["family"], about["training_tokens"], about["seed"]) == ("prose", 8388608, 2)


@pytest.mark.parametrize("text", ["[]", "{", '{"training_tokens": "many"}', '{"seed": []}'])
def test_a_damaged_training_json_is_named(write_grid, folder, tmp_path, text):
    shutil.copytree(folder / "one", tmp_path / "mine")
    (tmp_path / "mine" / "training.json").write_text(text)
    with pytest.raises(StoreError, match=r"training\.json: it is no JSON object with numbers for training_tokens and seed"):
        expand(read_grid(write_grid("mine")))


def test_what_is_wrong_with_models_and_texts_is_said_before_anything_runs(write_grid, tmp_path):
    (tmp_path / "short.txt").write_text("It was cold.")
    with pytest.raises(TextError, match="the text has 12 tokens, a window 64"):
        expand(read_grid(write_grid(text=write_grid().read_text().replace("text.txt", "short.txt"))))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    with pytest.raises(CheckpointError):
        expand(read_grid(write_grid("broken")))
    with pytest.raises(KbitError, match="context"):
        expand(read_grid(write_grid(text=write_grid().read_text().replace("window: 64", "window: 256"))))


def test_a_model_is_not_read_into_memory_to_be_named(write_grid, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", None)
    assert expand(read_grid(write_grid()))


INTEGERS = GRID.replace("[f32, 'int{3..4}-b32']", "[f32, 'int{3..4}-b32-i8']")
CALIBRATED = "activations: [float, 8, 4]\ncalibration: text.txt\n"


def test_activations_are_a_side_of_the_grid(write_grid, folder):
    specs = expand(read_grid(write_grid("one", CALIBRATED, INTEGERS)))
    names = [spec.about["format"] for spec in specs]
    assert names == ["f32", *(f"int{k}-b32-i8{more}" for k in (3, 4) for more in ("", "-a8", "-a4"))]
    assert [spec.about["activations"] for spec in specs] == [0, 0, 8, 4, 0, 8, 4]
    digest = hashlib.sha256((folder / "text.txt").read_bytes()).hexdigest()
    for spec in specs:
        settings = json.loads(spec.recipe).get("fixed_point")
        assert (settings is None) == (spec.calibration == ())
        assert settings is None or (settings["activations"], settings["text_sha256"]) == (spec.about["activations"], digest)


def test_runs_of_floats_keep_their_hash_beside_those_of_integers(write_grid):
    without = {spec.hash for spec in expand(read_grid(write_grid("one", "", INTEGERS)))}
    with_ = {spec.hash for spec in expand(read_grid(write_grid("one", CALIBRATED, INTEGERS)))}
    assert without < with_


def test_the_bundled_grid_of_integers_is_that_of_its_page(tmp_path):
    page = (ROOT / "docs" / "howto-study.md").read_text()
    (shown,) = [block for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "activations:" in block]
    for name in ("prose-94k", "texts"):
        (tmp_path / name).symlink_to(ROOT / "family" / name)
    (tmp_path / "shown.yaml").write_text(shown.replace("{94k,276k,754k,1.9m,5.1m}", "94k"))
    specs = expand(read_grid(tmp_path / "shown.yaml"))
    pairs = [(k, bits) for k in (2, 3, 4, 6) for bits in (0, 8, 6, 4)]
    names = [f"int{k}-b64-i8{f'-a{bits}' * (bits > 0)}" for k, bits in pairs]
    assert [spec.about["format"] for spec in specs] == ["bf16", *names]
    assert [spec.about["activations"] for spec in specs] == [0, *(bits for _, bits in pairs)]
    written = expand(read_grid(ROOT / "family" / "integers.yaml"))
    assert Counter(spec.about["model"] for spec in written) == dict.fromkeys(SIZES, len(specs))
    assert {spec.hash for spec in specs} == {spec.hash for spec in written if spec.about["model"] == "prose-94k"}


def test_another_calibration_text_is_another_run(write_grid, tmp_path):
    one = {spec.hash for spec in expand(read_grid(write_grid("one", CALIBRATED, INTEGERS))) if spec.calibration}
    (tmp_path / "other.txt").write_text("Another text. " * 20)
    other = write_grid("one", CALIBRATED.replace("text.txt", "other.txt"), INTEGERS)
    assert not one & {spec.hash for spec in expand(read_grid(other)) if spec.calibration}


@pytest.mark.parametrize(
    ("more", "text", "said"),
    [
        ("activations: 8\n", INTEGERS, "activations of 8 bits want a text to calibrate on. Add the field 'calibration'"),
        (CALIBRATED, GRID, "format 'int3-b32' has no integer form"),
        (CALIBRATED, INTEGERS.replace("window: 64", "window: 64, compute: int8"), "has no compute int8. Leave it out."),
    ],
)
def test_what_integers_cannot_do_is_said_before_anything_runs(write_grid, more, text, said):
    grid = read_grid(write_grid("one", more, text))
    with pytest.raises(KbitError, match=said):
        expand(grid)
