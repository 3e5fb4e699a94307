"""CheckpointWriter: what transformers and the safetensors library read back, aligned, whole, or not there at all."""

import errno
import json
import os
import resource
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from kbit.checkpoints import CheckpointWriter, copy_companions, open_checkpoint, writer
from kbit.checkpoints.layout import ALIGNMENT, Plan, lay_out
from kbit.checkpoints.safetensors_header import DTYPE_NAMES, read_header
from kbit.errors import CheckpointError
from tests.checkpoints.kbit_folders import packed_random, two_modules, write_modules
from tests.hostile.reading import read_all
from tests.tiny_models import tiny_llama, tiny_model


def copy(source: Path, out: Path, **options: int) -> Path:
    """Write the tensors of `source` as they are, in reverse order."""
    checkpoint = open_checkpoint(source)
    with CheckpointWriter(out, checkpoint.config, **options) as writer:
        for name in checkpoint.names:
            writer.declare(name, checkpoint.dtype(name), checkpoint.shape(name))
        for name in reversed(checkpoint.names):
            writer.add(name, checkpoint.read(name))
        copy_companions(checkpoint, writer.folder)
    return out


@pytest.mark.parametrize("shard_bytes", [10**9, 20_000, 1])
def test_transformers_reads_what_is_written(shard_bytes, tmp_path):
    source = tiny_llama(tmp_path / "a")
    out = copy(source, tmp_path / "b", shard_bytes=shard_bytes)
    state, expected = AutoModelForCausalLM.from_pretrained(out).state_dict(), tiny_model("llama").state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    assert open_checkpoint(out).fingerprint() == open_checkpoint(source).fingerprint()
    assert "quantization_config" not in open_checkpoint(out).config


def test_shards_hold_no_more_than_they_may(tmp_path):
    out = copy(tiny_llama(tmp_path / "a"), tmp_path / "b", shard_bytes=20_000)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    shards = sorted(out.glob("*.safetensors"))
    assert [shard.name for shard in shards] == [
        f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)
    ]
    sizes = [[entry.nbytes for entry in read_header(shard).values()] for shard in shards]
    assert all(sum(of_shard) <= 20_000 or len(of_shard) == 1 for of_shard in sizes)
    assert index["metadata"]["total_size"] == sum(map(sum, sizes))


def test_every_dtype_an_empty_and_a_scalar_are_written(tmp_path):
    tensors = {str(dtype): torch.zeros(3, 5).to(dtype) for dtype in DTYPE_NAMES if dtype != torch.float8_e8m0fnu}
    tensors |= {"scalar": torch.tensor(2.5), "none": torch.empty(0, 3), "view": torch.arange(12.0).view(3, 4).T}
    with CheckpointWriter(tmp_path / "m", {}) as writer:
        for name, tensor in tensors.items():
            writer.declare(name, tensor.dtype, tuple(tensor.shape))
        for name, tensor in tensors.items():
            writer.add(name, tensor)
    loaded = load_file(tmp_path / "m" / "model.safetensors")
    assert all(torch.equal(loaded[name], tensor) and loaded[name].dtype == tensor.dtype for name, tensor in tensors.items())


drawn = st.lists(st.tuples(st.sampled_from(["U8", "F16", "F32"]), st.integers(0, 200), st.booleans()), max_size=20)


def plans_of(drawn: list[tuple[str, int, bool]]) -> list[Plan]:
    """Plain tensors of any size, and packed parts of whole cache lines, up to three to a group."""
    return [
        Plan(f"t{i}", dtype, (n * 64 if packed else n,), f"g{i // 3}" if packed else None)
        for i, (dtype, n, packed) in enumerate(drawn)
    ]


@settings(max_examples=200, deadline=None)
@given(drawn.map(plans_of), st.integers(1, 30_000))
def test_packed_parts_begin_at_whole_cache_lines_and_no_byte_is_left_over(plans, shard_bytes):
    seen = set()
    for shard in lay_out(plans, shard_bytes):
        of_shard = [plan for plan in plans if plan.name in shard.offsets]
        assert len(shard.header) % ALIGNMENT == 0
        assert shard.size == len(shard.header) + sum(plan.nbytes for plan in of_shard)
        assert all(shard.offsets[plan.name] % ALIGNMENT == 0 for plan in of_shard if plan.group)
        assert seen.isdisjoint(shard.offsets)
        assert seen.isdisjoint({plan.group for plan in of_shard} - {None})  # a packed weight stays in one file
        seen |= set(shard.offsets) | {plan.group for plan in of_shard}
    assert {plan.name for plan in plans} <= seen


