"""A trained network of one layer after another (torch.nn.Sequential) in integers: calibrated once, then run without a float."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kbit.errors import FixedPointError
from kbit.fixedpoint import activations
from kbit.fixedpoint.batch_norm import BatchNormWeight, batch_norm, fold_batch_norm
from kbit.fixedpoint.convolution import StaticWeight, conv1d, conv2d, dense
from kbit.fixedpoint.fixed import Fixed, FixedType
from kbit.fixedpoint.pooling import average_pool2d, max_pool2d
from kbit.fixedpoint.windows import Pair, Window

Step = Callable[[Fixed], Fixed]
Make = Callable[["Block", FixedType, FixedType], Step]
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
CORRECTIONS = 2  # of a bias: digits at 2 bits are 65% right with none, 93% with one, 96% with two


@dataclass(frozen=True)
class IntegerNetwork:
    """Steps from a tensor of type `input` to the result, each with the name of the layer that it came from."""

    input: FixedType
    steps: tuple[tuple[str, Step], ...]

    def __call__(self, x: Fixed) -> Fixed:
        """The result, of 16 bits where the last layer has weights."""
        for _, step in self.steps:
            x = step(x)
        return x


@torch.no_grad()
def convert(model: nn.Sequential, samples: Tensor, k: int, *, range_name: str | None = "mse") -> IntegerNetwork:
    """The network with weights and activations of k bits, its ranges calibrated on `samples` (n, ...).

    BatchNorm is folded into a convolution or linear layer before it, and a ReLU after that is its lower end: the range starts at
    0, where the result saturates (Jacob et al. 2018, section 2.4). Biases take up the mean error that rounding makes in a channel
    (Nagel et al. 2019, section 4.2), found twice on what the integer layers before give. range_name: a word of kbit.formats'
    RANGES, of weights and activations alike.
    Raises FixedPointError, naming it, for a layer without a form in integers, and for a model that is not in evaluation mode.
    """
    if model.training:
        raise FixedPointError("the model is in training mode, where BatchNorm changes with the batch. Call model.eval() first.")
    fit = partial(FixedType.fit, affine=True, range_name=range_name)
    real, x = samples.clone(), fit(samples, k).quantize(samples)
    start, steps = x.type, []
    last = (blocks := blocks_of(model))[-1]
    for block in blocks:
        real = block.real(real)
        if isinstance(block.layer, WEIGHTED):
            to = fit(real, k if block is not last else 16)
            step = block.weighted(real, x, k, to, range_name)
        else:
            takes_type, make = LAYERS[type(block.layer)]
            step = make(block, x.type, fit(real, k) if takes_type else x.type)
        x = step(x)
        steps.append((block.name, step))
    return IntegerNetwork(start, tuple(steps))


@dataclass
class Block:
    """A layer, and what becomes one with it: the BatchNorm and the ReLU after a layer with weights."""

    name: str
    layer: Any
    norm: Any = None
    relu: Any = None

    def real(self, x: Tensor) -> Tensor:
        """What the block gives in floating point."""
        for layer in (self.layer, self.norm, self.relu):
            x = x if layer is None else layer(x)
        return x

    def weighted(self, real: Tensor, x: Fixed, k: int, to: FixedType, range_name: str | None) -> Step:
        """A linear layer or convolution as a step, its bias corrected so that on x its channels have the means of `real`."""
        w, bias = self.layer.weight, self.layer.bias
        channels = -1 if isinstance(self.layer, nn.Linear) else 1
        if self.norm is not None:
            self.refuse(channels == -1 and real.dim() > 2, "BatchNorm over other than its features")
            w, bias = fold_batch_norm(w, bias, self.norm)
        for turn in range(CORRECTIONS + 1):
            step = self.arranged(StaticWeight.of(w, bias, k, x.type, to, range_name=range_name, name=self.name))
            if turn < CORRECTIONS:
                missing = (real - step(x).value).movedim(channels, 0).flatten(1).mean(1)
                bias = missing if bias is None else bias + missing
        return step

    def arranged(self, weight: StaticWeight) -> Step:
        """The step of some weights, with the layer's stride, padding, dilation and groups."""
        layer = self.layer
        if isinstance(layer, nn.Linear):
            return partial(dense, weight=weight)
        self.refuse(isinstance(layer.padding, str) or layer.padding_mode != "zeros", "padding by a word or by other than zeros")
        if isinstance(layer, nn.Conv1d):
            numbers = (layer.kernel_size[0], layer.stride[0], int(layer.padding[0]), layer.dilation[0], layer.groups)
            return lambda x: conv1d(x, weight, *numbers)
        window = Window(*map(pair, (layer.kernel_size, layer.stride, layer.padding, layer.dilation)))
        return partial(conv2d, weight=weight, window=window, groups=layer.groups)

    def refuse(self, wrong: bool, what: str) -> None:
        """FixedPointError where the layer asks for something that has no form in integers."""
        if wrong:
            raise FixedPointError(f"{self.name}: {type(self.layer).__name__} with {what} has no form in integers.")


