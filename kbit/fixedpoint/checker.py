"""The proof by running: a mode in which any operation on a floating-point tensor is an error."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kbit.errors import FixedPointError


class IntegerOnly(TorchDispatchMode):
    """Raises FixedPointError on every PyTorch operation that takes or makes a floating-point or complex number.

        with IntegerOnly():
            logits = model(ids)

    Tensors and plain numbers both count, so `x > 0.5` is caught though its result is bool. Every operation of PyTorch passes
    here, those of autograd and custom ones included; native kernels called around PyTorch do not, and are disassembled instead.
    operations: how many have passed, so that a check of nothing is seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func: Callable, types: object, args: tuple = (), kwargs: dict[str, Any] | None = None) -> object:
        """Look at what goes in, run the operation, look at what comes out."""
        kwargs = kwargs or {}
        for value in flat([args, kwargs]):
            refuse(func, "takes", value)
        result = func(*args, **kwargs)
        for value in flat(result):
            refuse(func, "makes", value)
        self.operations += 1
        return result


def flat(value: object) -> Iterator[object]:
    """What lists, tuples and dictionaries hold."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from flat(item)
    else:
        yield value


def refuse(func: object, verb: str, value: object) -> None:
    """FixedPointError that names the operation and where it was called, if `value` is no integer."""
    if isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex()):
        what = f"a tensor of {str(value.dtype).removeprefix('torch.')}"
    elif isinstance(value, float | complex):
        what = f"the number {value}"
    else:
        return
    raise FixedPointError(f"{func} {verb} {what} in {caller()}, where only integers may be.")


def caller() -> str:
    """File, line and function of the innermost call that is not PyTorch's or ours."""
    for frame in reversed(traceback.extract_stack()):
        path = frame.filename.replace("\\", "/")
        if "/torch/" not in path and path != __file__.replace("\\", "/"):
            return f"{path.rsplit('/', 1)[-1]}:{frame.lineno} ({frame.name})"
    return "unknown code"
