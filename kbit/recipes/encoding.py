"""One matrix by its recipe: encoded, packed, or as the floats that a decoder will see."""

from __future__ import annotations

import torch
from torch import Tensor

from kbit.errors import ModelError
from kbit.formats import Format
from kbit.methods import choose
from kbit.models import check_finite
from kbit.packed.packed_tensor import PackedTensor, keep, pack

LARGEST_F16 = torch.finfo(torch.float16).max


def packed_weight(
    w: Tensor, fmt: Format, method: str, *, where: str, seed: int = 0, kept_columns: Tensor | None = None
) -> PackedTensor:
    """w (n_out, n_in) as it is stored. Raises ModelError, with `where`, for weights that are not finite."""
    check_finite(w, where)
    if fmt.is_float:
        return keep(rounded(w, fmt, where), fmt)
    return pack(choose(method, w, fmt, seed=seed, kept_columns=kept_columns))


def decoded_weight(
    w: Tensor, fmt: Format, method: str, *, where: str, seed: int = 0, kept_columns: Tensor | None = None
) -> Tensor:
    """What a decoder makes of w (n_out, n_in): float32, the same bits as `packed_weight(...).dequantize()`."""
    check_finite(w, where)
    if fmt.is_float:
        return rounded(w, fmt, where).float()
    return choose(method, w, fmt, seed=seed, kept_columns=kept_columns).dequantize()


def rounded(w: Tensor, fmt: Format, where: str) -> Tensor:
    """w in the float format fmt. Raises ModelError where f16 cannot hold a weight."""
    if fmt.dtype == torch.float16 and w.numel() and float(w.abs().max()) > LARGEST_F16:
        raise ModelError(f"{where}: a weight of {float(w.abs().max()):g} is beyond float16 ({LARGEST_F16:g}). Keep it in bf16.")
    return w.to(fmt.dtype)
