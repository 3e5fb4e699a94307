"""The worst errors of the integer operators against float64, beside their stated bounds: a table in docs/fixedpoint.md.

Random inputs and extremes (ends of the types, rows of zeros, of equal numbers, with one far ahead), the same on every run. Errors
are in units of the result's integers. With --check nothing is written, and the exit code is 1 where the page is out of date.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from errors_of import networks, transformers
from errors_of.inputs import GENERATOR, Found

PAGE = Path(__file__).resolve().parents[1] / "docs" / "fixedpoint.md"
OPERATORS = transformers.OPERATORS | networks.OPERATORS


@dataclass(frozen=True)
class Error:
    """What one operator did: how many results, its worst error, the bound there, and the largest share of a bound."""

    results: int
    worst: float
    bound: float
    share: float


def measure(find: Callable[[], Found]) -> Error:
    """The errors of everything that `find` tries."""
    GENERATOR.manual_seed(0)
    results, worst, at, share = 0, 0.0, 0.0, 0.0
    for y, real, bound in find():
        error = (y.double() - real.double()).abs().flatten()
        bounds = torch.as_tensor(bound, dtype=torch.float64).expand_as(y).flatten()
        results += len(error)
        i = int(error.argmax())
        if at == 0 or float(error[i]) > worst:
            worst, at = float(error[i]), float(bounds[i])
        share = max(share, float((error / bounds.clamp(min=1e-300)).max()))
    return Error(results, worst, at, share)


def table() -> str:
    """The table of docs/fixedpoint.md."""
    lines = [
        "| operator | bits of the result | bound | results | worst error | bound there | nearest to a bound |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for name, (width, bound, find) in OPERATORS.items():
        e = measure(find)
        share = "-" if e.worst == 0 else f"{e.share:.0%}"
        lines.append(f"| `{name}` | {width} | {bound} | {e.results} | {e.worst:.3g} | {e.bound:.3g} | {share} |")
    return "\n".join(lines)


def page() -> str:
    """docs/fixedpoint.md with the table of today."""
    text = PAGE.read_text(encoding="utf-8")
    return re.sub(
        r"(<!-- errors: begin -->\n).*?(<!-- errors: end -->)", lambda m: f"{m[1]}{table()}\n\n{m[2]}", text, flags=re.DOTALL
    )


def main() -> None:
    """Write the table, or check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say whether the page is out of date")
    check = parser.parse_args().check
    wanted = page()
    stale = wanted != PAGE.read_text(encoding="utf-8")
    if stale and not check:
        PAGE.write_text(wanted, encoding="utf-8")
    if stale:
        print("docs/fixedpoint.md", "is out of date" if check else "written")
    sys.exit(1 if check and stale else 0)


if __name__ == "__main__":
    main()
