"""How scales are stored: float16, 8 bits with a second level (s8, i8), powers of two (e8m0), 8-bit floats (e4m3)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from kbit.formats.storage import SECOND_LEVELS

FLOAT16_MAX = 65504.0
E4M3_MAX = 448.0
E8M0_BIAS = 127
FLOAT32_TINY = 2.0**-126
FLOAT32_MAX = torch.finfo(torch.float32).max
SECOND_LEVEL_STEPS = 255
POWER_TOLERANCE = 2.0**-22  # a product and a quotient are off by at most 2^-23


def to_float16(x: Tensor) -> Tensor:
    """x as float16 stores it, in float32: rounded to nearest even; beyond +-65504 it takes the end, never infinity."""
    return x.clamp(-FLOAT16_MAX, FLOAT16_MAX).half().float()


def stored_scale(
    scale: Tensor, storage: str, tensor_scale: Tensor | None = None, *, largest: float = 1.0, ocp: bool = False
) -> Tensor:
    """`scale` as it comes back from storage, float32 (n_out, n_blocks), never infinite; storing that again changes nothing.

    f16: nearest. s8: code * second / 255, where second, a float16, is the largest scale of 16 blocks, whose code is 255. i8: the
    same with one second for the row, so that a row is one sum of integers, times one number.
    e4m3: nearest e4m3 times `tensor_scale`. e8m0: the least power of two that is not below, so that nothing clips; with `ocp`,
    where levels are OCP element values up to `largest`, the rule of OCP MX v1.0, section 6.3, which may clip a little.
    """
    if storage == "f16":
        return to_float16(scale)
    if storage == "e8m0":
        return power_of_two(scale, largest, ocp=ocp)
    return join_scale(split_scale(scale, storage, tensor_scale), storage)


def power_of_two(scale: Tensor, largest: float, *, ocp: bool) -> Tensor:
    """2^ceil(log2(scale)); with `ocp` 2^(floor(log2(max |x|)) - floor(log2(largest))), where max |x| = scale * largest.

    At least 2^-127, also for a scale of 0; at most 2^127, and such that the largest level times it is a finite float32.
    A scale that is off a power of two by rounding alone counts as that power.
    """
    top = int(torch.frexp(torch.tensor(largest))[1]) - 1  # floor(log2(largest))
    if ocp:
        fraction, exponent = torch.frexp(scale.double() * (largest * (1 + POWER_TOLERANCE)))
        exponent = exponent - 1 - top
    else:
        fraction, exponent = torch.frexp(scale.double() * (1 - POWER_TOLERANCE))
    exponent = torch.where(fraction > 0, exponent, -E8M0_BIAS).clamp(-E8M0_BIAS, E8M0_BIAS - max(0, top))
    return torch.ldexp(torch.ones_like(scale), exponent)


def split_scale(scale: Tensor, storage: str, tensor_scale: Tensor | None = None) -> dict[str, Tensor]:
    """The stored tensors of a scale (n_out, n_blocks), by suffix: float16 for f16, uint8 codes for the others, the second level
    of s8 and i8.

    A scale that came from storage is split into the very numbers that it came from.
    """
    if storage == "f16":
        return {"_scale": scale.half()}
    if storage == "e8m0":
        return {"_scale": (torch.frexp(scale)[1] - 1 + E8M0_BIAS).to(torch.uint8)}
    if storage == "e4m3":
        assert tensor_scale is not None
        codes = (scale / tensor_scale).clamp(max=E4M3_MAX).to(torch.float8_e4m3fn).view(torch.uint8)
        return {"_scale": codes, "_tensor_scale": tensor_scale.reshape(1)}
    n_blocks = scale.shape[1]
    together = SECOND_LEVELS[storage] or n_blocks
    groups = pad(scale, (0, -n_blocks % together)).unflatten(1, (-1, together))
    largest = groups.amax(-1, keepdim=True)
    second = to_float16(largest)
    codes = (groups / torch.where(second > 0, second, torch.inf) * SECOND_LEVEL_STEPS).round().clamp(max=SECOND_LEVEL_STEPS)
    codes = torch.where((groups == largest) & (second > 0), float(SECOND_LEVEL_STEPS), codes)
    return {"_scale": codes.flatten(1)[:, :n_blocks].to(torch.uint8), "_second_scale": second.squeeze(-1).half()}


def join_scale(parts: dict[str, Tensor], storage: str) -> Tensor:
    """The float32 scale of its stored tensors: what `split_scale` gave, or what was read."""
    codes = parts["_scale"]
    if storage == "f16":
        return codes.float()
    if storage == "e8m0":
        return torch.ldexp(torch.ones(codes.shape), codes.int() - E8M0_BIAS)
    if storage == "e4m3":
        return codes.view(torch.float8_e4m3fn).float() * parts["_tensor_scale"]
    together = SECOND_LEVELS[storage] or codes.shape[1]
    second = parts["_second_scale"].float().repeat_interleave(together, 1)[:, : codes.shape[1]]
    return codes.float() * second / SECOND_LEVEL_STEPS


def tensor_scale_of(largest_scale: Tensor, largest_level: float) -> Tensor:
    """The float32 of a tensor under e4m3: its largest scale has the largest e4m3 value, 448, and no value leaves float32."""
    return (largest_scale / E4M3_MAX).clamp(FLOAT32_TINY, FLOAT32_MAX * (1 - 2.0**-20) / E4M3_MAX / max(1.0, largest_level))
