"""A protocol refuses what cannot be measured, and its JSON tells exactly whether two measurements compare."""

from __future__ import annotations

import hashlib
import json

import pytest

from kbit.errors import TextError
from kbit.evaluation import PROTOCOLS, Protocol, tokenizer_sha256
from kbit.evaluation.protocols import wikitext_hf
from tests.tiny_models import tiny_tokenizer


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"window": 1}, "protocol: a window of 1 tokens predicts nothing. Take 2 or more."),
        ({"window": 8, "stride": 9}, "protocol: stride 9 does not fit a window of 8. Take 1 to 8."),
        ({"stride": 0}, "protocol: stride 0 does not fit a window of 2048. Take 1 to 2048."),
        ({"max_windows": 0}, "protocol: 0 windows measure nothing. Take 1 or more."),
        (
            {"window": 3, "score": "second-half"},
            "protocol: the second half of a window of 3 tokens scores nothing. Take 4 or more.",
        ),
        ({"bos": "yes"}, "protocol: bos 'yes' is none of False, True, 'once', 'tokenizer'."),
        ({"bos": 1}, "protocol: bos 1 is none of False, True, 'once', 'tokenizer'."),
        ({"score": "half"}, "protocol: score 'half' is none of 'all', 'second-half'."),
        ({"dtype": "int8"}, "protocol: dtype 'int8' is none of 'float32', 'float16', 'bfloat16', 'float64'."),
        ({"prepare": "html"}, "protocol: prepare 'html' is none of 'raw', 'wikitext-hf'."),
        ({"compute": "int4"}, "protocol: compute 'int4' is none of 'exact', 'int8'."),
    ],
)
def test_what_measures_nothing_is_refused(values: dict, text: str) -> None:
    with pytest.raises(TextError) as error:
        Protocol(**values)
    assert str(error.value) == text


def test_equal_measurements_have_equal_json_and_others_do_not() -> None:
    assert Protocol(window=256).to_json() == Protocol(window=256, stride=256).to_json()
    assert json.loads(Protocol(window=256).to_json())["stride"] == 256
    others = [
        Protocol(),
        *(
            Protocol(**change)
            for change in ({"window": 256}, {"stride": 8}, {"bos": True}, {"bos": "once"}, {"dtype": "float16"})
        ),
        *(Protocol(**change) for change in ({"score": "second-half"}, {"max_windows": 3}, {"prepare": "wikitext-hf"})),
        Protocol(compute="int8"),
        Protocol().bind("text", tiny_tokenizer()),
        Protocol().bind("Text", tiny_tokenizer()),
    ]
    assert len({protocol.to_json() for protocol in others}) == len(others)


def test_an_exact_protocol_reads_as_before_there_was_another_compute() -> None:
    assert Protocol(window=256, max_windows=3).to_json() == (
        '{"bos":false,"dtype":"float32","max_windows":3,"prepare":"raw","score":"all","stride":256,"window":256}'
    )
    assert json.loads(Protocol(compute="int8").to_json())["compute"] == "int8"


def test_a_bound_protocol_holds_the_hashes_of_text_and_tokenizer() -> None:
    tokenizer = tiny_tokenizer()
    bound = Protocol().bind("Ünder\n", tokenizer)
    assert bound.text_sha256 == hashlib.sha256("Ünder\n".encode()).hexdigest()
    assert bound.tokenizer_sha256 == tokenizer_sha256(tiny_tokenizer())
    padded = tiny_tokenizer()
    padded.pad_token = "</s>"
    padded(["a", "bc"], padding=True, truncation=True, max_length=2)  # leaves its state in the tokenizer
    assert tokenizer_sha256(padded) == bound.tokenizer_sha256
    padded.add_tokens(["kbit"])
    assert tokenizer_sha256(padded) != bound.tokenizer_sha256


def test_the_named_protocols_are_those_of_the_programs_they_are_named_after() -> None:
    assert PROTOCOLS["gptq"] == Protocol(2048, None, "once", "all", None, "float32", "wikitext-hf")
    assert PROTOCOLS["llama-perplexity"] == Protocol(512, None, "tokenizer", "second-half", None, "float32", "raw")


def test_gptqs_text_joins_the_rows_of_the_data_set() -> None:
    rows = ["", " = Title = \n", "", " Some words . \n", " More . \n", ""]  # as datasets.load_dataset gives them
    file = "".join(row or " \n" for row in rows)
    assert wikitext_hf(file) == "\n\n".join(rows)
    assert wikitext_hf("no line feed") == "no line feed"
    assert wikitext_hf("a\nrest") == "a\n\n\nrest"


@pytest.mark.assets
def test_gptqs_text_of_wikitext_2(assets) -> None:
    file = (assets / "eval" / "wikitext2_raw_test.txt").read_text(encoding="utf-8")
    assert wikitext_hf(file) == "\n\n".join("" if not line.strip() else line + "\n" for line in file.split("\n")[:-1])
