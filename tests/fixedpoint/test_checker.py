"""The checker catches planted floats of every kind, names the operation, and lets integers pass."""

from __future__ import annotations

import pytest
import torch

from kbit.errors import FixedPointError
from kbit.fixedpoint.attention import ScoreScale, attention, causal
from kbit.fixedpoint.checker import IntegerOnly
from kbit.fixedpoint.embedding import add, embed
from kbit.fixedpoint.gates import activate, gate, multiply
from kbit.fixedpoint.linear import linear
from kbit.fixedpoint.norms import NormWeight, layer_norm, rms_norm
from kbit.fixedpoint.quantize import quantize_rows, quantize_static
from kbit.fixedpoint.rotary import frequencies, rotary_tables, rotate
from kbit.fixedpoint.sampling import IntegerSampling, next_token
from kbit.fixedpoint.tables import curve
from tests.fixedpoint.test_linear import layer

X = torch.tensor([[1, -2], [3, 4]])
FLOAT = torch.ones(2)
PARAMETER = torch.nn.Parameter(torch.ones(2))

PLANTED = {
    "float constant, multiplied": (lambda: X * 0.5, "aten.mul"),
    "float constant, compared": (lambda: X > 0.5, "aten.gt"),
    "float constant, clamped": (lambda: X.clamp(max=1.5), "aten.clamp"),
    "float constant, made": (lambda: torch.tensor([0.5]), "aten."),
    "float tensor, made": (lambda: torch.zeros(3), "aten.zeros"),
    "whole number given as a float": (lambda: torch.full((2,), 1.0, dtype=torch.int64), "aten.full"),
    "division": (lambda: X / 2, "aten.div"),
    "conversion": (lambda: X.float(), "aten._to_copy"),
    "half precision": (lambda: X.to(torch.bfloat16), "aten._to_copy"),
    "mean": (lambda: X.mean(dtype=torch.float32), "aten.mean"),
    "root": (lambda: X.sqrt(), "aten.sqrt"),
    "complex": (lambda: torch.complex(FLOAT, FLOAT), "aten.complex"),
    "product of floats": (lambda: FLOAT @ FLOAT, "aten.dot"),
    "float tensor rounded to integers": (lambda: FLOAT.long(), "aten._to_copy"),
    "float tensor in place": (lambda: FLOAT.add_(1), "aten.add_"),
    "view of a float tensor": (lambda: FLOAT[0], "aten.select"),
    "reading a float": (lambda: FLOAT[0].item(), "aten.select"),
    "float tensors in a list": (lambda: torch.cat([FLOAT, FLOAT]), "aten.cat"),
    "random floats": (lambda: torch.rand(2), "aten.rand"),
    "weight of a module": (lambda: torch.nn.functional.linear(FLOAT[None], PARAMETER[None]), "aten."),
    "softmax": (lambda: X.softmax(-1, dtype=torch.float32), "aten."),
}


@pytest.mark.parametrize("plant", PLANTED)
def test_a_planted_float_is_caught_and_its_operation_named(plant):
    call, operation = PLANTED[plant]
    with (
        pytest.raises(FixedPointError, match=rf"^{operation}.* (takes|makes) .* in test_checker\.py:\d+ .*only integers"),
        IntegerOnly(),
    ):
        call()


def test_the_message_says_what_and_where():
    with (
        pytest.raises(
            FixedPointError, match=r"^aten\.mul\.Tensor takes the number 0\.5 in test_checker\.py:\d+ \(<lambda>\), where only"
        ),
        IntegerOnly(),
    ):
        (lambda: X * 0.5)()


def test_outside_the_mode_nothing_is_caught():
    with IntegerOnly():
        pass
    assert float(X.float().mean()) == 1.5


def test_the_operators_of_a_transformer_pass():
    """Each of them, from ids to a token, with every constant and table made before."""
    norm = NormWeight.of(torch.ones(8), torch.ones(8), 1e-5, 2.0**-16, 2.0**-11, centred=True)
    table, weight, sampling = curve("silu"), layer(8, 8, 16, True, 0), IntegerSampling.of(2.0**-16, 0.7, 3, 0.9)
    scale, turns = ScoreScale.of(0.3, 2.0**-11, 2.0**-11), frequencies(torch.ones(4, dtype=torch.float64))
    with IntegerOnly() as checker:
        x = embed(torch.tensor([[1, 2, 3]]), weight)
        x = add(x, rms_norm(x, norm))
        h = layer_norm(x, norm)
        y = linear(quantize_rows(h, 8), weight)
        quantize_static(y, 1000, 0, 8)
        cos, sin = rotary_tables(turns, 3)
        q, k, v = (quantize_rows(rotate(y[:, :, None], cos[:, None], sin[:, None]), 8) for _ in range(3))
        attention(q, k, v, scale, causal(3, 3))
        x = add(activate(y, 11, table), gate(y, 11, h, table))
        next_token(add(x, multiply(y, h))[0, -1], sampling, 2)
    assert checker.operations > 300
