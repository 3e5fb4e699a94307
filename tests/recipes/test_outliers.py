"""Kept columns are those whose producers' weights spread widest; which rows produce a feature is found by changing them."""

from __future__ import annotations

import pytest
import torch

from kbit.formats import Format
from kbit.models import walk
from kbit.recipes.outliers import Outliers, producers
from tests.tiny_models import TINY, tiny_model

FMT = Format.parse("int4-b64-o10")


def outliers_of(model):
    sites = walk(model)
    return Outliers(model, sites, lambda name: model.get_parameter(name).detach()), sites


def inputs_of(model, site):
    """What the layer at `site` (not an expert) is given for a text of 9 tokens: (9, n_in)."""
    seen = []
    hook = model.get_submodule(site.module).register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    with torch.no_grad():
        model(torch.arange(9)[None])
    hook.remove()
    return seen[0].reshape(-1, site.shape[1]).clone()


@pytest.mark.parametrize("name", [name for name in TINY if name not in ("mixtral", "gpt_oss")])
def test_changing_a_producing_row_changes_exactly_the_features_it_produces(name):
    """The definition: a feature comes from a row where it changes with the row, and with no other row of that layer."""
    model = tiny_model(name)
    sites = walk(model)
    found = [
        (site, each) for site in sites if site.expert is None and ".1." in site.key for each in producers(site, model, sites)
    ]
    assert found
    for site, producer in found:
        before = inputs_of(model, site)
        w = producer.site.read(model)
        row = int(producer.rows[len(producer.rows) // 2 + 1])
        changed = w.clone()
        changed[row] += 1.0
        producer.site.write(model, changed)
        moved = (inputs_of(model, site) - before).abs().amax(0) > 1e-6
        producer.site.write(model, w)
        assert moved.nonzero().flatten().tolist() == (producer.rows == row).nonzero().flatten().tolist(), (
            site.key,
            producer.site.key,
        )


@pytest.mark.parametrize("name", ["mixtral", "gpt_oss"])
def test_gate_and_up_of_an_expert_produce_its_down_projections_features(name):
    model = tiny_model(name)
    sites = walk(model)
    down = next(site for site in sites if site.key == "model.layers.0.mlp.experts.down_proj.2")
    gate, up = producers(down, model, sites)
    assert gate.site == up.site
    assert gate.site.key == "model.layers.0.mlp.experts.gate_up_proj.2"
    halves = (torch.arange(48), 48 + torch.arange(48)) if name == "mixtral" else (torch.arange(0, 96, 2), torch.arange(1, 96, 2))
    assert [torch.equal(each.rows, half) for each, half in zip((gate, up), halves, strict=True)] == [True, True]


def test_layers_that_a_norm_feeds_have_no_producers():
    model = tiny_model("llama")
    sites = walk(model)
    fed_by_rows = {site.key.rpartition(".")[2] for site in sites if producers(site, model, sites)}
    assert fed_by_rows == {"o_proj", "down_proj"}


def test_the_widest_producers_columns_are_kept():
    model = tiny_model("llama")
    outliers, sites = outliers_of(model)
    by_key = {site.key: site for site in sites}
    gate, up, down = (by_key[f"model.layers.0.mlp.{name}_proj"] for name in ("gate", "up", "down"))
    spread = gate.read(model).std(1, correction=0) * up.read(model).std(1, correction=0)
    expected = sorted(spread.argsort(descending=True)[:5].tolist())  # 10% of 48 columns
    assert outliers.kept_columns(down, FMT).tolist() == expected


def test_a_value_row_is_kept_for_every_query_head_that_shares_it():
    model = tiny_model("llama")  # 4 query heads of 8 on 2 key-value heads
    outliers, sites = outliers_of(model)
    by_key = {site.key: site for site in sites}
    v, o = (by_key[f"model.layers.0.self_attn.{name}_proj"] for name in ("v", "o"))
    w = v.read(model)
    w[11] *= 100  # head 1, feature 3
    v.write(model, w)
    assert {16 + 3, 24 + 3} <= set(outliers.kept_columns(o, FMT).tolist())


def test_without_producers_the_layers_own_columns_decide():
    model = tiny_model("llama")
    outliers, sites = outliers_of(model)
    assert outliers.kept_columns(sites[1], FMT) is None
    assert outliers.kept_columns(sites[1], Format.parse("int4-b64")) is None


def test_each_parameter_is_read_once():
    model = tiny_model("mixtral")
    sites = walk(model)
    read = []
    outliers = Outliers(model, sites, lambda name: read.append(name) or model.get_parameter(name).detach())
    for site in sites:
        outliers.kept_columns(site, FMT)
    assert len(read) == len(set(read)) == 4  # v_proj and gate_up_proj of each layer
