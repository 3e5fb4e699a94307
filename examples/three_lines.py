"""Quantize a model in memory and see what it cost: the three lines, on a bundled model and a piece of a book."""

from pathlib import Path

import kbit

FAMILY = Path(__file__).parents[1] / "family"

text = (FAMILY / "texts" / "books.txt").read_text(encoding="utf-8")[:20_000]
model = kbit.load(FAMILY / "prose-94k")
small = kbit.quantize(model, "nf4-b64")
print(kbit.evaluate(small, text, reference=model, protocol=kbit.Protocol(window=256)))
