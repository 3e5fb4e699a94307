"""At the same bytes: a larger model in fewer bits, or a smaller one in more? Counts total bits before anything is measured."""

from pathlib import Path

import kbit

FAMILY = Path(__file__).parents[1] / "family"

for name in ("prose-94k", "prose-276k"):
    model = kbit.load(FAMILY / name)
    for fmt in ("bf16", "int8-b64", "int4-b64", "int3-b64"):
        count = kbit.total_bits(model, kbit.Recipe(weights=fmt))
        print(f"{name:<12} {fmt:<9} {count.total_bits / 8 / 1000:8.1f} kB, {count.bits_per_weight:5.2f} bits per weight")