def blocks_of(model: nn.Sequential) -> list[Block]:
    """The layers in the order in which they run, joined to blocks."""
    blocks: list[Block] = []
    for name, layer in flat(model):
        before = blocks[-1] if blocks and isinstance(blocks[-1].layer, WEIGHTED) and blocks[-1].relu is None else None
        if before and before.norm is None and isinstance(layer, NORMS):
            before.norm = layer
        elif before and isinstance(layer, nn.ReLU):
            before.relu = layer
        elif isinstance(layer, WEIGHTED) or type(layer) in LAYERS:
            blocks.append(Block(name, layer))
        elif not isinstance(layer, nn.Dropout | nn.Identity):
            raise FixedPointError(
                f"{name}: {type(layer).__name__} has no form in integers. Layers that have one: "
                f"{', '.join(known.__name__ for known in (*WEIGHTED, *LAYERS))}."
            )
    if not blocks:
        raise FixedPointError("a network without a layer has no form in integers. Give one that does something.")
    return blocks


def flat(model: nn.Sequential, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Layers of nested Sequentials in the order in which they run, with their full names."""
    for name, layer in model.named_children():
        if isinstance(layer, nn.Sequential):
            yield from flat(layer, f"{prefix}{name}.")
        else:
            yield prefix + name, layer


def max_pool(block: Block, _: FixedType, __: FixedType) -> Step:
    """torch.nn.MaxPool2d."""
    layer = block.layer
    block.refuse(layer.ceil_mode or layer.return_indices, "ceil_mode or return_indices")
    return partial(max_pool2d, window=Window(*map(pair, (layer.kernel_size, layer.stride, layer.padding, layer.dilation))))


def average_pool(block: Block, _: FixedType, __: FixedType) -> Step:
    """torch.nn.AvgPool2d."""
    layer = block.layer
    block.refuse(layer.ceil_mode or layer.divisor_override is not None, "ceil_mode or divisor_override")
    window = Window(*map(pair, (layer.kernel_size, layer.stride, layer.padding)))
    return partial(average_pool2d, window=window, count_padding=layer.count_include_pad)


def flatten(block: Block, _: FixedType, __: FixedType) -> Step:
    """torch.nn.Flatten."""
    start, end = block.layer.start_dim, block.layer.end_dim
    return lambda x: Fixed(x.q.flatten(start, end), x.type)


def rectify(_: Block, __: FixedType, ___: FixedType) -> Step:
    """torch.nn.ReLU after a layer without weights."""
    return activations.relu


def normalise(block: Block, x: FixedType, y: FixedType) -> Step:
    """A BatchNorm that follows no layer with weights."""
    return partial(batch_norm, weight=BatchNormWeight.of(block.layer, x, y, block.name))


def gaussian(block: Block, _: FixedType, y: FixedType) -> Step:
    """torch.nn.GELU."""
    return partial(activations.gelu, to=y, name="gelu_tanh" if block.layer.approximate == "tanh" else "gelu")


def activation(operator: Callable[[Fixed, FixedType], Fixed]) -> Make:
    """An activation with a scale of its own."""
    return lambda _, __, y: lambda x: operator(x, y)


# Layer -> whether its result gets a type of its own, and what makes its step from (block, type of x, type of y).
LAYERS: dict[type[nn.Module], tuple[bool, Make]] = {
    nn.MaxPool2d: (False, max_pool),
    nn.AvgPool2d: (False, average_pool),
    nn.Flatten: (False, flatten),
    nn.ReLU: (False, rectify),
    nn.BatchNorm1d: (True, normalise),
    nn.BatchNorm2d: (True, normalise),
    nn.Sigmoid: (True, activation(activations.sigmoid)),
    nn.Tanh: (True, activation(activations.tanh)),
    nn.SiLU: (True, activation(activations.silu)),
    nn.GELU: (True, gaussian),
}


def pair(value: int | tuple[int, ...]) -> Pair:
    """(height, width) of what PyTorch gives as one number or two."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])
