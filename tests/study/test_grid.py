"""A grid says what it means, and a wrong one is refused in one line that names file, line and field."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kbit.errors import StoreError
from kbit.evaluation import PROTOCOLS, Protocol
from kbit.study.grid import Grid, GridProtocol, read_grid

GOOD = """\
models: 'prose-{94k,276k}'
formats:
  - bf16
  - int{2..4}-b64
protocols:
  family: {text: texts/books.txt, max_windows: 48}
"""


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "grid.yaml"
        path.write_text(text)
        return path

    return write


def test_a_grid_needs_models_formats_and_protocols_alone(write):
    grid = read_grid(write(GOOD))
    assert grid.models == ["prose-{94k,276k}"]
    assert grid.formats == ["bf16", "int{2..4}-b64"]
    assert (grid.methods, grid.embeddings, grid.parts) == (["rtn"], ["int8-row"], [])
    assert grid.source.parent == write(GOOD).parent


def test_a_protocol_starts_from_the_one_of_its_name_or_of_its_base():
    assert GridProtocol(text=["a.txt"], max_windows=3).named("family") == Protocol(
        **{**vars(PROTOCOLS["family"]), "max_windows": 3}
    )
    assert GridProtocol(text=["a.txt"], base="gptq").named("mine") == PROTOCOLS["gptq"]
    assert GridProtocol(text=["a.txt"], window=64).named("mine") == Protocol(window=64)


def test_a_part_takes_from_the_grid_what_it_leaves_out(write):
    text = GOOD + "parts:\n  - {embeddings: [int8-row, bf16]}\n  - formats: nf4-b64\n    models: other\n"
    first, second = read_grid(write(text)).products()
    assert (first.formats, first.embeddings) == (["bf16", "int{2..4}-b64"], ["int8-row", "bf16"])
    assert (second.formats, second.models, second.embeddings) == (["nf4-b64"], ["other"], ["int8-row"])
    assert first.protocols == second.protocols


def test_what_each_part_says_the_grid_need_not(write):
    text = GOOD.replace("models", "# models") + "parts:\n  - models: one\n  - models: two\n"
    assert [part.models for part in read_grid(write(text)).products()] == [["one"], ["two"]]


def test_a_grid_without_parts_is_its_own_product(write):
    (only,) = read_grid(write(GOOD)).products()
    assert only.formats == ["bf16", "int{2..4}-b64"]


def test_activations_are_float_unless_the_grid_says_bits(write):
    (plain,) = read_grid(write(GOOD)).products()
    assert (plain.activations, plain.calibration, plain.fixed_point) == (["float"], [], {})
    more = "activations: [float, 8, 4]\ncalibration: texts/{a,b}.txt\nfixed_point: {ranges: mse, rotate: none}\n"
    (product,) = read_grid(write(GOOD + more)).products()
    assert product.activations == ["float", 8, 4]
    assert product.calibration == ["texts/{a,b}.txt"]
    assert product.fixed_point == {"ranges": "mse", "rotate": "none"}
    (single,) = read_grid(write(GOOD + "activations: 6\n")).products()
    assert single.activations == [6]


def test_recipes_stand_beside_formats_or_alone(write):
    more = "recipes:\n  mix2: {weights: kmeans2-b64, layers: {'*.down_proj': kmeans3-b64}}\n"
    (both,) = read_grid(write(GOOD + more)).products()
    assert both.formats == ["bf16", "int{2..4}-b64"]
    assert both.recipes == {"mix2": {"weights": "kmeans2-b64", "layers": {"*.down_proj": "kmeans3-b64"}}}
    (alone,) = read_grid(write(GOOD.replace("formats:\n  - bf16\n  - int{2..4}-b64\n", more))).products()
    assert alone.formats == []
    assert list(alone.recipes) == ["mix2"]


BAD = {
    "a recipe whose name has no k": (
        GOOD + "recipes: {mix: {weights: int2-b64}}\n",
        "line 7: recipes: 'mix' is no name for a recipe. Write letters and the k that it stands for, such as mix2.",
    ),
    "a recipe with the name of a format": (
        GOOD + "recipes: {int2-b64: {weights: int2-b64}}\n",
        "line 7: recipes: 'int2-b64' is a format. Give the recipe another name, such as mix2.",
    ),
    "a recipe with a method": (
        GOOD + "recipes: {mix2: {weights: int2-b64, method: rtn}}\n",
        "line 7: recipes: 'method' of a recipe is a matter of the grid's own methods.",
    ),
    "a recipe with a setting that is none": (
        GOOD + "recipes: {mix2: {weights: int2-b64, layer: {}}}\n",
        "line 7: recipes: there is no setting 'layer'. Settings are weights, method, embeddings, lm_head, layers, keep, tables, "
        "fixed_point; perhaps layers.",
    ),
    "bits of activations that are none": (
        GOOD + "activations: [8, 3]\n",
        "line 7: activations: activations of 3 bits are not to be had. Write 4 to 8.",
    ),
    "a word for activations": (
        GOOD + "activations: [int8]\n",
        "line 7: activations: activations 'int8' are none. Write float, or bits from 4 to 8.",
    ),
    "a setting of integers that is none": (
        GOOD + "fixed_point: {rotate: up}\n",
        "line 7: fixed_point: rotate 'up' is not to be had. There are none, down, inputs, all; perhaps inputs.",
    ),
    "a setting of integers in the wrong place": (
        GOOD + "fixed_point: {activations: 8}\n",
        "line 7: fixed_point: 'activations' is a matter of the grid's own fields activations and calibration.",
    ),
    "a missing field": (GOOD.replace("models", "# models"), "line 2: the field 'models' is missing. Add it."),
    "a field that only one part says": (
        GOOD.replace("models", "# models") + "parts:\n  - models: one\n  - {}\n",
        "line 2: the field 'models' is missing. Add it, or to each part.",
    ),
    "a protocol without a text": (
        GOOD.replace("text: texts/books.txt, ", ""),
        "line 6: the field 'protocols.family.text' is missing. Add it.",
    ),
    "a misspelt field": (
        GOOD + "embedings: bf16\n",
        "line 7: there is no field 'embedings'; the nearest is 'embeddings'. "
        "There are models, formats, recipes, methods, embeddings, activations, calibration, fixed_point, training, protocols, "
        "parts.",
    ),
    "a misspelt field of a protocol": (
        GOOD.replace("max_windows", "windows"),
        "line 6: there is no field 'protocols.family.windows'; the nearest is 'window'. "
        "There are text, base, window, stride, bos, score, max_windows, dtype, prepare, compute.",
    ),
    "a number where a format belongs": (GOOD.replace("- bf16", "- 4"), "line 3: formats: Input should be a valid string, not 4."),
    "a protocol's wrong value": (
        GOOD.replace("48", "many"),
        "line 6: protocols.family.max_windows: Input should be a valid integer, not 'many'.",
    ),
    "a window that scores nothing": (
        GOOD.replace("max_windows: 48", "window: 1"),
        "line 6: protocols.family: protocol: a window of 1 tokens predicts nothing. Take 2 or more.",
    ),
    "an unknown base": (
        GOOD.replace("max_windows: 48", "base: gpqt"),
        "line 6: protocols.family: there is no protocol 'gpqt' to start from; the nearest is 'gptq'. "
        "There are gptq, llama-perplexity, family.",
    ),
    "an unknown method": (
        GOOD + "methods: [rtn, rnt-mse]\n",
        "line 7: methods: there is no method 'rnt-mse'; the nearest is 'rtn-mse'. "
        "There are rtn, rtn-mse, rtn-percentile, rtn-kl, qat.",
    ),
    "an empty list": (GOOD + "embeddings: []\n", "line 7: embeddings: it is empty. Name at least one."),
    "an open brace": (
        GOOD.replace("{2..4}", "{2..4"),
        "line 4: formats: 'int{2..4-b64': braces must come in pairs and not lie in one another. "
        "Write int{2..8}-b64 or {int,nf}4-b64.",
    ),
    "a field twice": (GOOD + "formats: [nf4-b64]\n", "line 7: the field 'formats' stands here a second time. Keep one of them."),
    "a field twice, deeper": (
        GOOD.replace("text: texts/books.txt", "text: a, text: b"),
        "line 6: the field 'text' stands here a second time. Keep one of them.",
    ),
    "unquoted braces": (
        "formats: [int{2..8}-b64]\n",
        "line 1: no YAML (expected ',' or ']', but got '{'). Put strings with braces in quotes: 'int{2..8}-b64'.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_grid_is_refused_with_the_line_and_the_field(write, name):
    text, expected = BAD[name]
    path = write(text)
    with pytest.raises(StoreError) as fault:
        read_grid(path)
    assert str(fault.value) == f"grid {path}, {expected}"


def test_a_wrong_format_is_named_with_its_line_and_what_is_allowed(write):
    path = write(GOOD.replace("- bf16", "- bf16\n  - nf4-64"))
    with pytest.raises(StoreError, match=rf"grid {path}, line 4: formats: format 'nf4-64'.*nf4-b64"):
        read_grid(path)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words", "3"])
def test_what_is_no_mapping_is_no_grid(write, text):
    with pytest.raises(StoreError, match="a grid is a mapping with the fields models, formats"):
        read_grid(write(text))


def test_a_grid_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(StoreError, match=r"cannot be read \(No such file or directory\)"):
        read_grid(tmp_path / "missing.yaml")
    with pytest.raises(StoreError, match=r"cannot be read \(Is a directory\)"):
        read_grid(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"models: \xe9\n")
    with pytest.raises(StoreError, match="it is not UTF-8 text"):
        read_grid(tmp_path / "latin.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(20)),
        "[" * 5000,
        "models: &m [*m]\n",
        "!!python/object/apply:os.system ['true']\n",
        "formats: 2020-99-99\n",
    ],
    ids=["billion laughs", "deep", "recursive", "code", "impossible date"],
)
def test_a_hostile_grid_is_refused_at_once(write, text):
    with pytest.raises(StoreError) as fault:
        read_grid(write(text))
    assert "\n" not in str(fault.value)
    assert len(str(fault.value)) < 1000


pieces = st.sampled_from(
    [*GOOD.splitlines(keepends=True), "{", "}", "[", "]", ":", "-", "&a ", "*a", "'", "\t", "  ", "\n", "formats: ", "~", "#"]
)


@given(st.lists(pieces, max_size=12).map("".join))
def test_any_text_is_a_grid_or_refused_in_one_line(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text)
    with suppress(StoreError):
        assert isinstance(read_grid(path), Grid)


def test_the_grid_of_the_how_to_is_one(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "howto-study.md").read_text()
    (tmp_path / "grid.yaml").write_text(page.partition("```yaml\n")[2].partition("```")[0])
    assert read_grid(tmp_path / "grid.yaml").products()[0].formats == ["bf16", "int{2..8}-b64", "{nf,fp}4-b64"]


def test_the_how_to_names_every_field():
    page = (Path(__file__).parents[2] / "docs" / "howto-study.md").read_text()
    for field in (*Grid.model_fields, *GridProtocol.model_fields):
        assert f"`{field}`" in page or field == "text", field
