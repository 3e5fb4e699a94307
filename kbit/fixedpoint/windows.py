"""Windows that slide over an image: what convolution and pooling have in common."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kbit.errors import FixedPointError

Pair = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """Height and width of each: kernel, stride, padding on either side, dilation, as in torch.nn.functional.conv2d."""

    kernel: Pair
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)

    def starts(self, size: int, axis: int) -> int:
        """How many windows fit along an axis of `size`."""
        reach = self.dilation[axis] * (self.kernel[axis] - 1) + 1
        count = (size + 2 * self.padding[axis] - reach) // self.stride[axis] + 1
        if count < 1:
            raise FixedPointError(
                f"a window of {reach} does not fit {size} values with {self.padding[axis]} around. Give a larger image."
            )
        return count

    def patches(self, x: Tensor, fill: int) -> Tensor:
        """What each window sees: (n, channels, rows, columns, *kernel) of x (n, channels, height, width). fill: the padding."""
        rows, columns = (self._index(x.shape[2 + axis], axis, x.device) for axis in (0, 1))
        above, before = self.padding
        height, width = x.shape[2:]
        padded = x.new_full((*x.shape[:2], height + 2 * above, width + 2 * before), fill)  # functional.pad fills with a float
        padded[:, :, above : above + height, before : before + width] = x
        return padded[:, :, rows[:, None, :, None], columns[None, :, None, :]]

    def _index(self, size: int, axis: int, device: torch.device) -> Tensor:
        """Where each place of each window lies: int64 (windows, kernel)."""
        start = torch.arange(self.starts(size, axis), device=device) * self.stride[axis]
        return start[:, None] + torch.arange(self.kernel[axis], device=device) * self.dilation[axis]
