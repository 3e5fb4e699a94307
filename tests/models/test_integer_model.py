"""A fixed-point checkpoint as a model: loaded, evaluated, read on; and the same integers on every machine."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import kbit
from kbit import kernels
from kbit.checkpoints import open_checkpoint
from kbit.errors import CheckpointError, FixedPointError, ModelError
from kbit.evaluation import Protocol, evaluate
from kbit.models.integer_model import IntegerModel, IntegerReader, watch
from kbit.models.reading import bytes_per_token, context_of, open_reader, vocabulary_of, way_of
from tests.models.integer_models import ids_of
from tests.models.make_integer_models import STORED, TOKENS, sha256_of
from tests.tiny_models import tiny_model, tiny_tokenizer

MODELS = sorted(folder.name for folder in STORED.iterdir())


def stored(name):
    """Ids and the SHA-256 of the logits that another machine had for them."""
    entry = json.loads((STORED / name / "logits.json").read_text())
    return torch.tensor([entry["ids"]]), entry["sha256"]


@pytest.mark.parametrize("name", MODELS)
def test_the_logits_are_those_of_every_machine(name):
    """One hash, stored in the repository: kbit.fixedpoint's own operators, watched, and the native kernels on each instruction
    set with one and two threads.
    """
    ids, expected = stored(name)
    assert ids.shape == (1, TOKENS)
    model = kbit.load(STORED / name)
    assert isinstance(model, IntegerModel)
    before, threads = kernels.isa(), torch.get_num_threads()
    try:
        for isa in kernels.isas():
            if not isa.runs:
                continue
            kernels.set_isa(isa.name)
            for count in (1, 2):
                torch.set_num_threads(count)
                assert sha256_of(model.integer_logits(ids)[0]) == expected, (isa.name, count)
    finally:
        torch.set_num_threads(threads)
        kernels.set_isa(before)
    watch(model)
    assert sha256_of(model.integer_logits(ids)[0]) == expected


@pytest.mark.parametrize("watched", [False, True])
def test_a_reader_goes_on_where_it_was(watched):
    ids, expected = stored("gpt2-w6a6")
    model = kbit.load(STORED / "gpt2-w6a6")
    model.check_integer = watched
    reader = open_reader(model, TOKENS)
    assert isinstance(reader, IntegerReader)
    assert way_of(reader) == ("reference" if watched else "native")
    parts = ids[0].split(10 if watched else 1)
    assert sha256_of(torch.cat([reader.read(part, every=True) for part in parts])) == expected
    reader.rewind(90)
    last = reader(ids[0, 90:])
    reader.rewind(50)
    assert torch.equal(reader(ids[0, 50:]), last)
    with pytest.raises(ModelError, match=r"100 \+ 1 tokens do not fit the 100 that were asked for"):
        reader(ids[0, :1])


def test_logits_are_the_integers_times_their_scale():
    model = kbit.load(STORED / "llama-w4a8")
    ids = ids_of(n=20)
    integers = model.integer_logits(ids)
    assert integers.dtype == torch.int32
    assert integers.abs().max() < 2**24  # so that float32 is exact
    expected = integers.double() * 2.0**-model.program.logits_shift
    assert torch.equal(model(input_ids=ids, use_cache=False).logits.double(), expected)


def test_it_is_evaluated_as_any_model():
    model = kbit.load(STORED / "gpt2-w6a6")
    text = "It was a bright cold day in April, and the clocks were striking thirteen. " * 8
    how = {"tokenizer": tiny_tokenizer(), "protocol": Protocol(window=64, max_windows=3)}
    one, three = (evaluate(model, text, batch_size=n, **how) for n in (1, 3))
    assert one.perplexity == three.perplexity
    watch(model)
    assert evaluate(model, text, **how).perplexity == one.perplexity
    with pytest.raises(ModelError, match="no layer is packed"):
        evaluate(model, text, tokenizer=tiny_tokenizer(), protocol=Protocol(window=64, compute="int8"))


def test_it_says_its_sizes():
    model = kbit.load(STORED / "llama-w4a8")
    assert (vocabulary_of(model), context_of(model)) == (1024, 256)
    on_disk = open_checkpoint(STORED / "llama-w4a8")
    assert model.sizes["total_bytes"] == sum(on_disk.nbytes(name) for name in on_disk.names)
    assert bytes_per_token(model) == sum(weight.nbytes for weight in model.program.weights)  # its head is the embedding
    # 4 bits, 8 for each 64 and 16 a row: rows of 64 and 160
    assert 4 + 8 / 64 + 16 / 160 < model.sizes["bits_per_weight"] < 4 + 8 / 64 + 16 / 64 + 0.2


def test_a_float_that_is_planted_is_caught(monkeypatch):
    model = kbit.load(STORED / "gpt2-w6a6")
    monkeypatch.setattr("kbit.models.integer_run.embed", lambda ids, weight: (ids[..., None] * 0.5).int().expand(-1, -1, 32))
    model.integer_logits(ids_of(n=5))  # the native kernels do not pass there
    watch(model)
    with pytest.raises(FixedPointError, match=r"takes the number 0\.5 in test_integer_model\.py"):
        model.integer_logits(ids_of(n=5))


def test_floats_are_not_to_be_had():
    said = "is a model of integers alone; kbit eval, kbit generate and kbit.load run it. For floats take the model"
    with pytest.raises(ModelError, match=said):
        kbit.load(STORED / "llama-w4a8", packed=False)
    with pytest.raises(ModelError, match="is a model of floats, so there is nothing to check"):
        watch(tiny_model("llama"))


def test_without_kbit_it_does_not_load():
    for name in MODELS:
        with pytest.raises(Exception, match=r"kbit|size mismatch|mismatched"):
            AutoModelForCausalLM.from_pretrained(STORED / name)


def copied(tmp_path: Path) -> Path:
    """A copy of a stored model, to be damaged."""
    return shutil.copytree(STORED / "gpt2-w6a6", tmp_path / "model")


def test_a_changed_program_is_found_out(tmp_path):
    folder = copied(tmp_path)
    before = open_checkpoint(folder).fingerprint()
    program = folder / "fixed_point.json"
    program.write_text(program.read_text().replace('"positions": 128', '"positions": 127'))
    with pytest.raises(CheckpointError, match=r"lacks the file 'fixed_point\.json', or it is not the one that config\.json"):
        kbit.load(folder)
    program.unlink()
    with pytest.raises(CheckpointError, match=r"lacks the file 'fixed_point\.json'"):
        kbit.load(folder)
    assert open_checkpoint(folder).fingerprint() == before  # that of what config.json says; the steps are held against it


def test_a_wrong_program_is_refused_before_it_runs(tmp_path):
    folder = copied(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    program = (folder / "fixed_point.json").read_text().replace('"numbers": [0, 8]', '"numbers": [7, 8]')
    (folder / "fixed_point.json").write_text(program)
    config["quantization_config"]["fixed_point"]["sha256"] = hashlib.sha256(program.encode()).hexdigest()
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"its program is wrong: step \d+ \(store\): it has no layer of the cache"):
        kbit.load(folder)
    config["quantization_config"]["fixed_point"] = {"program": "../other.json", "sha256": ""}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"a fixed_point that is not the file fixed_point\.json with its SHA-256"):
        kbit.load(folder)


def test_a_checkpoint_without_a_generation_config_generates(tmp_path):
    folder = shutil.copytree(STORED / MODELS[0], tmp_path / "model")
    (folder / "generation_config.json").unlink(missing_ok=True)
    generation = kbit.generate(kbit.load(folder), [1, 2, 3], max_tokens=4)
    assert len(list(generation)) <= 4
    assert generation.finish in ("length", "eos")
