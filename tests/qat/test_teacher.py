"""A teacher that is kept says what the teacher says, bit for bit, and is asked once for each batch."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import kbit
from kbit.qat import TrainPlan
from kbit.qat import teacher as teacher_module
from kbit.qat.teacher import MOST_BYTES, KeptTeacher, worth_keeping
from tests.tiny_models import tiny


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return kbit.load(tiny("llama-tied", tmp_path_factory.mktemp("llama"))).eval()


@pytest.mark.parametrize("bf16", [False, True])
@torch.no_grad()
def test_it_says_what_the_teacher_says_and_asks_once(teacher, tmp_path, monkeypatch, bf16):
    ids = torch.randint(0, teacher.config.vocab_size, (3, 16))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        said = teacher(input_ids=ids, use_cache=False).logits
        first = KeptTeacher(teacher, tmp_path / "kept")(input_ids=ids).logits
        assert first.dtype == (torch.bfloat16 if bf16 else torch.float32)
        assert torch.equal(first, said)
        (file,) = (tmp_path / "kept").iterdir()
        assert torch.equal(load_file(file)["logits"], said)
        silent = KeptTeacher(teacher, tmp_path / "kept")
        monkeypatch.setattr(silent, "teacher", None)
        assert torch.equal(silent(input_ids=ids).logits, said)
        with pytest.raises(TypeError):  # one row alone is another batch, and was not asked
            silent(input_ids=ids[:1])


def test_it_reads_as_its_teacher_does(teacher, tmp_path):
    kept = KeptTeacher(teacher, tmp_path / "kept")
    assert kept.config is teacher.config
    assert [id(p) for p in kept.parameters()] == [id(p) for p in teacher.parameters()]


@pytest.mark.parametrize(
    ("settings", "vocabulary", "worth"),
    [
        ({}, 1024, True),
        ({"cross_entropy": 1.0}, 1024, False),  # nobody is asked
        ({"precision": "bf16"}, MOST_BYTES // (4 * 8 * 128 * 2), True),
        ({"precision": "f32"}, MOST_BYTES // (4 * 8 * 128 * 2), False),
    ],
)
def test_it_is_kept_where_that_is_not_too_much(tmp_path, monkeypatch, settings, vocabulary, worth):
    plan = TrainPlan(steps=4, batch=8, window=128, **settings)
    monkeypatch.setattr(teacher_module.shutil, "disk_usage", lambda path: SimpleNamespace(free=2 * MOST_BYTES))
    assert worth_keeping(plan, vocabulary, tmp_path) == worth
    monkeypatch.setattr(teacher_module.shutil, "disk_usage", lambda path: SimpleNamespace(free=4 * 8 * 128 * vocabulary))
    assert not worth_keeping(plan, vocabulary, tmp_path)
