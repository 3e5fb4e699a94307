"""One matrix by its recipe: encoded, packed, or as the floats that a decoder will see."""

from __future__ import annotations

import torch
from torch import Tensor

from kbit.errors import ModelError
from kbit.formats import Format
from kbit.methods import choose
from kbit.models import check_finite
from kbit.packed import packed_tensor
from kbit.packed.packed_tensor import PackedTensor, keep

LARGEST_F16 = torch.finfo(torch.float16).max


def pack(w: Tensor, fmt: Format | str, *, method: str = "rtn", seed: int = 0) -> PackedTensor:
    """A weight w (n_out, n_in) as it is stored in `fmt`, its codes chosen by `method`.

    Raises ModelError where a weight is not finite, FormatError where w is no matrix or format and method do not exist.
    """
    fmt = Format.parse(fmt) if isinstance(fmt, str) else fmt
    return packed_weight(w, fmt, method, where="pack", seed=seed)


def packed_weight(
    w: Tensor, fmt: Format, method: str, *, where: str, seed: int = 0, kept_columns: Tensor | None = None
) -> PackedTensor:
    """w (n_out, n_in) as it is stored. Raises ModelError, with `where`, for weights that are not finite."""
    check_finite(w, where)
    if fmt.is_float:
        return keep(rounded(w, fmt, where), fmt)
    return packed_tensor.pack(choose(method, w, fmt, seed=seed, kept_columns=kept_columns))


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
