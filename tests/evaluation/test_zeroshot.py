"""Zero-shot tasks: accuracies equal their definition, computed row by row; faults of the data are named."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from kbit.errors import KbitError, TextError
from kbit.evaluation import TASKS, run_tasks
from kbit.models import load
from tests.tiny_models import tiny_model, tiny_tokenizer

ROWS = {
    "lambada": [
        {"context": context, "continuation": word}
        for context, word in [
            ("He went out of", "the"),
            ("I do not know what to", "do"),
            ("She did not know what it", "was"),
            ("It was the first time that he had", "been"),
            ("They went up to the", "house"),
            ("as soon as he could, and as well", "as"),
        ]
    ],
    "piqa": [
        {"query": "Question: How to open a door?\n", "choices": ["Turn the handle.", "Eat the handle with a spoon."], "gold": 0},
        {"query": "Question: cold hands\n", "choices": ["put them into ice and leave them there", "wear gloves"], "gold": 1},
        {"query": "Question: To cut bread\n", "choices": ["use a knife", "use the"], "gold": 1},
    ],
    "hellaswag": [
        {
            "query": "Cooking: A man stands in the kitchen. He",
            "choices": ["cuts a tree.", "is the man.", "stirs the soup.", "xqz."],
            "gold": 1,
        },
        {
            "query": "Reading: A girl takes a book and",
            "choices": ["reads it for a long time.", "it", "zz zz", "the of"],
            "gold": 3,
        },
    ],
    "winogrande": [
        {
            "context_options": ["The men saw the boys, so the men", "The men saw the boys, so the boys"],
            "continuation": "went away.",
            "gold": 1,
        },
        {
            "context_options": ["Anna thanked Mary as Anna", "Anna thanked Mary as Mary"],
            "continuation": "had helped her.",
            "gold": 1,
        },
        {"context_options": ["It was late and it", "It was late and xyzzy"], "continuation": "was cold.", "gold": 0},
    ],
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name, rows in ROWS.items():
        (tmp_path / f"{name}_few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


def test_there_is_a_test_for_every_task() -> None:
    assert set(TASKS) == set(ROWS)


@pytest.mark.slow
def test_accuracies_equal_their_definition(family: Path, data: Path) -> None:
    pytest.importorskip("lm_eval", reason="needs the extra kbit[eval]")
    model = load(family / "prose-276k")
    tokenizer = model.kbit_tokenizer

    def continued(context: str, continuation: str) -> tuple[float, bool]:
        """Log-likelihood of the continuation, and whether it is the greedy one."""
        whole, before = (tokenizer(text)["input_ids"] for text in (context + continuation, context))
        with torch.inference_mode():
            log_p = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        at = range(len(before), len(whole))
        return sum(float(log_p[i - 1, whole[i]]) for i in at), all(int(log_p[i - 1].argmax()) == whole[i] for i in at)

    def best(scores: list[float]) -> int:
        return scores.index(max(scores))

    right: dict[str, list[bool]] = {"lambada": [continued(r["context"], " " + r["continuation"])[1] for r in ROWS["lambada"]]}
    normed: dict[str, list[bool]] = {}
    for name, cue in {"piqa": "Answer:", "hellaswag": ""}.items():
        scores = [[continued(r["query"] + cue, f" {choice}")[0] for choice in r["choices"]] for r in ROWS[name]]
        lengths = [[len(choice) for choice in r["choices"]] for r in ROWS[name]]
        gold = [r["gold"] for r in ROWS[name]]
        right[name] = [best(s) == g for s, g in zip(scores, gold, strict=True)]
        normed[name] = [
            best([a / b for a, b in zip(s, n, strict=True)]) == g for s, n, g in zip(scores, lengths, gold, strict=True)
        ]
    right["winogrande"] = [
        best([continued(option, " " + r["continuation"])[0] for option in r["context_options"]]) == r["gold"]
        for r in ROWS["winogrande"]
    ]

    found = run_tasks(model, tokenizer, list(ROWS), data)
    assert list(found) == list(ROWS)
    for name, hits in right.items():
        assert found[name]["rows"] == len(hits)
        assert found[name]["acc"] == pytest.approx(sum(hits) / len(hits)), name
        if 0 < sum(hits) < len(hits):
            assert found[name]["acc_stderr"] > 0
    for name, hits in normed.items():
        assert found[name]["acc_norm"] == pytest.approx(sum(hits) / len(hits)), name
    assert any(0 < sum(hits) < len(hits) for hits in right.values())
    assert run_tasks(model, tokenizer, ["lambada"], data, limit=2)["lambada"]["rows"] == 2
    assert tokenizer.pad_token is None  # lm-eval sets one, on a copy


def test_without_lm_eval_the_extra_is_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(KbitError, match=r"^zero-shot tasks need lm-eval \(.*\)\. Install it: pip install 'kbit\[eval\]'\.$"):
        run_tasks(tiny_model("llama"), tiny_tokenizer(), ["piqa"], data)


def test_two_files_for_one_task_are_refused(data: Path) -> None:
    (data / "piqa2.jsonl").touch()
    with pytest.raises(TextError, match=r": piqa2\.jsonl and piqa_few\.jsonl both fit piqa\*\.jsonl\. Task piqa wants one,"):
        run_tasks(tiny_model("llama"), tiny_tokenizer(), ["piqa"], data)


@pytest.mark.parametrize("first", ["", "not json\n", "[1]\n", '{"query": "a", "choices": ["b"]}\n'])
def test_rows_of_another_shape_are_refused(data: Path, first: str) -> None:
    (data / "piqa_few.jsonl").write_text(first)
    with pytest.raises(TextError, match=r"piqa_few\.jsonl, line 1: task piqa wants a JSON object with query, choices, gold\.$"):
        run_tasks(tiny_model("llama"), tiny_tokenizer(), ["piqa"], data)
