"""qat_checkpoint: from a folder to a kbit checkpoint that says and does what was trained."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch

import kbit
from kbit.errors import CheckpointError, ModelError
from kbit.models import KbitLinear
from kbit.qat import METHOD, TrainPlan, checkpoint, prepare_qat, qat_checkpoint
from kbit.qat.state import load_weights
from kbit.recipes import Recipe, total_bits
from tests.tiny_models import TINY

PLAN = TrainPlan(steps=4, batch=2, window=24, check_every=2, held_out=2)


@pytest.fixture(scope="module")
def text_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(f"line {i} says that {i * i} is the square of {i}." for i in range(300)))
    return path


def size_on_disk(folder):
    """Bytes of the tensors: the files less their headers."""
    total = 0
    for path in folder.glob("*.safetensors"):
        header = int.from_bytes(path.read_bytes()[:8], "little")
        total += path.stat().st_size - 8 - header
    return total


@pytest.mark.parametrize("name", TINY)
def test_the_checkpoint_gives_the_logits_of_the_trained_model(name, written, text_file, tmp_path, monkeypatch):
    kept = []
    write = checkpoint.write_checkpoint
    monkeypatch.setattr(checkpoint, "write_checkpoint", lambda model, *a, **k: (kept.append(model), write(model, *a, **k)))
    found = qat_checkpoint(written(name), "int3-b16", tmp_path / "out", text=text_file, plan=PLAN)
    (trained,) = kept
    ids = torch.arange(40).view(2, 20)
    with torch.no_grad():
        small = kbit.load(tmp_path / "out")
        torch.testing.assert_close(
            small(input_ids=ids, use_cache=False).logits, trained(input_ids=ids, use_cache=False).logits, rtol=1e-5, atol=2e-5
        )
    assert found.bits == total_bits(kbit.load(written(name)), Recipe("int3-b16", method=METHOD))
    assert found.bits.total_bytes == size_on_disk(tmp_path / "out")


def test_another_model_may_teach(written, text_file, tmp_path):
    """llama-tied has the tokenizer of llama; a copy with another word in it has not."""
    taught = qat_checkpoint(
        written("llama"), "int2-b16", tmp_path / "out", text=text_file, plan=PLAN, teacher=written("llama-tied")
    )
    assert taught.to_json()["teacher"] == str(written("llama-tied"))
    assert json.loads((tmp_path / "out" / "training.json").read_text())["qat"]["teacher"] == written("llama-tied").name
    alone = qat_checkpoint(written("llama"), "int2-b16", tmp_path / "alone", text=text_file, plan=PLAN)
    assert (taught.loss_16_bits, taught.loss_before) == (alone.loss_16_bits, alone.loss_before)
    assert taught.loss != alone.loss
    stranger = tmp_path / "stranger"
    shutil.copytree(written("llama-tied"), stranger)
    words = (stranger / "tokenizer.json").read_text()
    (stranger / "tokenizer.json").write_text(words.replace('"e"', '"eeee"'))
    with pytest.raises(ModelError, match="the teacher has another tokenizer than the model"):
        qat_checkpoint(written("llama"), "int2-b16", tmp_path / "other", text=text_file, plan=PLAN, teacher=stranger)


def test_training_json_says_what_was_done(written, text_file, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for path in written("llama").iterdir():
        os.link(path, source / path.name)
    (source / "training.json").write_text(json.dumps({"family": "tiny", "training_tokens": 1000, "seed": 3, "steps": 7}))
    found = qat_checkpoint(source, "int3-b16", tmp_path / "out", text=text_file, plan=PLAN)
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert (record["family"], record["training_tokens"], record["seed"]) == ("tiny", 1000, 3)
    assert record["qat_tokens"] == found.tokens == 4 * 2 * 24
    assert record["qat"]["step"] == found.step
    assert record["qat"]["rate"] == pytest.approx(found.plan.rate)
    assert "steps" not in record


def test_a_recipe_with_exceptions_is_written_as_it_says(written, text_file, tmp_path):
    recipe = Recipe("int2-b16", method=METHOD, embeddings="bf16", layers={"*.down_proj": "ternary-b64"}, keep=("*.layers.0.*",))
    qat_checkpoint(written("llama-tied"), recipe, tmp_path / "out", text=text_file, plan=PLAN)
    model = kbit.load(tmp_path / "out")
    assert not isinstance(model.model.layers[0].mlp.up_proj, KbitLinear)
    assert str(model.model.layers[1].mlp.down_proj.packed.fmt) == "ternary-b64"
    assert str(model.model.layers[1].mlp.up_proj.packed.fmt) == "int2-b16"


def test_the_state_goes_when_the_checkpoint_is_there(written, text_file, tmp_path):
    qat_checkpoint(written("llama"), "int3-b16", tmp_path / "out", text=text_file, plan=PLAN)
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    with pytest.raises(CheckpointError, match="exists and is not empty"):
        qat_checkpoint(written("llama"), "int3-b16", tmp_path / "out", text=text_file, plan=PLAN)


def test_the_best_weights_are_written(written, text_file, tmp_path, monkeypatch):
    """Whatever comes after: a rate so high that every step is worse leaves the model as it was before the first."""
    plan = TrainPlan(**{**PLAN.to_dict(), "rate": 10.0})
    found = qat_checkpoint(written("llama"), "int4-b16", tmp_path / "out", text=text_file, plan=plan)
    teacher = kbit.load(written("llama"))
    ids = torch.arange(40).view(2, 20)
    assert found.step == 0
    with torch.no_grad():
        before = prepare_qat(teacher, "int4-b16")(input_ids=ids).logits
        torch.testing.assert_close(kbit.load(tmp_path / "out")(input_ids=ids).logits, before, rtol=1e-5, atol=2e-5)


def test_where_training_stops_the_last_good_weights_are_written_and_the_state_stays(written, text_file, tmp_path, monkeypatch):
    from kbit.qat import train

    loss = train._Training.loss
    monkeypatch.setattr(train._Training, "loss", lambda self, *a: loss(self, *a) * (float("nan") if self.step == 3 else 1))
    found = qat_checkpoint(written("llama"), "int3-b16", tmp_path / "out", text=text_file, plan=PLAN)
    assert found.stopped.startswith("the loss of step 4 is nan")
    assert "the loss of step 4" in found.to_json()["stopped"]
    assert (tmp_path / "out" / "model.safetensors").exists()
    model = prepare_qat(kbit.load(written("llama")), "int3-b16")
    load_weights(tmp_path / "out.training" / "best.safetensors", model)


def test_the_result_says_how_much_of_the_cost_came_back(written, text_file, tmp_path):
    found = qat_checkpoint(written("llama"), "int3-b16", tmp_path / "out", text=text_file, plan=PLAN)
    said = found.to_json()
    assert said["loss_before"] == found.held_out[0][1]
    assert said["closed"] == pytest.approx((said["loss_before"] - said["loss"]) / (said["loss_before"] - said["loss_16_bits"]))
    assert said["tokens"] == 192


def test_a_quantized_model_is_refused(written, text_file, tmp_path):
    kbit.quantize_checkpoint(written("llama"), "int4-b16", tmp_path / "small")
    with pytest.raises(ModelError, match=r"is quantized already\. Train the model that it was made from"):
        qat_checkpoint(tmp_path / "small", "int3-b16", tmp_path / "out", text=text_file, plan=PLAN)


def test_a_window_longer_than_the_context_is_refused(written, text_file, tmp_path):
    with pytest.raises(ModelError, match="the window is 4096 tokens, the model's context 128"):
        qat_checkpoint(written("llama"), "int3-b16", tmp_path / "out", text=text_file, plan=TrainPlan(steps=1, window=4096))
