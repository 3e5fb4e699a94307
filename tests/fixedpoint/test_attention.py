"""Attention: the documented integers, within the bound of float64 softmax, for rows of 32k too."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.errors import FixedPointError
from kbit.fixedpoint import attention as module
from kbit.fixedpoint.attention import ScoreScale, attention, causal
from kbit.fixedpoint.quantize import Rows, quantize_rows
from kbit.fixedpoint.tables import exp2_table
from tests.fixedpoint import exact


def rows(*shape: int, seed: int, width: int = 15, k: int = 8) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    return quantize_rows(torch.randint(-(2**width), 2**width, shape, generator=generator).short(), k)


def real_attention(q: Rows, k: Rows, v: Rows, scale: ScoreScale, visible: torch.Tensor, k_v: int = 8) -> torch.Tensor:
    """Softmax of the same codes and scales in float64, in units of the result."""
    share = q.q.shape[2] // k.q.shape[2]
    keys, values = (((x.q.double() * x.a).repeat_interleave(share, 2)) for x in (k, v))
    scores = torch.einsum("bqhd,bthd->bhqt", q.q.double() * q.a, keys) * scale.multiplier * 2.0 ** -(scale.shift + 6 + 16)
    weights = (scores * torch.log(torch.tensor(2.0, dtype=torch.float64))).masked_fill(~visible, -torch.inf).softmax(-1)
    return torch.einsum("bhqt,bthd->bqhd", weights, values) / 2 ** (k_v - 1)


def bound(q: Rows, k: Rows, v: Rows, scale: ScoreScale) -> float:
    n, top = k.q.shape[1], int(v.a.max())
    c = (q.a.long() * scale.multiplier + 32) >> 6
    share = q.q.shape[2] // k.q.shape[2]
    x = torch.einsum("bqhd,bthd->bhqt", q.q.double(), k.q.double().repeat_interleave(share, 2)) * int(k.a.max())
    lost = float(x.abs().max()) * 2.0**-scale.shift * 2.0**-17 * 2 if int(c.max()) else 0.0
    return 0.5 + top * (2.0**-15 + 2.0**-19 + n * 2.0**-29 + lost)


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 5), st.integers(1, 2), st.integers(1, 2), st.integers(1, 9), st.integers(0, 99),
    st.sampled_from([1, 9, 15]), st.sampled_from([2, 4, 8]), st.floats(1e-6, 4.0),
)  # fmt: skip
def test_attention_is_the_documented_integers(n, groups, share, width, seed, size, k_v, scaling):
    q = rows(1, n, groups * share, width, seed=seed, width=size)
    k, v = rows(1, n, groups, width, seed=seed + 1), rows(1, n, groups, width, seed=seed + 2, width=size, k=k_v)
    scale = ScoreScale.of(scaling, 2.0**-11, 2.0**-11)
    y = attention(q, k, v, scale, causal(n, n), k_v)
    for t in range(n):
        for head in range(groups * share):
            g = head // share
            expected = exact.attention(
                q.q[0, t, head].tolist(), int(q.a[0, t, head]),
                k.q[0, : t + 1, g].tolist(), k.a[0, : t + 1, g, 0].tolist(),
                v.q[0, : t + 1, g].tolist(), v.a[0, : t + 1, g, 0].tolist(),
                scale.multiplier, scale.shift, k_v, exp2_table().tolist(),
            )  # fmt: skip
            assert y[0, t, head].tolist() == expected


@pytest.mark.parametrize("scaling", [1e-4, 0.02, 0.125, 2.0])
@pytest.mark.parametrize("k_v", [2, 4, 8])
def test_attention_is_within_its_bound_of_the_real_one(scaling, k_v):
    q, k, v = rows(2, 40, 4, 64, seed=0), rows(2, 40, 2, 64, seed=1), rows(2, 40, 2, 64, seed=2, k=k_v)
    scale = ScoreScale.of(scaling, 2.0**-11, 2.0**-11)
    y = attention(q, k, v, scale, causal(40, 40), k_v)
    assert float((y - real_attention(q, k, v, scale, causal(40, 40), k_v)).abs().max()) <= bound(q, k, v, scale)


def long_row(kind: str) -> tuple[Rows, Rows, Rows, torch.Tensor]:
    n = 32768
    q, k, v = rows(1, 1, 1, 4, seed=3), rows(1, n, 1, 4, seed=4), rows(1, n, 1, 4, seed=5)
    visible = torch.ones(1, n, dtype=torch.bool)
    if kind == "even":  # every score the same: a probability of 2^-15
        q = q._replace(q=torch.zeros_like(q.q))
    if kind == "extreme":  # all codes and steps at their ends
        q, k, v = (Rows(torch.full_like(x.q, -127), torch.full_like(x.a, 32767), x.e) for x in (q, k, v))
    if kind == "small beside one":  # one position far ahead, whose value is 0; the rest must not be lost
        k = Rows(torch.full_like(k.q, -127), torch.full_like(k.a, 9), k.e)
        k.q[0, 7] = 127
        q = Rows(torch.full_like(q.q, 127), torch.full_like(q.a, 32767), q.e)
        v = Rows(torch.full_like(v.q, 127), torch.full_like(v.a, 32767), v.e)
        v.q[0, 7] = 0
    if kind == "few seen":
        visible = torch.arange(n)[None] < 3
    return q, k, v, visible


@pytest.mark.parametrize("kind", ["random", "even", "extreme", "small beside one", "few seen"])
def test_a_row_of_32k_is_within_the_bound_too(kind):
    q, k, v, visible = long_row(kind)
    scale = ScoreScale.of(0.25, 2.0**-11, 2.0**-11)
    y = attention(q, k, v, scale, visible)
    assert float((y - real_attention(q, k, v, scale, visible)).abs().max()) <= bound(q, k, v, scale)
    t = visible[0].nonzero().flatten()
    expected = exact.attention(
        q.q[0, 0, 0].tolist(), int(q.a[0, 0, 0]), k.q[0, t, 0].tolist(), k.a[0, t, 0, 0].tolist(),
        v.q[0, t, 0].tolist(), v.a[0, t, 0, 0].tolist(), scale.multiplier, scale.shift, 8, exp2_table().tolist(),
    )  # fmt: skip
    assert y[0, 0, 0].tolist() == expected


def test_zeros_everywhere_give_zeros():
    zero = Rows(torch.zeros(1, 3, 1, 4, dtype=torch.int8), torch.zeros(1, 3, 1, 1, dtype=torch.int32), torch.zeros(1, 3, 1, 1))
    assert not attention(zero, zero, zero, ScoreScale(0, 0), causal(3, 3)).any()


def test_cuts_and_batches_change_no_bit(monkeypatch):
    q, k, v = rows(2, 9, 4, 8, seed=0), rows(2, 9, 2, 8, seed=1), rows(2, 9, 2, 8, seed=2)
    scale = ScoreScale.of(0.3, 2.0**-11, 2.0**-11)
    whole = attention(q, k, v, scale, causal(9, 9))
    monkeypatch.setattr(module, "SCORES_AT_ONCE", 1)
    assert torch.equal(attention(q, k, v, scale, causal(9, 9)), whole)
    last = [Rows(*(part[1:, 5:] for part in q)), Rows(*(part[1:] for part in k)), Rows(*(part[1:] for part in v))]
    assert torch.equal(attention(*last, scale, causal(4, 9)), whole[1:, 5:])
    one = [Rows(*(part[1:, 5:6] for part in q)), Rows(*(part[1:, :6] for part in k)), Rows(*(part[1:, :6] for part in v))]
    assert torch.equal(attention(*one, scale, causal(1, 6)), whole[1:, 5:6])


@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        (((1, 1, 1, 257), (1, 1, 1, 257)), "heads of 257 columns"),
        (((1, 1, 1, 1), (1, 2**17, 1, 1)), "131072 positions"),
        (((1, 1, 3, 1), (1, 1, 2, 1)), "3 heads do not share 2 groups"),
    ],
)
def test_what_is_not_proven_is_refused(shapes, says):
    q, k = (Rows(torch.zeros(shape, dtype=torch.int8), torch.zeros(*shape[:3], 1), torch.zeros(1)) for shape in shapes)
    with pytest.raises(FixedPointError, match=f"^attention: {says}"):
        attention(q, k, k, ScoreScale(1, 0), torch.ones(1, shapes[1][1], dtype=torch.bool))
