"""The linear layer: exact sums, the documented rescaling, and overflow refused at construction."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.errors import FixedPointError
from kbit.fixedpoint.linear import LinearWeight, accumulate, linear, row_scales
from kbit.fixedpoint.quantize import Rows, quantize_rows
from tests.fixedpoint import exact


def layer(n_out: int, n_in: int, block: int, blocks: bool, seed: int, bias: bool = True, k: int = 8) -> LinearWeight:
    generator = torch.Generator().manual_seed(seed)
    limit = 2 ** (k - 1) - 1

    def some(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high + 1, shape, generator=generator)

    return LinearWeight(
        some(-limit, limit, n_out, n_in).to(torch.int8),
        some(0, 255, n_out, -(-n_in // block)).to(torch.uint8) if blocks else None,
        block if blocks else n_in,
        some(0, 2**15 - 1, n_out).to(torch.int16),
        some(10, 62, n_out).to(torch.int8),
        some(-(2**31), 2**31 - 1, n_out).int() if bias else None,
    )


def columns(w: LinearWeight, r: int) -> list[int]:
    scales = [1] * w.codes.shape[1] if w.m is None else [int(w.m[r, j // w.block]) for j in range(w.codes.shape[1])]
    return [int(code) * m for code, m in zip(w.codes[r], scales, strict=True)]


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 9), st.integers(1, 90), st.sampled_from([16, 32, 64]), st.booleans(), st.booleans(), st.integers(0, 999))
def test_a_layer_is_the_documented_integers(n_out, n_in, block, blocks, wide, seed):
    w = layer(n_out, n_in, block, blocks, seed, bias=seed % 2 == 0)
    width = 31 if wide else 12
    x = torch.randint(-(2**width), 2**width, (3, n_in), generator=torch.Generator().manual_seed(seed)).int()
    rows = quantize_rows(x, 8)
    for k in (16, 32):
        y = linear(rows, w, k)
        assert y.dtype == (torch.int16 if k == 16 else torch.int32)
        for i in range(3):
            for r in range(n_out):
                acc = sum(int(q) * c for q, c in zip(rows.q[i], columns(w, r), strict=True))
                assert int(accumulate(rows.q, w)[i, r]) == acc
                whole = exact.scaled(acc * int(rows.a[i]) * int(w.multiplier[r]), int(w.shift[r]) - int(rows.e[i]))
                assert int(y[i, r]) == exact.saturated(whole + (0 if w.bias is None else int(w.bias[r])), k)


def test_a_layer_is_near_the_real_product():
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(32, 96, generator=generator, dtype=torch.float64)
    unit = w.abs().amax(-1) / 127
    x = torch.randint(-(2**14), 2**14, (20, 96), generator=generator).to(torch.int16)
    rows = quantize_rows(x, 8)
    codes = (w / unit[:, None]).round()
    x_scale, y_scale = 2.0**-11, 2.0**-8
    weight = LinearWeight(codes.to(torch.int8), None, 96, *row_scales(unit, x_scale, 8, y_scale))
    real = ((rows.q.double() * rows.a * x_scale / 127) @ (codes * unit[:, None]).t() / y_scale).clamp(-32768, 32767)
    assert ((linear(rows, weight) - real).abs() <= 0.5 + real.abs() * 2.0**-15).all()


def test_a_left_shift_saturates():
    weight = LinearWeight(
        torch.tensor([[127]], dtype=torch.int8), None, 1, torch.tensor([1], dtype=torch.int16), torch.tensor([0])
    )
    for sign, end in ((1, 2**31 - 1), (-1, -(2**31))):
        rows = Rows(torch.tensor([[127 * sign]], dtype=torch.int8), torch.tensor([[32767]]), torch.tensor([[16]]))
        assert int(linear(rows, weight, 32)) == end


def test_sums_that_could_wrap_are_refused_and_the_message_says_what_to_do():
    n = 600
    codes, m = torch.full((2, n), 127, dtype=torch.int8), torch.full((2, 10), 255, dtype=torch.uint8)
    scales = torch.ones(2, dtype=torch.int16), torch.zeros(2, dtype=torch.int8)
    with pytest.raises(FixedPointError) as caught:
        LinearWeight(codes, m, 60, *scales, name="layers.0.mlp.down")
    assert str(caught.value) == (
        "layers.0.mlp.down: sums of 600 columns, weights of 2 rows times activations of 8 bits, reach 2467737000, "
        "beyond the int32 limit 2147483647. Give the weights or the activations fewer bits, or one scale a row "
        "(granularity row) in place of blocks."
    )
    fewer = LinearWeight(codes, m, 60, *scales, k_x=7)
    most = torch.full((1, n), 63, dtype=torch.int8)
    assert int(accumulate(most, fewer)[0, 0]) == fewer.largest_sum == 63 * 127 * 255 * n


@pytest.mark.parametrize(
    "change",
    [
        {"codes": torch.zeros(2, 3)},
        {"m": torch.zeros(2, 2, dtype=torch.uint8)},
        {"multiplier": torch.tensor([-1, 0])},
        {"multiplier": torch.tensor([0.5, 0.5])},
        {"shift": torch.tensor([63, 0])},
        {"bias": torch.zeros(2)},
    ],
)
def test_what_does_not_fit_is_refused_by_name(change):
    given_ = {
        "codes": torch.zeros(2, 3, dtype=torch.int8), "m": None, "block": 3,
        "multiplier": torch.zeros(2, dtype=torch.int16), "shift": torch.zeros(2, dtype=torch.int8),
    }  # fmt: skip
    with pytest.raises(FixedPointError, match=r"^lm_head: "):
        LinearWeight(**{**given_, **change}, name="lm_head")
