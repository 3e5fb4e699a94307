"""Try levels of one's own on the weights of a layer, beside int4 and nf4: bits per weight, and relative error."""

from pathlib import Path

import torch

import kbit

FAMILY = Path(__file__).parents[1] / "family"

# Sixteen levels, closer together near zero: even steps to the power 1.4, signs kept.
steps = torch.linspace(-1, 1, 16)
levels = steps.sign() * steps.abs() ** 1.4

w = kbit.load(FAMILY / "prose-94k").model.layers[0].mlp.up_proj.weight.detach()
for text in ("int4-b64", "nf4-b64", "table4:curved-b64"):
    fmt = kbit.Format.parse(text, tables={"curved": levels})
    packed = kbit.pack(w, fmt)
    error = (w - packed.dequantize()).norm() / w.norm()
    print(f"{text:<18} {8 * packed.nbytes / w.numel():.2f} bits per weight, relative error {error:.2%}")
