"""The Walsh-Hadamard transform against SciPy's matrix, and the codes of a rotated row."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import hadamard as matrix

from kbit.errors import FixedPointError
from kbit.fixedpoint.checker import IntegerOnly
from kbit.fixedpoint.hadamard import hadamard, quantize_rotated
from tests.fixedpoint import exact


@pytest.mark.parametrize("width", [1, 2, 8, 64])
def test_a_transform_is_that_of_the_matrix_and_its_own_inverse(width):
    x = torch.randint(-(2**20), 2**20, (3, 2 * width), generator=torch.Generator().manual_seed(0))
    h = torch.tensor(matrix(width))
    y = hadamard(x, width)
    assert torch.equal(y, (x.view(3, 2, width) @ h).view(3, 2 * width))
    assert torch.equal(hadamard(y, width), width * x)


@settings(deadline=None)
@given(
    st.sampled_from([2, 4, 16]), st.integers(1, 2), st.sampled_from([2, 4, 8]), st.sampled_from([0, 20000]), st.integers(0, 9),
    st.integers(0, 32), st.integers(0, 99),
)  # fmt: skip
def test_codes_of_a_rotated_row_are_the_documented_integers(width, groups, k, a, e, size, seed):
    n, p = width * groups, width.bit_length() - 1
    x = torch.randint(-(2**size), 2**size + 1, (n,), generator=torch.Generator().manual_seed(seed))
    x = x.clamp(-(2**31), 2**31 - 1).tolist()
    if size == 32:
        x[0] = -(2**31)
    with IntegerOnly():
        found = quantize_rotated(torch.tensor([x], dtype=torch.int32), k, width, a, e)
    peak = min(max(abs(v) for v in x), 2**31 - 1)
    e0 = p + 1 if a else max(0, peak.bit_length() + p - 30)
    small = [exact.shifted(v, e0) for v in x]
    h = matrix(width).tolist()
    turned = [sum(h[i][j] * small[start + j] for j in range(width)) for start in range(0, n, width) for i in range(width)]
    assert max(map(abs, turned)) <= 2**30
    if a:
        limit, reciprocal = 2 ** (k - 1) - 1, ((2 ** (k - 1) - 1) << 23) // a
        q = [
            exact.held(exact.shifted(exact.held(exact.shifted(v, e), -32767, 32767) * reciprocal, 23), -limit, limit)
            for v in turned
        ]
        expected = (q, a, e + e0)
    else:
        q, found_a, found_e = exact.quantize_rows(turned, k, 32)
        expected = (q, found_a, found_e + e0)
    assert (found.q[0].tolist(), int(found.a), int(found.e)) == expected


@pytest.mark.parametrize("width", [3, 8])
def test_a_width_that_does_not_fit_is_refused(width):
    with pytest.raises(FixedPointError, match=f"transform of {width} numbers does not fit rows of 12"):
        hadamard(torch.zeros(12, dtype=torch.int64), width)
