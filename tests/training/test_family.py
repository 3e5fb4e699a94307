"""A whole family trained on a few documents, interrupted, refused and read back by transformers."""

import json
import lzma

import pytest
import torch
from safetensors.torch import load_file

from kbit.errors import CheckpointError, KbitError, TextError
from kbit.training import FamilyPlan, family, train_family
from kbit.training.members import MEMBERS, Member


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    words = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "many", "small", "rivers", "run", "on"]
    documents = [" ".join(words[(i * 7 + j * j) % len(words)] for j in range(3000)) for i in range(10)]
    with lzma.open(folder / "a.jsonl.xz", "wt") as lines:
        lines.writelines(json.dumps({"text": text}) + "\n" for text in documents)
    (folder / "valid.jsonl").write_text(json.dumps({"text": "held out"}) + "\n")
    return folder


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(MEMBERS, "tiny", Member("tiny", layers=1, hidden=32, intermediate=32))
    return FamilyPlan(("tiny",), steps=16, batch=2, threads=1)


def test_finished_models_load_in_transformers_and_say_how_they_were_trained(tmp_path, texts, tiny):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folders = train_family(tiny, texts, tmp_path / "out", tmp_path / "state")
    assert sorted(f.name for f in folders) == ["tiny", "tiny-half", "tiny-quarter"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "tiny")
    assert model.config.tie_word_embeddings
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "tiny")
    assert tokenizer.decode(tokenizer("a lazy dog")["input_ids"]) == "a lazy dog"
    record = json.loads((tmp_path / "out" / "tiny-half" / "training.json").read_text())
    assert record["training_tokens"] == tiny.tokens // 2
    assert load_file(tmp_path / "out" / "tiny" / "model.safetensors")["model.norm.weight"].dtype == torch.bfloat16


def test_the_same_plan_gives_the_same_bytes_and_another_seed_others(tmp_path, texts, tiny):
    for name in ("first", "again"):
        train_family(tiny, texts, tmp_path / name, tmp_path / f"{name}-state")
    other = FamilyPlan(("tiny",), seeds=(1,), steps=16, batch=2, threads=1)
    train_family(other, texts, tmp_path / "first", tmp_path / "first-state")
    weights = [(tmp_path / path / "model.safetensors").read_bytes() for path in ("first/tiny", "again/tiny", "first/tiny-seed-1")]
    assert weights[0] == weights[1] != weights[2]


def test_what_is_finished_is_not_trained_again(tmp_path, texts, tiny, monkeypatch):
    train_family(tiny, texts, tmp_path / "out", tmp_path / "state")
    monkeypatch.setattr(family, "run_leg", lambda *args, **kwargs: pytest.fail("trained again"))
    assert len(train_family(tiny, texts, tmp_path / "out", tmp_path / "state")) == 3


def test_a_state_of_another_plan_is_refused(tmp_path, texts, tiny):
    train_family(tiny, texts, tmp_path / "out", tmp_path / "state")
    with pytest.raises(CheckpointError, match=r"was begun with .*'steps': 16.* is now asked for .*'steps': 32"):
        train_family(FamilyPlan(("tiny",), steps=32, batch=2, threads=1), texts, tmp_path / "out", tmp_path / "state")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"members": ("prose-1t",)}, "size 'prose-1t' is not in the family. Choose from prose-94k"),
        ({"steps": 100}, "100 steps: take a multiple of 16"),
        ({"precision": "f8"}, "precision 'f8' is not known. Choose f32 or bf16"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(KbitError, match=message):
        FamilyPlan(**arguments)


def test_a_folder_without_documents_is_refused(tmp_path, tiny):
    with pytest.raises(TextError, match=r"no \*.jsonl"):
        train_family(tiny, tmp_path, tmp_path / "out", tmp_path / "state")


def test_a_line_without_text_is_named(tmp_path, tiny):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"title": "no text"}\n')
    with pytest.raises(TextError, match=r"a.jsonl, line 2: no JSON object with a 'text'"):
        train_family(tiny, tmp_path, tmp_path / "out", tmp_path / "state")
