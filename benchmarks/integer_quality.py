"""What running on integers alone costs in perplexity, by weight and activation bits; and which layers and places it comes from.

Each row is held against the 16-bit model, against the same weights run in floating point, and against the first row of as many
bits. Standard errors are those of paired differences: the windows are the same. The second table rounds what one place
multiplies, and nothing else, in floating point: where the loss comes from.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import kbit
from kbit.evaluation import Protocol, Scorer, Windows, read_text, tokenize_windows
from kbit.evaluation.estimates import Estimate, ratio
from kbit.models.integer_blueprint import Blueprint, blueprint_of
from kbit.models.integer_float import INPUTS, rounded, run
from kbit.models.integer_model import IntegerModel
from kbit.recipes import Converted, FixedPoint, convert, fixed_point_recipe

FAMILY = Path(__file__).parents[1] / "family"
HEADS = (
    "rotate",
    "smooth",
    "ranges",
    "W",
    "A",
    "16 bits",
    "W in floats",
    "integers",
    "over 16 bits",
    "over W in floats",
    "over the first",
    "KL",
)


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(FAMILY / "prose-5.1m"), help="Any model of floats that has a form in integers.")
    parser.add_argument("--text", type=Path, default=FAMILY / "texts" / "books.txt", help="To measure on.")
    parser.add_argument("--calibration", type=Path, default=FAMILY / "texts" / "textbooks.txt", help="To calibrate on.")
    parser.add_argument("--window", type=int, default=256, help="Tokens that are read at once.")
    parser.add_argument("--windows", type=int, default=48, help="How many windows.")
    parser.add_argument("--weights", type=int, nargs="*", default=[8, 6, 4, 3, 2], help="Bits.")
    parser.add_argument("--activations", type=int, nargs="*", default=[8, 6, 4], help="Bits.")
    parser.add_argument("--ranges", nargs="*", default=["token"], help="token, or estimators of static ranges.")
    parser.add_argument("--smooth", nargs="*", default=["auto"], help="auto, or strengths.")
    parser.add_argument("--rotate", nargs="*", default=["inputs"], help="none, down, inputs, all.")
    parser.add_argument("--tokens", type=int, default=8192, help="Of the calibration text.")
    parser.add_argument("--where", type=int, nargs="*", default=[], help="Bits of activations to tell the layers' losses at.")
    parser.add_argument("--where-weights", type=int, default=4, help="Bits of the weights there.")
    parser.add_argument("--whole-layers", action="store_true", help="Tell no layer's places apart: a deep model has many.")
    parser.add_argument("--json", type=Path, help="Add a line of JSON for each row to this file.")
    options = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {options.model}, {options.windows} windows")
    model: Any = kbit.load(options.model, packed=False)
    windows = tokenize_windows(
        read_text(options.text), model.kbit_tokenizer, Protocol(window=options.window, max_windows=options.windows)
    )
    original = blueprint_of(model)
    base = [run(original, ids) for ids in windows.ids.split(1)]
    print("\n| " + " | ".join(HEADS) + " |\n" + "| --- " * len(HEADS) + "|")
    firsts: dict[tuple[int, int], dict[str, Any]] = {}
    for row in rows(model, windows, base, options):
        keep(options, row)
        print(line_of(row, firsts.setdefault((row["weights"], row["activations"]), row)), flush=True)
    for k in options.where:
        where(model, windows, k, options)


def keep(options: argparse.Namespace, row: dict[str, Any]) -> None:
    """A row as a line of the file, where one was asked for."""
    if options.json:
        with options.json.open("a") as file:
            file.write(json.dumps(row) + "\n")


def rows(model: Any, windows: Windows, base: list[Tensor], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for each combination."""
    text = read_text(options.calibration)
    for rotate in options.rotate:
        for smooth in options.smooth:
            for ranges in options.ranges:
                for weights in options.weights:
                    for activations in options.activations:
                        start = time.perf_counter()
                        how = FixedPoint(activations, ranges, strength(smooth), rotate, options.tokens)
                        made = convert(model, fixed_point_recipe(weights, how), text)
                        yield {
                            "model": options.model,
                            "weights": weights,
                            **asdict(how),
                            **measured(model, made, windows, base),
                            "bits_per_weight": made.bits.bits_per_weight,
                            "fallbacks": made.fallbacks,
                            "seconds": time.perf_counter() - start,
                        }


