"""A blueprint run in floating point: what calibration watches, and what the integers are held against, place by place.

A place is where values lie between two operators: `3.attention` (what q, k and v of layer 3 multiply), `3.q`, `3.k`, `3.v`,
`3.queries`, `3.keys`, `3.values` (the heads that attention takes), `3.mixed` (what o multiplies), `3.mlp`, `3.gate`, `3.up`,
`3.inner` (what down multiplies), `residual`, `head`, `logits`. Before a Hadamard transform the values that are multiplied are
those of `3.attention_norm`, `3.mlp_norm`, `3.product`, `norm`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from kbit.models.integer_blueprint import Attention, Blueprint, Layer, Linear, Norm

See = Callable[[str, Tensor], Tensor]  # a place and its values: those to go on with

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_quick": lambda x: x * torch.sigmoid(1.702 * x),
}
INPUTS = ("attention", "mixed", "mlp", "inner")  # the places of a layer whose values are multiplied by matrices


def as_it_is(place: str, values: Tensor) -> Tensor:
    """Watches nothing."""
    return values


@torch.inference_mode()
def run(blueprint: Blueprint, ids: Tensor, see: See = as_it_is) -> Tensor:
    """Logits (batch, n, vocabulary) of `ids` (batch, n), float32; `see` is shown the values of each place, and may change them.

    A copy of the blueprint in float64 runs in float64.
    """
    x = turned(blueprint.embedding.weight[ids], blueprint.turned_back)
    if blueprint.table is not None:
        x = x + blueprint.table[: ids.shape[1]]
    x = see("residual", x)
    for index, layer in enumerate(blueprint.layers):

        def at(place: str, values: Tensor, index: int = index) -> Tensor:
            return see(f"{index}.{place}", values)

        def taken(place: str, values: Tensor, index: int = index) -> Tensor:
            return see(f"{index}.{place}", turned(values, blueprint.rotated.get(f"{index}.{place}", 0)))

        attended = attend(blueprint, layer.attention, normalised(x, layer.attention_norm), at, taken)
        if layer.parallel:
            x = x + attended + inner(layer, normalised(x, layer.mlp_norm), at, taken)
        else:
            x = see("residual", x + attended)
            x = x + inner(layer, normalised(x, layer.mlp_norm), at, taken)
        x = see("residual", x)
    x = turned(see("norm", normalised(x, blueprint.norm)), blueprint.rotated.get("head", 0))
    return see("logits", multiplied(see("head", x), blueprint.head))


def normalised(x: Tensor, norm: Norm) -> Tensor:
    """RMSNorm or LayerNorm of the last axis."""
    if norm.centred:
        return functional.layer_norm(x, (x.shape[-1],), norm.weight, norm.bias, norm.epsilon)
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.epsilon) * norm.weight


def multiplied(x: Tensor, linear: Linear) -> Tensor:
    """x times the matrix, and its bias."""
    return functional.linear(x, linear.weight, linear.bias)


def attend(blueprint: Blueprint, attention: Attention, x: Tensor, at: See, taken: See) -> Tensor:
    """What attention adds to the residual stream. taken: `at`, after the transform of the place where it has one."""
    x = taken("attention", at("attention_norm", x))
    batch, n, _ = x.shape
    group = blueprint.heads // blueprint.kv_heads
    heads = {}
    tables = rotations(blueprint, n)
    for name, linear, norm in (
        ("queries", attention.q, attention.q_norm),
        ("keys", attention.k, attention.k_norm),
        ("values", attention.v, None),
    ):
        y = at(name[0], multiplied(x, linear)).view(batch, n, -1, blueprint.head_dim)
        if norm is not None:
            y = at(f"{name[0]}_norm", normalised(y, norm))
        if name != "values" and tables is not None:
            y = rotated(y, *(table.to(y.dtype) for table in tables))
        heads[name] = at(name, y).transpose(1, 2)
    k, v = (heads[name].repeat_interleave(group, 1) for name in ("keys", "values"))
    mixed = functional.scaled_dot_product_attention(heads["queries"], k, v, is_causal=True, scale=attention.scaling)
    return multiplied(taken("mixed", mixed.transpose(1, 2).reshape(batch, n, -1)), attention.o)


def rotations(blueprint: Blueprint, n: int) -> tuple[Tensor, Tensor] | None:
    """Cosine and sine of positions 0 .. n - 1, float64 (n, pairs); None without rotary positions."""
    if blueprint.frequencies is None:
        return None
    angle = torch.arange(n)[:, None] * blueprint.frequencies
    return angle.cos() * blueprint.amplitude, angle.sin() * blueprint.amplitude


def rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary positions of x (batch, n, heads, head): the halves of its first 2 * cosine.shape[1] numbers are the pairs."""
    half = cosine.shape[1]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    cosine, sine = cosine[:, None], sine[:, None]
    return torch.cat([a * cosine - b * sine, b * cosine + a * sine, rest], -1)


def inner(layer: Layer, x: Tensor, at: See, taken: See) -> Tensor:
    """What the MLP adds to the residual stream."""
    mlp = layer.mlp
    x = taken("mlp", at("mlp_norm", x))
    y = ACTIVATIONS[mlp.table](at("gate", multiplied(x, mlp.activated)))
    if mlp.gate is not None:
        y = y * at("up", multiplied(x, mlp.up))
    return multiplied(taken("inner", at("product", y)), mlp.down)


def turned(x: Tensor, width: int) -> Tensor:
    """The transform of every `width` numbers, normalised: an orthogonal matrix, which is its own inverse. 0: x itself."""
    return hadamard(x, width) * width**-0.5 if width else x


def hadamard(x: Tensor, width: int) -> Tensor:
    """The Walsh-Hadamard transform, in natural order and not normalised, of every `width` (a power of two) numbers of a row."""
    shape = x.shape
    step = 1
    while step < width:
        x = x.reshape(*shape[:-1], -1, 2, step)
        x = torch.stack([x[..., 0, :] + x[..., 1, :], x[..., 0, :] - x[..., 1, :]], -2)
        step *= 2
    return x.reshape(shape)


def rounded(x: Tensor, k: int) -> Tensor:
    """x (..., columns) as codes of k bits with a step a row stand for it: what a matrix of integers multiplies."""
    steps = 2 ** (k - 1) - 1
    peak = x.abs().amax(-1, keepdim=True)
    return (x / torch.where(peak > 0, peak, 1) * steps).round() * peak / steps
