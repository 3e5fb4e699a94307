"""Draw loss against total bits, a line for each k: quantized after training beside trained at k bits, into docs/images.

    kbit study family/qat.yaml --store qat.db
    python scripts/make_qat_images.py qat.db

Each line joins the sizes of a family that were trained longest; at each size stands the best format of its k. Colours are those
of the report. Needs selenium (kbit[dev]), Chromium and its driver.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from pathlib import Path

import numpy as np
from make_images import open_page, shoot

from kbit.study import read_table

ROOT = Path(__file__).resolve().parents[1]
WIDTH, HEIGHT = 1000, 520  # pixels of the picture
TITLES = ("Quantized after training", "Trained at its k bits")
BESIDE = {(0, "2"): (12, 10), (1, "1.58"): (-24, -9), (1, "2"): (-2, -16)}  # from a line's end to its name where lines are close
USUAL = (14, -9)  # pixels to the right, and up
LEAST_SHOWN = 0.5  # nats above the lowest loss: what lies higher is outside the frame
PAGE = """<!doctype html><meta charset="utf-8"><style>STYLE body { margin: 0 } #curve { width: WIDTHpx }</style>
<div id="curve"></div><script>PLOTLY</script><script>
const look = getComputedStyle(document.documentElement);
const text = JSON.stringify(FIGURE).replace(/var\\((--[a-z0-9-]+)\\)/g, (_, name) => look.getPropertyValue(name).trim());
const { data, layout } = JSON.parse(text);
Plotly.newPlot("curve", data, layout, { staticPlot: true }).then(() => { document.documentElement.dataset.drawn = "1"; });
</script>"""


def lines(store: Path, embeddings: str) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """For each title and k the (total bits, loss) of the best format of each size. A ternary weight has 1.58 bits."""
    table = read_table(store)
    found: dict[str, dict[str, dict[str, tuple[float, float]]]] = {title: {} for title in TITLES}
    longest = table["training_tokens"] >= np.nan_to_num(table["training_tokens"]).max()
    for row in np.flatnonzero((table["embeddings"] == embeddings) & (table["seed"] == 0) & longest):
        method, fmt = str(table["method"][row]), str(table["format"][row])
        k = "1.58" if "ternary" in fmt else str(table["k"][row])
        titles = TITLES if method == "none" else (TITLES[method.startswith("qat")],)
        here = (float(table["total_bits"][row]), float(table["loss"][row]))
        for title in titles:
            sizes = found[title].setdefault(k, {})
            model = str(table["model"][row])
            sizes[model] = min(sizes.get(model, here), here, key=lambda point: point[1])
    return {title: {k: sorted(sizes.values()) for k, sizes in by_k.items()} for title, by_k in found.items()}


def figure(found: dict[str, dict[str, list[tuple[float, float]]]]) -> dict:
    """Two panels with common axes."""
    points = [point for by_k in found.values() for line in by_k.values() for point in line]
    low, high = min(bits for bits, _ in points), max(bits for bits, _ in points)
    best = min(loss for _, loss in points)
    top = max(loss for line in (by_k["16"] for by_k in found.values()) for _, loss in line)
    axis = {
        "gridcolor": "var(--faint)",
        "linecolor": "var(--rule)",
        "zeroline": False,
        "tickfont": {"color": "var(--muted)", "size": 13},
    }
    x = axis | {"type": "log", "range": [np.log10(low / 1.15), np.log10(high * 1.35)], "showgrid": False, "showline": True}
    x |= {"tickvals": [1e6, 2e6, 5e6, 1e7, 2e7, 5e7], "ticktext": ["1M", "2M", "5M", "10M", "20M", "50M"]}
    y = axis | {"range": [best - 0.03, min(top + 0.12, best + LEAST_SHOWN + 0.2)], "tickformat": ".1f"}
    layout = {
        "width": WIDTH, "height": HEIGHT, "showlegend": False, "annotations": [],
        "paper_bgcolor": "var(--paper)", "plot_bgcolor": "rgba(0,0,0,0)", "font": {"color": "var(--ink)", "size": 14},
        "margin": {"l": 62, "r": 12, "t": 48, "b": 58},
        "yaxis": y | {"title": {"text": "nats per token", "font": {"color": "var(--muted)", "size": 14}}},
    }  # fmt: skip
    data = []
    for panel, (title, by_k) in enumerate(found.items()):
        suffix, span = ("", "2")[panel], ([0, 0.485], [0.515, 1])[panel]
        layout[f"xaxis{suffix}"] = x | {
            "domain": span,
            "title": {"text": "total bits of the model", "font": {"color": "var(--muted)", "size": 14}},
        }
        if panel:
            layout["yaxis2"] = y | {"anchor": "x2", "matches": "y", "showticklabels": False}
        head = {"text": f"<b>{title}</b>", "x": span[0], "y": 1.09, "xref": "paper", "yref": "paper", "showarrow": False}
        layout["annotations"].append(head | {"xanchor": "left", "font": {"size": 16}})
        for k, line in sorted(by_k.items(), key=lambda entry: float(entry[0])):
            bits, losses = zip(*line, strict=True)
            name = re.sub(r"\..*", "", k)
            colour, dash = f"var(--k{name})", {"16": "dot", "1.58": "dash"}.get(k, "solid")
            trace = {"x": bits, "y": losses, "mode": "lines+markers", "xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}
            data.append(trace | {"line": {"color": colour, "width": 2.2, "dash": dash}, "marker": {"color": colour, "size": 6}})
            shown = [(b, loss) for b, loss in line if loss < y["range"][1]]
            if shown:
                end = {
                    "x": np.log10(shown[-1][0]),
                    "y": shown[-1][1],
                    "xref": f"x{suffix}",
                    "yref": f"y{suffix}",
                    "text": f"<b>{k}</b>",
                }
                right, up = BESIDE.get((panel, k), USUAL)
                layout["annotations"].append(
                    end | {"showarrow": False, "xshift": right, "yshift": up, "font": {"color": colour, "size": 13}}
                )
    return {"data": data, "layout": layout}


def main() -> None:
    """Draw in light and dark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path, help="the store of the study (kbit study)")
    parser.add_argument("--embeddings", default="int8-row", help="format of the embeddings of the runs that are drawn")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images", help="folder of the pictures")
    arguments = parser.parse_args()
    from plotly.offline import get_plotlyjs

    style = (ROOT / "kbit" / "report" / "style.css").read_text(encoding="utf-8")
    parts = {"STYLE": style, "PLOTLY": get_plotlyjs(), "WIDTH": str(WIDTH)}
    parts["FIGURE"] = json.dumps(figure(lines(arguments.store, arguments.embeddings)))
    page = Path(tempfile.mkdtemp()) / "figure.html"
    page.write_text(re.sub("|".join(parts), lambda found: parts[found[0]], PAGE), encoding="utf-8")
    for theme in ("light", "dark"):
        browser = open_page(page, WIDTH, dark=theme == "dark")
        shoot(browser, arguments.out / f"qat{'-dark' * (theme == 'dark')}.png", 0, 0, WIDTH, HEIGHT)
        browser.quit()


if __name__ == "__main__":
    main()
