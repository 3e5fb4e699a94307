"""Parts of format_version 0, written here from its definition, become the parts of today."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kbit.formats import Encoded
from kbit.formats.scales import split_scale
from kbit.packed import PackedTensor, keep, pack, part_sizes, version0
from tests.packed.definition import up
from tests.packed.formats import SOME, encoded, formats, shapes


def bit_stream(codes: np.ndarray, k: int) -> np.ndarray:
    """The bits of all codes one after another, lowest first, as bytes."""
    bits = [int(code) >> bit & 1 for code in codes.flatten() for bit in range(k)]
    return np.packbits(np.array(bits, dtype=np.uint8), bitorder="little")


def fives(codes: np.ndarray) -> np.ndarray:
    """Five ternary codes to a byte, the first one lowest, row by row."""
    padded = np.pad(codes, ((0, 0), (0, -codes.shape[1] % 5))).reshape(len(codes), -1, 5)
    return (padded * 3 ** np.arange(5)).sum(-1).astype(np.uint8)


def parts_of_version_0(e: Encoded) -> dict[str, torch.Tensor]:
    """Everything row after row, rows padded to 16 and codes to 32 columns; each part filled up with zeros."""
    rows = up(e.shape[0], 16) - e.shape[0]
    codes = np.pad(e.codes.numpy(), ((0, rows), (0, -e.codes.shape[1] % 32)))
    found = split_scale(e.scale, e.fmt.scales, e.tensor_scale)
    found[""] = torch.from_numpy(fives(codes) if e.fmt.codebook == "ternary" else bit_stream(codes, e.fmt.k))
    if e.zero is not None:
        found["_zero"] = torch.from_numpy(bit_stream(e.zero.numpy(), e.fmt.k))
    optional = {"_min": e.minimum, "_mean": e.mean, "_kept_columns": e.kept_columns, "_kept_weight": e.kept_weight}
    found |= {suffix: values for suffix, values in optional.items() if values is not None}
    if e.fmt.learned:
        found["_levels"] = torch.cat([e.levels, e.levels[-1:].expand(2**e.fmt.k - len(e.levels))])
    parts = {}
    for suffix, (dtype, count) in part_sizes(e.fmt, e.shape).items():
        parts[suffix] = torch.zeros(count, dtype=dtype)
        parts[suffix][: found[suffix].numel()] = found[suffix].flatten().to(dtype)
    return parts


def check(e: Encoded) -> None:
    parts = parts_of_version_0(e)
    before = {suffix: part.clone() for suffix, part in parts.items()}
    found, expected = version0.upgraded(e.fmt, e.shape, parts), pack(e).parts()
    assert found.keys() == expected.keys()
    for suffix, part in expected.items():
        assert found[suffix].dtype == part.dtype, suffix
        assert torch.equal(found[suffix], part), suffix
        assert torch.equal(parts[suffix], before[suffix]), suffix
    assert torch.equal(PackedTensor.from_parts(e.fmt, e.shape, found).dequantize(), e.dequantize())


@pytest.mark.parametrize("text", SOME)
def test_parts_of_version_0_become_those_of_today(text):
    check(encoded(text, (19, 70)))


@settings(max_examples=100, deadline=None)
@given(formats, shapes, st.integers(0, 2**31))
def test_parts_of_version_0_become_those_of_today_for_every_format_and_shape(text, shape, seed):
    check(encoded(text, shape, seed))


@pytest.mark.parametrize("text", ["int5-b16", "ternary-row"])
def test_tiles_that_do_not_fit_one_chunk_become_the_same(text, monkeypatch):
    monkeypatch.setattr(version0, "CHUNK", 100)
    check(encoded(text, (50, 70)))


def test_a_weight_that_stays_as_it_is_has_no_order():
    packed = keep(torch.randn(5, 7), encoded("int4-b64", (1, 1)).fmt.parse("bf16"))
    assert version0.upgraded(packed.fmt, packed.shape, packed.parts()).keys() == packed.parts().keys()


@settings(max_examples=100, deadline=None)
@given(formats, shapes, st.integers(0, 2**31))
def test_any_bytes_become_parts_of_the_right_sizes(text, shape, seed):
    packed = pack(encoded(text, shape))
    generator = torch.Generator().manual_seed(seed)
    parts = {
        suffix: torch.randint(0, 256, (part.nbytes,), dtype=torch.uint8, generator=generator).view(part.dtype)
        for suffix, part in packed.parts().items()
    }
    found = version0.upgraded(packed.fmt, shape, parts)
    PackedTensor.from_parts(packed.fmt, shape, found)
