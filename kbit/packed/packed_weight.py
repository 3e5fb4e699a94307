"""A packed weight in the place of a parameter: torch sees a float matrix of its shape, memory holds the bits alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_map_only

from kbit.errors import FormatError
from kbit.formats.format import Format
from kbit.packed.packed_tensor import PackedTensor

aten = torch.ops.aten


class PackedWeight(Tensor):
    """The weight `packed` as a tensor (n_out, n_in), or (n_in, n_out) where `transposed`; floats of `dtype` when it is read.

    linear and embedding work on the bits. Any other operation gets the dequantized floats, made for it and freed after it: right,
    and slow. Nothing writes to it: that raises FormatError. Casting changes what dtype it reads as, and no bit.
    """

    packed: PackedTensor
    transposed: bool

    @staticmethod
    def __new__(cls, packed: PackedTensor, dtype: torch.dtype = torch.float32, *, transposed: bool = False) -> PackedWeight:
        shape = packed.shape[::-1] if transposed else packed.shape
        weight: PackedWeight = Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=packed.device)
        weight.packed, weight.transposed = packed, transposed
        weight._is_hf_initialized = True  # type: ignore[attr-defined]  # transformers' initialisers leave it alone
        return weight

    def floats(self) -> Tensor:
        """What it stands for, a plain tensor."""
        w = self.packed.dequantize().to(self.dtype)
        return w.T if self.transposed else w

    def __repr__(self) -> str:  # type: ignore[override]
        return f"PackedWeight({self.packed.fmt}, shape={tuple(self.shape)}, dtype={self.dtype})"

    def __deepcopy__(self, memo: dict) -> PackedWeight:
        copy: PackedWeight = memo.setdefault(id(self), _again(*self.__reduce_ex__(2)[1]))
        return copy

    def __reduce_ex__(self, protocol: Any) -> tuple:
        return _again, (self.packed, self.dtype, self.transposed, isinstance(self, nn.Parameter))

    @classmethod
    def __torch_function__(cls, func: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """linear and embedding as torch.nn's modules call them; all else by way of __torch_dispatch__."""
        if (run := FUNCTIONS.get(func)) is not None and (y := run(*args, **(kwargs or {}))) is not None:
            return y
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        """Copies and casts stay packed; what only reads gets floats."""
        kwargs = kwargs or {}
        if func in COPIES:
            weight, device, dtype = args[0], kwargs.get("device"), kwargs.get("dtype")
            packed = weight.packed if device is None else weight.packed.to(device)
            return PackedWeight(packed, dtype or weight.dtype, transposed=weight.transposed)
        if func._schema.is_mutable:
            raise FormatError(f"{func} writes to a packed weight, which holds no floats. Load the model with packed=False.")
        args, kwargs = tree_map_only(PackedWeight, PackedWeight.floats, (args, kwargs))
        return func(*args, **kwargs)

    def __tensor_flatten__(self) -> tuple[list[str], tuple]:
        """The stored parts by name, as torch's tracing wants to see them."""
        parts = self.packed.parts()
        for suffix, part in parts.items():
            vars(self)[f"part{suffix}"] = part
        return [f"part{suffix}" for suffix in parts], (self.packed.format_string, self.packed.shape, self.dtype, self.transposed)

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, Tensor], context: tuple, outer_size: Any, outer_stride: Any) -> PackedWeight:
        fmt, shape, dtype, transposed = context
        parts = {name.removeprefix("part"): part for name, part in inner.items()}
        return PackedWeight(PackedTensor(Format.parse(fmt), shape, parts), dtype, transposed=transposed)


def look_up(packed: PackedTensor, ids: Tensor) -> Tensor:
    """Rows `ids` (...) of a packed weight, by the operator kbit::rows: float32 (..., n_in)."""
    y: Tensor = torch.ops.kbit.rows(ids, packed.stored, packed.format_string, *packed.shape)
    return y


def _again(packed: PackedTensor, dtype: torch.dtype, transposed: bool, is_parameter: bool) -> PackedWeight:
    weight = PackedWeight(packed, dtype, transposed=transposed)
    if is_parameter:
        weight._is_param = True  # what makes a subclass of Tensor an nn.Parameter
    return weight


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    if not isinstance(weight, PackedWeight) or weight.transposed or isinstance(x, PackedWeight):
        return None
    y = weight.packed.matmul(x)
    return y if bias is None else y + bias


def _embedding(ids: Tensor, weight: Tensor, *options: Any, max_norm: float | None = None, **more: Any) -> Tensor | None:
    if not isinstance(weight, PackedWeight) or weight.transposed or max_norm is not None or any(options[1:2]):
        return None
    return look_up(weight.packed, ids).to(weight.dtype)


FUNCTIONS: dict[Callable, Callable[..., Tensor | None]] = {functional.linear: _linear, functional.embedding: _embedding}
COPIES = {aten.detach.default, aten.alias.default, aten.clone.default, aten._to_copy.default}
