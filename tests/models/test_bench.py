"""kbit bench's measuring: what is multiplied, what is counted, and how it is printed."""

from __future__ import annotations

import csv
import io
import json

import pytest
import torch

import kbit
from kbit.cli.show import show
from kbit.errors import FormatError, KbitError, ModelError
from kbit.formats import Format
from kbit.kernels.bench import cache_bytes
from kbit.models import bench
from kbit.models.bench import Machine, ModelSpeed, Product, Speed, bench_model, bench_products, copies_of, packed_copies
from kbit.models.bench_table import Bench
from tests.tiny_models import CONTEXT, tiny_model

MACHINE = Machine("A CPU, 2 cores, 32 MiB last-level cache", "avx2", "the best that this machine runs", 2, 14e9, 27e9)
PRODUCT = Product("int4-b64", 4, 4.25, 8_912_896, 0.4e-3, 0.35e-3, 0.5e-3, 2**24, 27e9)
MODEL = ModelSpeed(
    "small", 753_664, 535_800, "native", "int8", (Speed("pp512", 519.0, 2.5, None), Speed("tg128", 136.0, 1.0, 7.29e7))
)
RESULT = Bench(MACHINE, (4096, 4096), 1, "int8", [PRODUCT], MODEL)


@pytest.mark.parametrize(
    "fmt",
    ["int1-b64", "int3-b64-asym", "nf4-b64-s8", "ternary-b64", "int4-row", "nf4-tensor", "int4-b32-min", "nvfp4", "int4-b64-o2"],
)
@pytest.mark.parametrize("rows", [7, 300, 512])
def test_the_weights_are_a_samples_rows_again_and_again(fmt, rows, monkeypatch):
    monkeypatch.setattr(bench, "cache_bytes", lambda: 10_000)
    packs = packed_copies(Format.parse(fmt), (rows, 96), 1)
    sample = min(rows, bench.SAMPLE_ROWS)
    w = packs[0].dequantize()
    torch.testing.assert_close(w, w[torch.arange(rows) % sample], rtol=0, atol=0)
    assert all(torch.equal(packed.dequantize(), w) for packed in packs)
    assert len(packs) == copies_of(packs[0].nbytes, 1)


def test_copies_of_a_weight_are_more_than_the_cache_holds():
    for n_bytes in (10**5, 10**6, 2**24, 10**9):
        assert copies_of(n_bytes, 1) * n_bytes >= 3 * cache_bytes() or copies_of(n_bytes, 1) == bench.MOST_COPIES
    assert copies_of(2**24, 8) * 2**24 >= cache_bytes()
    assert copies_of(2**20, 512) == 1


def test_each_format_is_measured_once_in_the_order_asked_for():
    found = bench_products(["nf4-b64", "int2-b64", "nf4-b64"], shape=(64, 128), batch=3, compute="exact", seconds=0)
    assert [(p.format, p.k, p.macs) for p in found] == [("nf4-b64", 4, 3 * 64 * 128), ("int2-b64", 2, 3 * 64 * 128)]
    for p in found:
        assert p.nbytes == kbit.pack(torch.randn(64, 128), p.format).nbytes
        assert p.bits_per_weight == p.nbytes * 8 / (64 * 128)
        assert 0 < p.low <= p.seconds <= p.high
        assert p.bandwidth == p.nbytes / p.seconds
        assert p.share == p.bandwidth / p.read


@pytest.mark.parametrize(
    ("arguments", "fault", "said"),
    [
        ({"formats": ["int9-b64"]}, FormatError, "format 'int9-b64'"),
        ({"formats": ["bf16"]}, KbitError, "format 'bf16' has no codes, so its product is torch's."),
        ({"compute": "int4"}, KbitError, "compute 'int4' is not to be had."),
        ({"shape": (0, 64)}, KbitError, "a weight of 0x64 and 1 tokens make no product."),
        ({"shape": (10**6, 10**6)}, KbitError, "the weights of 8 formats of 1000000x1000000 take "),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_packed(arguments, fault, said):
    with pytest.raises(fault) as caught:
        bench_products(**{"formats": bench.FORMATS, **arguments})
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_model_reads_prompts_and_tokens(name):
    found = bench_model(tiny_model(name), prompt=20, answer=4, repetitions=2)
    assert [test.name for test in found.tests] == ["pp20", "tg4"]
    assert all(test.tokens_per_second > 0 for test in found.tests)
    assert found.tests[0].bandwidth is None
    assert found.tests[1].bandwidth == found.tests[1].tokens_per_second * found.nbytes
    assert found.way == ("native" if name == "llama" else "modules")


def test_tests_are_as_long_as_the_context_allows():
    assert [test.name for test in bench_model(tiny_model(), repetitions=1).tests] == [f"pp{CONTEXT}", f"tg{CONTEXT}"]
    assert [test.name for test in bench_model(tiny_model(), prompt=0, answer=3, repetitions=1).tests] == ["tg3"]
    with pytest.raises(ModelError, match=r"^129 tokens do not fit the model's context of 128\. Write 0 to 128\.$"):
        bench_model(tiny_model(), prompt=129)


def test_the_table_says_where_and_what(capsys):
    show(RESULT)
    said = capsys.readouterr().out
    for words in (
        "avx2 (the best that this machine runs), 2 threads",
        "memory reads 14.0 GB/s with 1 thread, 27.0 GB/s with 2",
        "product of a 4096x4096 weight and 1 token, int8",
    ):
        assert words in said
    rows = [line.split() for line in said.splitlines()]
    assert ["int4-b64", "4", "4.250", "0.400", "0.350", "..", "0.500", "22.28", "83%", "41.9"] in rows
    assert ["small", "0.54", "MB", "0.75", "M", "native", "int8", "2", "tg128", "136.00", "±", "1.00", "0.07", "0%"] in rows


def test_markdown_csv_and_json_say_the_same(capsys):
    assert "| int4-b64 | 4 | 4.250 | 0.400 | 0.350 .. 0.500 | 22.28 | 83% | 41.9 |" in RESULT.to_markdown().splitlines()
    rows = list(csv.DictReader(io.StringIO(RESULT.to_csv())))
    assert [row["test"] for row in rows] == ["product", "pp512", "tg128"]
    assert float(rows[0]["seconds"]) == PRODUCT.seconds
    assert float(rows[2]["tokens_per_second"]) == 136.0
    show(RESULT, json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["machine"]["read_n"] == 27e9
    assert found["products"][0]["share"] == PRODUCT.share
    assert found["model"]["tests"][0] == {"name": "pp512", "tokens_per_second": 519.0, "deviation": 2.5, "bandwidth": None}
