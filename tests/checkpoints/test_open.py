"""open_checkpoint finds what the user named: folders, files, hub ids; and says what is wrong with the rest."""

import json

import huggingface_hub.constants
import pytest

from kbit.checkpoints import hub, open_checkpoint
from kbit.errors import CheckpointError
from tests.checkpoints.gguf_files import model_to_gguf
from tests.hostile.reading import read_all
from tests.tiny_models import tiny_llama, tiny_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """A cache of the hub that holds the tiny Llama as owner/tiny, and no network."""
    home = tmp_path / "cache" / "models--owner--tiny"
    tiny_llama(home / "snapshots" / COMMIT)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return home


def test_a_model_in_the_hubs_cache_is_opened_without_network(hub_cache):
    checkpoint = open_checkpoint("owner/tiny")
    assert checkpoint.kind == "huggingface"
    assert len(read_all(checkpoint)) == len(tiny_model("llama").state_dict())
    assert open_checkpoint("owner/tiny", revision=COMMIT).fingerprint() == checkpoint.fingerprint()


@pytest.mark.parametrize(("name", "revision"), [("owner/absent", None), ("absent", None), ("owner/tiny", "no-such-branch")])
def test_a_model_that_the_hub_does_not_give_is_an_error_of_one_line(name, revision, hub_cache):
    with pytest.raises(
        CheckpointError, match=rf"^{name}: is no path here, and the hub does not give it \(.*\). Check the name"
    ) as caught:
        open_checkpoint(name, revision=revision)
    assert "\n" not in str(caught.value)


def test_only_safetensors_settings_and_tokenizers_are_fetched(monkeypatch, tmp_path):
    asked = {}
    monkeypatch.setattr(
        hub, "snapshot_download", lambda name, **wanted: asked.update(wanted, name=name) or str(tiny_llama(tmp_path / "m"))
    )
    open_checkpoint("owner/model", revision="abc")
    assert (asked["name"], asked["revision"]) == ("owner/model", "abc")
    files = ["model.safetensors", "config.json", "tokenizer.model", "merges.txt", "chat_template.jinja"]
    refused = ["pytorch_model.bin", "modeling_evil.py", "original/a.safetensors", "onnx/config.json", "model.pt", "weights.pkl"]
    kept = huggingface_hub.utils.filter_repo_objects(
        files + refused, allow_patterns=asked["allow_patterns"], ignore_patterns=asked["ignore_patterns"]
    )
    assert list(kept) == files


@pytest.mark.parametrize("name", ["./gone", "/gone", "a/b/c", "../x", "a b", "", "owner/..", "~/gone"])
def test_what_is_no_path_and_no_hub_id_is_not_asked_for(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(CheckpointError, match=r"does not exist, and is no hub id|holds no config.json"):
        open_checkpoint(name)


def test_a_path_object_is_never_a_hub_id(monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(CheckpointError, match="does not exist"):
        open_checkpoint(tmp_path / "gone")


def test_a_folder_with_one_gguf_file_stands_for_it(tmp_path):
    path = model_to_gguf(tmp_path / "a.gguf", tiny_model("llama"), "llama")
    assert open_checkpoint(tmp_path).fingerprint() == open_checkpoint(path).fingerprint()
    path.rename(tmp_path / "weights")  # known by its first bytes, whatever its name
    assert open_checkpoint(tmp_path / "weights").kind == "gguf"


def test_a_folder_with_several_gguf_files_asks_which(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"holds 2 GGUF files \(a.gguf, b.gguf\). Name one of them."):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pytorch_model.bin", "looks like a pickle, which can run any code when read"),
        ("model.safetensors", "is one file of a model. Give the folder"),
        ("config.json", "is one file of a model. Give the folder"),
        ("notes.md", "is no GGUF file. Give a GGUF file, or a folder"),
        ("broken.gguf", "does not start with GGUF"),
    ],
)
def test_a_file_that_is_no_model_is_refused_with_advice(name, text, tmp_path):
    (tmp_path / name).write_text(json.dumps({}))
    with pytest.raises(CheckpointError, match=text):
        open_checkpoint(tmp_path / name)
