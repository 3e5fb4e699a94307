"""Rotations that spread outliers over all columns: of the input of the down projection, of each head's values, of the whole
residual stream (QuaRot, Ashkboos et al. 2024). In exact arithmetic a rotated model is the same function.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kbit.errors import FormatError
from kbit.models.integer_blueprint import Blueprint, Linear, Norm
from kbit.models.integer_float import INPUTS, hadamard, turned

# rotation -> the places before whose matrices the integers do a Hadamard transform as they run
TURNED = {"none": (), "down": ("inner", "head"), "inputs": (*INPUTS, "head"), "all": ("inner",)}
ROTATIONS = tuple(TURNED)


def widths_of(blueprint: Blueprint, which: str) -> dict[str, int]:
    """The places before whose matrices the integers do a transform, and how many numbers of each go through it together."""
    widths = {place: power_of_two_in(matrices[0].weight.shape[1]) for place, matrices in blueprint.readers()}
    return {place: width for place, width in widths.items() if place.rpartition(".")[2] in TURNED[which] and width > 1}


def rotate(blueprint: Blueprint, which: str, *, seed: int = 0) -> None:
    """Rotate in place.

    none: nothing. down: a Hadamard transform before each down projection and before the output head, which the integers do as
    they run, and its inverse in the weights; a tied head stays tied, since what is embedded is turned back. inputs: the same
    before every matrix. all: before each down projection, and in the weights alone each head's values (v and o) and the residual
    stream, whose norms then have no weights of their own: LayerNorm becomes RMSNorm of a stream without mean, and a tied output
    head a matrix of its own.
    """
    if which not in ROTATIONS:
        raise FormatError(f"'{which}' is no rotation. There are {', '.join(ROTATIONS)}.")
    blueprint.rotated |= widths_of(blueprint, which)
    for place, matrices in blueprint.readers():
        for linear in matrices:
            linear.weight = turned(linear.weight, blueprint.rotated.get(place, 0))
    if blueprint.turned_back:
        blueprint.embedding.weight = blueprint.head.weight
    if which == "all":
        _rotate_values(blueprint, seed)
        _rotate_stream(blueprint, seed)


def power_of_two_in(n: int) -> int:
    """The largest power of two that divides n."""
    return n & -n


def orthogonal(n: int, seed: int) -> Tensor:
    """A Hadamard matrix of the power of two in n, times an orthogonal one for the rest, with signs at random: float64 (n, n)."""
    generator = torch.Generator().manual_seed(seed)
    width = power_of_two_in(n)
    matrix = hadamard(torch.eye(width, dtype=torch.float64), width) * width**-0.5
    if width < n:
        rest, _ = torch.linalg.qr(torch.randn(n // width, n // width, generator=generator, dtype=torch.float64))
        matrix = torch.kron(rest.contiguous(), matrix)
    signs = torch.randint(2, (n, 1), generator=generator) * 2 - 1
    return matrix * signs


def _rotate_values(blueprint: Blueprint, seed: int) -> None:
    """Each head's values by one matrix in the rows of v, and back in the columns of o."""
    head = blueprint.head_dim
    turn = orthogonal(head, seed)
    for layer in blueprint.layers:
        v, o = layer.attention.v, layer.attention.o
        v.weight = (turn.T @ v.weight.double().view(-1, head, v.weight.shape[1])).flatten(0, 1).float()
        if v.bias is not None:
            v.bias = (v.bias.double().view(-1, head) @ turn).flatten().float()
        o.weight = (o.weight.double().view(len(o.weight), -1, head) @ turn).flatten(1).float()


def _rotate_stream(blueprint: Blueprint, seed: int) -> None:
    """x -> x turn for the residual stream; norms give up their weights to the matrices behind them."""
    n = blueprint.embedding.weight.shape[1]
    turn = orthogonal(n, seed)
    centred = blueprint.norm.centred
    if blueprint.tied:
        blueprint.head = Linear("lm_head", blueprint.head.weight.clone(), blueprint.head.bias)
    blueprint.embedding = Linear(blueprint.embedding.name, _written(blueprint.embedding.weight, turn, centred))
    if blueprint.table is not None:
        blueprint.table = _written(blueprint.table, turn, centred)
    for layer in blueprint.layers:
        attention, mlp = layer.attention, layer.mlp
        layer.attention_norm = _absorb(layer.attention_norm, [attention.q, attention.k, attention.v], turn)
        layer.mlp_norm = _absorb(layer.mlp_norm, [mlp.up, *([mlp.gate] if mlp.gate else [])], turn)
        for linear in (attention.o, mlp.down):
            linear.weight = _written(linear.weight.T, turn, centred).T.contiguous()
            if linear.bias is not None:
                linear.bias = _written(linear.bias, turn, centred)
    blueprint.norm = _absorb(blueprint.norm, [blueprint.head], turn)


def _written(x: Tensor, turn: Tensor, centred: bool) -> Tensor:
    """What is written onto the stream, x (..., n), turned; without its mean, which LayerNorm would take off."""
    x = x.double()
    return ((x - x.mean(-1, keepdim=True) if centred else x) @ turn).float()


def _absorb(norm: Norm, readers: list[Linear], turn: Tensor) -> Norm:
    """Weight and bias of a norm into the matrices that read it, which then read the turned stream."""
    for linear in readers:
        w = linear.weight.double()
        if norm.bias is not None:
            shift = w @ norm.bias.double()
            linear.bias = (shift if linear.bias is None else linear.bias.double() + shift).float()
        linear.weight = ((w * norm.weight.double()) @ turn).float()
    return Norm(norm.name, torch.ones_like(norm.weight), None, norm.epsilon, centred=False)