def test_mapped_codes_are_aligned_in_memory(tmp_path):
    packed = {
        f"m{i}": packed_random(text, (17 + i, 70))
        for i, text in enumerate(["nf4-b64", "int3-b32-asym", "kmeans5-row", "int8-b16-s8"])
    }
    checkpoint = open_checkpoint(write_modules(tmp_path / "m", packed))
    for key in packed:
        assert all(part.data_ptr() % ALIGNMENT == 0 for part in checkpoint.read_packed(key).parts().values())


def test_an_empty_folder_is_filled_and_another_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    two_modules(tmp_path / "empty")
    with pytest.raises(CheckpointError, match=r"empty: exists and is not empty. Name a new folder, or empty this one."):
        two_modules(tmp_path / "empty")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointError, match=r"file: exists and is a file. Name a new folder."):
        two_modules(tmp_path / "file")
    with pytest.raises(CheckpointError, match=r"writing 0.000 GB failed \(.*\). Free space or name another folder"):
        two_modules(tmp_path / "file" / "inside")
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, CheckpointError])
def test_nothing_is_left_after_an_error(error, tmp_path):
    def fail() -> None:
        with CheckpointWriter(tmp_path / "m", {}) as writer:
            writer.declare("x", torch.float32, (4,))
            writer.add("x", torch.ones(4))
            raise error

    with pytest.raises(error):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_tensor_that_never_came_is_our_bug_and_leaves_nothing(tmp_path):
    def forget() -> None:
        with CheckpointWriter(tmp_path / "m", {}) as writer:
            writer.declare("x", torch.float32, (4,))

    with pytest.raises(AssertionError, match=r"declared and never added: \['x'\]"):
        forget()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["posix_fallocate", "write_all", "fsync", "replace"])
def test_a_full_disk_is_an_error_of_one_line_and_leaves_nothing(what, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if what == "write_all":
        monkeypatch.setattr(writer, "write_all", full)
    else:
        monkeypatch.setattr(writer.os, what, full)
    with pytest.raises(CheckpointError, match=r"m: writing 0.\d+ GB failed \(No space left on device\). Free"):
        two_modules(tmp_path / "m")
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_a_true_limit_on_the_size_of_files_is_met_before_the_work(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with CheckpointWriter(tmp_path / "m", {}) as writer:
            writer.declare("small", torch.float32, (4,))
            writer.declare("large", torch.float32, (100, 1000))
            with pytest.raises(CheckpointError, match=r"writing 0.000 GB failed \(File too large\)") as caught:
                writer.add("small", torch.ones(4))
            raise caught.value
    except CheckpointError:
        pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_keys_that_run_code_are_not_written(tmp_path):
    with CheckpointWriter(tmp_path / "m", {"model_type": "x", "auto_map": {"AutoModel": "evil.py"}}) as writer:
        writer.declare("x", torch.float32, (1,))
        writer.add("x", torch.ones(1))
    assert json.loads((tmp_path / "m" / "config.json").read_text()) == {"model_type": "x"}


def peak_rss() -> int:
    """Bytes of memory at the highest since the last restart."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not restart the count of peak memory")
def test_memory_holds_one_tensor_at_a_time(tmp_path):
    size, count = 34 << 20, 6  # bytes of a tensor (above 32 MiB the allocator returns what is freed at once), tensors
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_rss()
    with CheckpointWriter(tmp_path / "m", {}) as writer:
        for i in range(count):
            writer.declare(f"t{i}", torch.float32, (size // 4,))
        for i in range(count):
            writer.add(f"t{i}", torch.full((size // 4,), float(i)))
    checkpoint = open_checkpoint(tmp_path / "m")
    assert [float(checkpoint.read(name)[-1]) for name in checkpoint.names] == list(range(count))
    checkpoint.fingerprint()
    assert peak_rss() - before < 2.5 * size


def test_a_copy_has_the_tokenizer_but_no_code(tmp_path):
    source = tiny_llama(tmp_path / "a")
    (source / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": "evil.py"}, "bos_token": "<s>"}))
    (source / "modeling_evil.py").write_text("raise SystemExit")
    (source / "training.json").write_text("{}")
    out = copy(source, tmp_path / "b")
    assert {path.name for path in out.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert json.loads((out / "tokenizer_config.json").read_text()) == {"bos_token": "<s>"}
    assert read_all(out).keys() == tiny_model("llama").state_dict().keys()
