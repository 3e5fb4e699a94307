"""A recipe says one thing in one way, decides every layer, and refuses what means nothing."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError

import pytest

from kbit.errors import FormatError
from kbit.formats import Format
from kbit.models import Site, walk
from kbit.recipes import Recipe
from tests.tiny_models import tiny_model

DOWN = Site("model.layers.1.mlp.down_proj.weight", "model.layers.1.mlp.down_proj", "linear", (32, 48))
EXPERT = Site("model.layers.0.mlp.experts.up", "model.layers.0.mlp.experts", "linear", (8, 4), expert=2, n_experts=4)
EMBEDDING = Site("wte.weight", "wte", "embedding", (258, 32), aliases=("lm_head.weight",))
HEAD = Site("lm_head.weight", "lm_head", "lm_head", (258, 32))
ROUTER = Site("mlp.gate.weight", "mlp.gate", "router", (4, 32))


def choice(recipe, site):
    fmt, method = recipe.choice_for(site)
    return str(fmt), method


def test_roles_have_their_own_formats():
    recipe = Recipe("nf4-b64", method="rtn-mse", embeddings="bf16", lm_head="int4-row")
    assert choice(recipe, DOWN) == ("nf4-b64", "rtn-mse")
    assert choice(recipe, EXPERT) == ("nf4-b64", "rtn-mse")
    assert choice(recipe, EMBEDDING)[0] == "bf16"
    assert choice(recipe, HEAD)[0] == "int4-row"
    assert choice(recipe, ROUTER)[0] == "bf16"


def test_embeddings_and_head_are_int8_row_unless_told_otherwise():
    assert choice(Recipe("int2-b64"), EMBEDDING)[0] == choice(Recipe("int2-b64"), HEAD)[0] == "int8-row"


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ({"*.down_proj": "int8-row"}, ("int8-row", "rtn")),
        ({"*.down_proj.weight": "int8-row"}, ("int8-row", "rtn")),  # the parameter's name does too
        ({"*.down_proj": {"format": "int3-b64", "method": "rtn-kl"}}, ("int3-b64", "rtn-kl")),
        ({"*": "int2-b64", "*.layers.1.*": "int6-b64"}, ("int6-b64", "rtn")),  # most letters that are no wildcards
        ({"*.layers.1.*": "int6-b64", "*": "int2-b64"}, ("int6-b64", "rtn")),
        ({"*layers.[12].*": "int6-b64", "*.mlp.*": "int2-b64"}, ("int6-b64", "rtn")),
        ({"*.up_proj": "int8-row"}, ("nf4-b64", "rtn")),
    ],
)
def test_a_glob_goes_before_the_role(layers, expected):
    assert choice(Recipe("nf4-b64", layers=layers), DOWN) == expected


def test_keep_goes_before_layers():
    recipe = Recipe("nf4-b64", layers={"*.down_proj": "int8-row"}, keep=("*.layers.1.*",))
    assert choice(recipe, DOWN)[0] == "bf16"


def test_an_expert_can_be_named_alone_or_with_its_fellows():
    assert choice(Recipe("nf4-b64", layers={"*.experts.up.2": "int8-row"}), EXPERT)[0] == "int8-row"
    assert choice(Recipe("nf4-b64", layers={"*.experts.up": "int8-row"}), EXPERT)[0] == "int8-row"


def test_a_router_is_quantized_only_by_name():
    assert choice(Recipe("nf4-b64", layers={"*.gate": "int8-row"}), ROUTER)[0] == "int8-row"


def test_a_tied_head_is_an_embedding_under_both_names():
    assert choice(Recipe("nf4-b64", layers={"lm_head.weight": "int3-row"}), EMBEDDING)[0] == "int3-row"


def test_equal_meanings_have_equal_json_and_hash():
    one = Recipe("mxfp4", keep=("b", "a", "a"), layers={"y": "nf4-b64", "x": {"format": "int4-b64-s8-asym", "method": "rtn"}})
    other = Recipe("fp4e2m1-b32-e8m0", keep=("a", "b"), layers={"x": "int4-b64-asym-s8", "y": "nf4-b64"})
    assert one == other
    assert hash(one) == hash(other)
    assert one.to_json() == other.to_json()


def test_canonical_json_is_sorted_whole_and_without_spaces():
    assert Recipe("int4-b64", keep=("*.0.*",)).to_json() == (
        '{"embeddings":"int8-row","keep":["*.0.*"],"layers":{},"lm_head":"int8-row","method":"rtn","tables":{},"weights":"int4-b64"}'
    )


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe("nf4-b64"),
        Recipe("bf16", embeddings="bf16", lm_head="f32"),
        Recipe("table2:mine-b32", tables={"mine": (-1.0, -0.2, 0.2, 1.0)}),
        Recipe("int4-b64", layers={"*.0.*": {"format": "int8-row", "method": "rtn-kl"}}, keep=("*.1.*",)),
    ],
    ids=str,
)
def test_json_comes_back_as_the_same_recipe(recipe, tmp_path):
    assert Recipe.from_json(recipe.to_json()) == recipe
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    assert Recipe.from_file(tmp_path / "recipe.json") == recipe


def test_a_recipe_in_yaml(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "weights: int3-b64\n"
        "method: rtn-mse\n"
        "keep: ['*.layers.0.*']\n"
        "layers:\n"
        "  '*.down_proj': {format: nf4-b64, method: rtn}\n"
        "  '*.o_proj': int4-b64\n"
    )
    assert Recipe.from_file(path) == Recipe(
        "int3-b64",
        method="rtn-mse",
        keep=("*.layers.0.*",),
        layers={"*.down_proj": {"format": "nf4-b64", "method": "rtn"}, "*.o_proj": "int4-b64"},
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "weight: nf4-b64",
            "there is no setting 'weight'. Settings are weights, method, embeddings, lm_head, layers, keep, tables, fixed_point;",
        ),
        ("method: rtn", "it lacks the setting 'weights'. Write the format of the linear layers, such as weights: nf4-b64."),
        ("weights: 4", "the setting 'weights' must be a word, such as nf4-b64 or rtn."),
        ("weights: nf4-64", "format 'nf4-64': '64' is not a granularity."),
        ("weights: int4-token", "format 'int4-token': weights have no tokens. Write row, tensor, or a block such as b64."),
        ("{weights: nf4-b64, method: gptq2}", "'gptq2' is not a method. Methods are rtn, "),
        ("{weights: nf4-b64, keep: '*.0.*'}", "the setting 'keep' must be a list of globs, such as [\"*.layers.0.*\"]."),
        ("{weights: nf4-b64, layers: [a]}", "the setting 'layers' must be a map from a glob to a format"),
        ("{weights: nf4-b64, layers: {a: {k: 3}}}", "the setting 'layers' must be a map from a glob to a format"),
        (
            "{weights: nf4-b64, layers: {a: {fmt: nf4-b64}}}",
            "layers 'a': it has the keys fmt. Write a format, or format and method.",
        ),
        ("{weights: nf4-b64, layers: {a: int9-b64}}", "int9"),
        ("{weights: nf4-b64, tables: {a: 3}}", "the setting 'tables' must be a map from a name to a list of levels."),
        ("- nf4-b64", "it is not a map of settings. Write at least: weights: nf4-b64."),
        ("weights: [", "is neither YAML nor JSON"),
        ("!!python/object/apply:os.system ['true']", "is neither YAML nor JSON"),
    ],
)
def test_a_recipe_that_means_nothing_is_refused_in_one_line(text, said, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(FormatError) as error:
        Recipe.from_file(path)
    assert str(error.value).startswith(f"recipe {path}")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(
        FormatError, match=r"recipe .*none\.yaml: cannot be read \(No such file or directory\)\. Check the path\."
    ):
        Recipe.from_file(tmp_path / "none.yaml")


@pytest.mark.parametrize("setting", ["layers", "keep"])
def test_a_glob_that_matches_nothing_is_refused_with_what_is_near(setting):
    globs = {"layers": {"*.layers.7.mlp": "int8-row"}, "keep": ("*.layers.7.mlp",)}[setting]
    with pytest.raises(FormatError) as error:
        Recipe("nf4-b64", **{setting: globs}).check(walk(tiny_model("llama")))
    assert str(error.value).startswith("recipe: the glob '*.layers.7.mlp' matches no layer. Near are model.layers.")


def test_a_recipe_does_not_change():
    recipe = Recipe("nf4-b64")
    with pytest.raises(FrozenInstanceError):
        recipe.weights = "bf16"
    assert recipe.with_(weights="bf16").weights == "bf16"
    assert recipe.weights == "nf4-b64"


def test_a_users_table_gives_its_levels():
    recipe = Recipe("table2:mine-b32", tables={"mine": (-1.0, -0.2, 0.2, 1.0)})
    fmt, _ = recipe.choice_for(DOWN)
    assert fmt.levels().tolist() == pytest.approx([-1.0, -0.2, 0.2, 1.0])
    assert "@" in json.loads(recipe.to_json())["weights"]  # the hash of the levels


@pytest.mark.parametrize("wanted", ["mxfp4", Format.parse("mxfp4"), Recipe("mxfp4")])
def test_a_string_a_format_and_a_recipe_all_do(wanted):
    assert Recipe.of(wanted) == Recipe("fp4e2m1-b32-e8m0")
