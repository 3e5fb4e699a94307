"""Learned clipping of activations: the gradients of PACT and of LSQ, and what is refused."""

from __future__ import annotations

import pytest
import torch

from kbit.errors import FormatError
from kbit.formats import Format
from kbit.qat.activations import ActivationQuantizer

X = torch.tensor([[-3.0, -0.4, 0.2, 0.9], [1.4, 2.6, -1.1, 0.0]])
G = torch.arange(1.0, 9).view(2, 4)


def quantizer(text: str, learning: str, reach: float) -> ActivationQuantizer:
    made = ActivationQuantizer(Format.parse(text), learning)
    made.reach.data.fill_(reach)
    made.started.fill_(True)
    return made


def test_pact_learns_from_what_is_clipped():
    """Choi et al. 2018, equations 2 and 3, for positive and negative values alike."""
    made, x = quantizer("int3-tensor", "pact", 1.5), X.clone().requires_grad_()
    values = made(x)
    torch.testing.assert_close(values, (X.clamp(-1.5, 1.5) * 3 / 1.5).round() * 1.5 / 3)
    values.backward(G)
    torch.testing.assert_close(made.reach.grad, G[1, 1] - G[0, 0])  # 2.6 lies above, -3.0 below
    torch.testing.assert_close(x.grad, G * (X.abs() < 1.5))


def test_pact_after_a_relu_counts_from_zero():
    made = quantizer("int2-tensor-asym", "pact", 1.5)
    torch.testing.assert_close(made(X.relu()), (X.clamp(0, 1.5) * 2).round() / 2)


def test_the_range_of_pact_has_the_gradient_of_finite_differences():
    """Beyond the range the output is alpha itself; within, alpha moves the grid, which PACT leaves out."""
    x = torch.tensor([[4.0, -5.0, 7.0]])
    made, up = quantizer("int4-tensor", "pact", 2.0), quantizer("int4-tensor", "pact", 2.25)
    made(x).mul(G[0, :3]).sum().backward()
    torch.testing.assert_close(made.reach.grad, (up(x) - made(x)).mul(G[0, :3]).sum() / 0.25)


def test_lsq_learns_from_all_values():
    """Esser et al. 2020, equation 3, and its factor 1 / sqrt(values * largest level)."""
    made, step = quantizer("int3-tensor", "lsq", 1.5), 0.5
    made(X).mul(G).sum().backward()
    u = X / step
    published = torch.where(u <= -3, -3.0, torch.where(u >= 3, 3.0, u.round() - u))
    torch.testing.assert_close(made.reach.grad, (G * published).sum() / 3 * (8 * 3) ** -0.5)  # the step is a third of the reach


def test_the_range_starts_at_the_largest_of_the_first_batch():
    made = ActivationQuantizer(Format.parse("int8-tensor"))
    made(X)
    assert made.reach.item() == 3.0
    made(10 * X)
    assert made.reach.item() == 3.0


def test_each_token_has_a_range_of_its_own():
    made = ActivationQuantizer(Format.parse("int4-token"))
    reach = X.abs().amax(-1, keepdim=True)
    x = X.clone().requires_grad_()
    values = made(x)
    torch.testing.assert_close(values, (X / reach * 7).round() * reach / 7)
    values.backward(G)
    assert torch.equal(x.grad, G)
    assert torch.equal(made(torch.zeros(2, 3)), torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nf4-tensor", "activations 'nf4-tensor' are not to be had. Write int8-tensor"),
        ("int8-b64", "activations 'int8-b64' are not to be had"),
        ("int8-tensor-min", "activations 'int8-tensor-min' are not to be had"),
        ("int8-token-asym", "options other than -asym of a tensor are not to be had"),
    ],
)
def test_formats_that_do_not_fit_are_refused(text, message):
    with pytest.raises(FormatError, match=message):
        ActivationQuantizer(Format.parse(text))


def test_a_way_to_learn_that_does_not_exist_is_refused():
    with pytest.raises(FormatError, match=r"'magic' does not teach a range\. Write pact or lsq"):
        ActivationQuantizer(Format.parse("int8-tensor"), "magic")