def line_of(row: dict[str, Any], first: dict[str, Any]) -> str:
    """A row as a line of the table, beside the first of as many bits."""
    how = [str(row[name]) for name in ("rotate", "smooth", "ranges", "weights", "activations")]
    floats = f"{row['floats']:.3f} ({100 * (row['floats'] / row['base'] - 1):+.2f}%)"
    over = [f"{100 * row[name]:+.2f}% ± {100 * row[name + '_stderr']:.2f}" for name in ("over_base", "over_floats")]
    beside = "" if row is first else percent(paired(row, first))
    cells = [*how, f"{row['base']:.3f}", floats, f"{row['integers']:.3f}", *over, beside, f"{row['kld']:.5f}"]
    return "| " + " | ".join(cells) + " |"


def paired(row: dict[str, Any], other: dict[str, Any]) -> Estimate:
    """Perplexity of one over that of the other, on the same windows."""
    tokens = np.array(row["window_tokens"], dtype=float)
    nats = np.array(row["window_losses"]) - np.array(other["window_losses"])
    return ratio(nats * tokens, tokens).exp()


def percent(ratio: Estimate) -> str:
    """A ratio as what it is above 1."""
    return f"{100 * (ratio.value - 1):+.2f}% ± {100 * ratio.stderr:.2f}"


def strength(smooth: str) -> str | float:
    """A number where it is one."""
    return smooth if smooth == "auto" else float(smooth)


def measured(model: Any, made: Converted, windows: Windows, base: list[Tensor]) -> dict[str, Any]:
    """Perplexity in 16 bits, of the same weights in floats, and in integers; ratios with their standard errors over windows."""
    integers = IntegerModel(made.program, model.config)
    floats = made.in_floats()
    against_base, against_floats = Scorer(windows), Scorer(windows)
    for number, ids in enumerate(windows.ids.split(1)):
        logits = integers(ids).logits
        against_base.update(number, logits, base[number])
        against_floats.update(number, logits, run(floats, ids))
    one, two = against_base.quality(), against_floats.quality()
    return {
        "base": one.perplexity_base,
        "floats": two.perplexity_base,
        "integers": one.perplexity,
        "over_base": one.perplexity_ratio - 1,
        "over_base_stderr": one.perplexity_ratio_stderr,
        "over_floats": two.perplexity_ratio - 1,
        "over_floats_stderr": two.perplexity_ratio_stderr,
        "kld": one.kld_mean,
        "window_losses": one.window_losses.tolist(),
        "window_tokens": one.window_tokens.tolist(),
    }


def where(model: Any, windows: Windows, k: int, options: argparse.Namespace) -> None:
    """For each layer and place: how much perplexity rises where what it multiplies has k bits (the head 8), all else floats."""
    text = read_text(options.calibration)
    for rotate in options.rotate:
        how = FixedPoint(k, "token", strength(options.smooth[0]), rotate, options.tokens)
        made = convert(model, fixed_point_recipe(options.where_weights, how), text)
        blueprint = made.in_floats()
        exact = [run(blueprint, ids) for ids in windows.ids.split(1)]
        weights = f"weights of {options.where_weights} bits in floats"
        print(f"\nPercent of perplexity, {weights}, activations of {k} bits at one place; rotate {rotate}\n")
        print("| layer | q, k, v | o | gate, up | down | all four | head |\n| --- | --- | --- | --- | --- | --- | --- |")
        layers = [str(index) for index in range(len(blueprint.layers))]
        for name, some in (*((layer, [layer]) for layer in layers), ("all", layers)):
            cells = []
            for places in (*([place] for place in INPUTS), INPUTS):
                if options.whole_layers and name != "all" and places is not INPUTS:
                    cells.append("")
                    continue
                rise = rise_at(blueprint, windows, exact, k, some, places)
                about = {"model": options.model, "bits": k, "rotate": rotate, "layer": name, "places": list(places)}
                keep(options, {**about, "rise": rise.value - 1, "stderr": rise.stderr})
                cells.append(percent(rise))
            cells.append(percent(rise_at(blueprint, windows, exact, 8, [""], ["head"])) if name == "all" else "")
            print("| " + " | ".join([name, *cells]) + " |", flush=True)


def rise_at(
    blueprint: Blueprint, windows: Windows, exact: list[Tensor], k: int, layers: Sequence[str], places: Sequence[str]
) -> Estimate:
    """Perplexity where what these places of these layers multiply has k bits, over that of floats."""

    def see(place: str, values: Tensor) -> Tensor:
        layer, _, name = place.rpartition(".")
        return rounded(values, k) if layer in layers and name in places else values

    scorer = Scorer(windows)
    for number, ids in enumerate(windows.ids.split(1)):
        scorer.update(number, run(blueprint, ids, see), exact[number])
    quality = scorer.quality()
    return Estimate(quality.perplexity_ratio, quality.perplexity_ratio_stderr)


if __name__ == "__main__":
    main()
