"""Figures: valid for plotly, in the colours that the style sheet names, and true to the runs."""

from __future__ import annotations

import json
import re
from importlib.resources import files

import numpy as np
import plotly.graph_objects as go
import pytest

from kbit.laws import pareto
from kbit.report import figures, look
from kbit.report.html import plain
from kbit.report.runs import View, rows_of

BOOKS = View("prose", "books", "int8-row", "total")


@pytest.fixture(scope="module")
def data(report):
    """What the page's script reads."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', report.html, re.S)[1])


@pytest.fixture(scope="module")
def rows(table):
    return rows_of(table, BOOKS)


def test_every_figure_passes_the_checks_of_plotly(data):
    assert len(data["figures"]) > 20
    for figure in data["figures"]:
        go.Figure(figure)


def test_every_colour_is_named_by_the_style_sheet_once_for_light_and_once_for_dark(data):
    style = (files("kbit.report") / "style.css").read_text()
    used = set(re.findall(r"var\((--[\w-]+)\)", json.dumps(data["figures"])))
    assert {"--k3", "--k3-band", "--k16", "--ink", "--c1", "--b1"} <= used
    for name in used:
        assert len(re.findall(rf"{name}: ", style)) == 2, name


def test_every_point_names_its_run(data):
    rows = len(data["runs"]["rows"])
    for figure in data["figures"]:
        for trace in figure["data"]:
            if "markers" in trace["mode"]:
                assert len(trace["meta"]["runs"]) == len(trace["x"]) == len(trace["y"])
                assert all(0 <= run < rows for run in trace["meta"]["runs"])


def test_the_curve_shows_each_run_at_its_bits_and_loss(data, table):
    section = data["views"][data["initial"]]["sections"]["curve"]
    figure = data["figures"][section["figures"][0]]
    seen = 0
    for trace in figure["data"]:
        for run, x, y in zip(trace["meta"].get("runs", []), trace["x"], trace["y"], strict=False):
            assert x == pytest.approx(table["total_bits"][run], rel=1e-6)
            assert y == pytest.approx(table["bits_per_byte"][run], rel=1e-6)
            seen += 1
    assert seen >= 5 * 9


def test_the_other_axis_counts_the_linear_layers(data, table):
    view = next(key for key in data["views"] if key.endswith("linear") and "books\nint8-row" in key)
    figure = data["figures"][data["views"][view]["sections"]["curve"]["figures"][0]]
    assert figure["layout"]["xaxis"]["title"]["text"] == "bits of the linear layers"
    trace = next(trace for trace in figure["data"] if "markers" in trace["mode"])
    np.testing.assert_allclose(trace["x"], table["linear_bits"][trace["meta"]["runs"]], rtol=1e-6)


def test_one_line_per_k_in_each_group_of_the_curve(rows):
    figure = figures.loss_against_bits(rows, "total")
    assert figure["layout"]["meta"]["choices"][0] == "int-b64"
    own = [trace for trace in figure["data"] if trace["meta"]["group"] == "int-b64" and trace["mode"] == "lines+markers"]
    assert [trace["legendgroup"] for trace in own] == [f"k{k}" for k in (*range(1, 9), 16)]
    assert all(len(trace["x"]) == 5 for trace in own)


def test_runs_far_above_the_worst_16_bit_model_do_not_flatten_the_curve(rows):
    worst = dict(rows)
    worst["bits_per_byte"] = np.where(rows["k"] == 1, 50.0, rows["bits_per_byte"])
    _, top = figures.loss_frame(worst)
    assert top < 1.3 * rows["bits_per_byte"][rows["k"] == 16].max()


def test_probabilities_are_stacked_and_the_unlikely_left_out():
    budgets = np.geomspace(1e5, 1e6, 10)
    chances = np.column_stack([np.linspace(1, 0, 10), np.linspace(0, 1, 10), np.zeros(10)])
    figure = figures.best_by_budget(budgets, chances, (3, 4, 5), "total", "title", measured=budgets[[2, 7]])
    assert [trace["legendgroup"] for trace in figure["data"]] == ["k3", "k4"]
    assert {trace["stackgroup"] for trace in figure["data"]} == {"k"}
    assert len(figure["layout"]["shapes"]) == 2
    labels = figure["layout"]["meta"]["labels"]
    assert [label["text"] for label in labels] == ["3 bits", "4 bits"]
    assert labels[0]["x"] < labels[1]["x"]


def test_the_best_is_nothing_behind_the_best():
    losses = np.array([[2.0, 1.5, np.nan], [1.2, 1.3, 1.6]])
    figure = figures.behind_the_best(np.array([1e5, 1e6]), losses, (3, 4, 5), "total", "int-b64")
    found = {trace["legendgroup"]: trace["y"].tolist() for trace in figure["data"]}
    assert found["k3"] == pytest.approx([0.5, 0.0])
    assert found["k4"] == pytest.approx([0.0, 0.1])
    assert found["k5"] == pytest.approx([0.4])


def test_the_front_is_marked_and_its_landmarks_are_named(rows):
    members = pareto(rows, "total", "bits_per_byte")
    figure = figures.pareto_front(rows, members, "total")
    line = next(trace for trace in figure["data"] if trace["mode"] == "lines")
    assert line["line"]["shape"] == "hv"  # whoever has more bits keeps the run until the next one fits
    assert (np.diff(line["x"]) > 0).all()
    assert (np.diff(line["y"]) < 0).all()
    names = [label["text"] for label in figure["layout"]["meta"]["labels"]]
    assert 0 < len(names) <= figures.MOST_LABELS
    assert all(not name.startswith("prose-") for name in names)  # what all models begin with is left out


def test_residuals_are_what_the_law_leaves_over(rows):
    fitted, rest = figures.law_fit(rows, rows["bits_per_byte"] - 0.01, "total")
    for trace in rest["data"]:
        np.testing.assert_allclose(trace["y"], 0.01)
    assert fitted["layout"]["xaxis"]["range"].tolist() == fitted["layout"]["yaxis"]["range"].tolist()


@pytest.mark.parametrize(("low", "high"), [(1e5, 3e6), (9e5, 1.1e6), (1e3, 1e12)])
def test_ticks_lie_on_the_axis_and_get_sparser(low, high):
    sets = look.bits_ticks(np.array([low, high]))
    assert all(low / look.MARGIN <= tick <= high * look.MARGIN for ticks in sets for tick in ticks["at"])
    counts = [len(ticks["at"]) for ticks in sets]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] >= 1


def test_a_tick_says_bits_and_bytes():
    assert "1M<br>125 kB" in look.bits_ticks(np.array([1e6, 2e6]))[0]["text"]


def test_what_plotly_would_read_as_tags_is_escaped():
    assert look.plain("<b>&</b>") == "&lt;b&gt;&amp;&lt;/b&gt;"


def test_numbers_of_figures_are_plain_json():
    value = {"a": np.array([1.23456789, np.nan]), 2: (np.float64(3), np.int64(4), np.str_("x"))}
    assert plain(value) == {"a": [1.234568, None], "2": [3.0, 4, "x"]}
