"""The levels of every fixed codebook up to 4 bits, as the Markdown that docs/formats.md holds."""

from __future__ import annotations

from kbit.formats.format import Format

SHOWN = {  # what stands in the documents, by heading: codebooks at the k's that they exist for, up to 4
    "int": ["int1", "int2", "int3", "int4"],
    "int with -asym or -min": ["int1-asym", "int2-asym", "int3-asym", "int4-asym"],
    "nf": ["nf1", "nf2", "nf3", "nf4"],
    "fp, with a float16 scale": ["fp1", "fp2e1m0", "fp3e2m0", "fp3e1m1", "fp4e2m1", "fp4e3m0", "fp4e1m2"],
    "fp, with -e8m0 or -e4m3": [
        "fp1-e8m0",
        "fp2e1m0-e8m0",
        "fp3e2m0-e8m0",
        "fp3e1m1-e8m0",
        "fp4e2m1-e8m0",
        "fp4e3m0-e8m0",
        "fp4e1m2-e8m0",
    ],
    "bnbfp": ["bnbfp4"],
    "log": ["log1", "log2", "log3", "log4"],
    "dyn": ["dyn1", "dyn2", "dyn3", "dyn4"],
    "ternary and binary": ["ternary", "binary"],
}


def levels_tables() -> str:
    """A Markdown table for each codebook: heads of formats, and levels to 7 significant digits in the order of their codes."""
    sections = []
    for heading, names in SHOWN.items():
        rows = []
        for name in names:
            head, *option = name.split("-")
            fmt = Format.parse("-".join([head, "b64", *option]))
            rows.append(f"| `{head}` | {', '.join(f'{level:.7g}' for level in fmt.levels().tolist())} |")
        sections.append("\n".join([f"**{heading}**", "", "| | levels of codes 0, 1, 2, ... |", "| --- | --- |", *rows]))
    return "\n\n".join(sections) + "\n"
