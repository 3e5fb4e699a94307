"""Which formats integers can train in."""

from __future__ import annotations

import pytest

from kbit.formats import Format
from kbit.qat.integer_parts import safe_format


@pytest.mark.parametrize(("k", "k_x"), [(8, 8), (8, 4), (7, 8), (2, 8)])
def test_formats_are_safe_up_to_the_last_column_that_fits(k, k_x):
    """The largest sum is columns * (2^(k-1) - 1) * 255 * (2^(k_x-1) - 1)."""
    each = (2 ** (k - 1) - 1) * 255 * (2 ** (k_x - 1) - 1)
    fits = (2**31 - 1) // each
    blocks = Format.parse(f"int{k}-b64-i8")
    assert safe_format(blocks, fits, k_x) == blocks
    assert safe_format(blocks, fits + 1, k_x) == Format.parse(f"int{k}-row")
