"""Packed layers stand in for those of transformers: same outputs to rounding, same names, ties kept, and no floats held."""

from __future__ import annotations

import copy
import io
import json
import pickle
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, safe_open
from torch import nn
from transformers.pytorch_utils import Conv1D

from kbit.errors import CheckpointError, ModelError
from kbit.models import (
    KbitEmbedding,
    KbitLinear,
    computing,
    dequantized,
    load,
    packed_layers,
    parameters,
    parameters_linear,
    set_floats,
    walk,
)
from kbit.packed import PackedWeight
from kbit.recipes import quantize, quantize_checkpoint
from tests.tiny_models import TINY, tiny_model

IDS = torch.arange(40)[None] % 256


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


@pytest.fixture(scope="session")
def quantized(written, tmp_path_factory):
    """The folder of a tiny model in nf4-b32, embeddings int8-row, by its name in TINY; not to be changed."""
    folders = {}

    def folder(name):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name) / "quantized"
            quantize_checkpoint(written(name), "nf4-b32", folders[name])
        return folders[name]

    return folder


def assert_near(a, b):
    """Equal to float rounding, through all layers of a model."""
    torch.testing.assert_close(a, b, rtol=0, atol=2e-4 * float(b.abs().max()))


@pytest.mark.parametrize("name", TINY)
def test_a_packed_model_is_the_dequantized_one(name, quantized):
    packed, floats = load(quantized(name)), load(quantized(name), packed=False)
    assert_near(logits(packed), logits(floats))
    assert parameters(packed) == parameters(floats)
    assert parameters_linear(packed) == parameters_linear(floats)
    assert not packed_layers(floats)
    tied = floats.get_output_embeddings().weight is floats.get_input_embeddings().weight
    assert (packed.get_output_embeddings().weight is packed.get_input_embeddings().weight) == tied
    for key, module in packed.named_modules():
        if type(module) in (nn.Linear, Conv1D, nn.Embedding):  # what is left as it was: routers, positions
            assert not isinstance(module.weight, PackedWeight)
            assert torch.equal(module.weight, floats.get_submodule(key).weight)


@pytest.mark.parametrize("name", TINY)
def test_dequantized_gives_back_the_modules_of_transformers(name, quantized):
    packed, floats = load(quantized(name)), load(quantized(name), packed=False)
    again = dequantized(copy.deepcopy(packed))
    assert {key: type(module) for key, module in again.named_modules()} == {
        key: type(module) for key, module in floats.named_modules()
    }
    for (key, ours), (other, theirs) in zip(again.named_parameters(), floats.named_parameters(), strict=True):
        assert key == other
        assert torch.equal(ours, theirs), key
    assert packed_layers(packed)


@pytest.mark.parametrize("name", ["llama-tied", "gpt2", "falcon", "gemma3", "mixtral", "opt"])
def test_a_model_packed_in_memory_is_the_checkpoint(name, quantized):
    small = quantize(tiny_model(name), "nf4-b32", packed=True)
    assert torch.equal(logits(small), logits(load(quantized(name))))
    assert_near(logits(small), logits(quantize(tiny_model(name), "nf4-b32")))
    for packed in (small, load(quantized(name))):
        assert torch.equal(logits(quantize(packed, "int2-b64")), logits(quantize(dequantized(copy.deepcopy(packed)), "int2-b64")))


@pytest.mark.parametrize("name", ["llama-tied", "gpt2", "gemma2"])
def test_generate_writes_the_same_tokens(name, quantized):
    how = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    packed, floats = load(quantized(name)), load(quantized(name), packed=False)
    assert torch.equal(packed.generate(IDS[:, :5], **how), floats.generate(IDS[:, :5], **how))
    with computing(packed, "int8"):
        assert packed.generate(IDS[:, :5], **how).shape == (1, 17)


def test_int8_is_near_exact_and_only_for_a_while(quantized):
    model = load(quantized("llama"))
    exact = logits(model)
    with computing(model, "int8"):
        rounded = logits(model)
    assert torch.equal(logits(model), exact)
    error = float((rounded - exact).norm() / exact.norm())
    assert 1e-4 < error < 0.05
    with pytest.raises(ModelError, match=r"compute 'int4' is not to be had\. Write exact or int8"), computing(model, "int4"):
        pass
    with (
        pytest.raises(ModelError, match="no layer is packed, so none can compute in int8"),
        computing(tiny_model("llama"), "int8"),
    ):
        pass


def test_a_state_holds_the_bytes_of_the_file(quantized):
    folder = quantized("llama-tied")
    stored, state = load_file(folder / "model.safetensors"), load(folder).state_dict()
    assert state.keys() - stored.keys() == {name for name in state if name.startswith("lm_head.")}  # tied: the table's own
    assert not stored.keys() - state.keys()
    for name, tensor in stored.items():
        assert torch.equal(state[name].float(), tensor.float()), name
        assert state[name].numel() == tensor.numel()
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert state["model.layers.0.mlp.up_proj.weight"].shape == tuple(
            file.get_slice("model.layers.0.mlp.up_proj.weight").get_shape()
        )


def test_a_state_is_taken_back_and_a_wrong_one_is_not(quantized):
    one, other = load(quantized("llama")), quantize(tiny_model("llama", seed=3), "nf4-b32", packed=True)
    assert not torch.equal(logits(one), logits(other))
    one.load_state_dict(other.state_dict())
    assert torch.equal(logits(one), logits(other))
    layer = one.model.layers[0].mlp.up_proj
    state = layer.state_dict()
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"weight_scale\""):
        layer.load_state_dict({"weight": state["weight"]})
    with pytest.raises(RuntimeError, match="are missing, left over or of the wrong size"):
        layer.load_state_dict(state | {"weight": state["weight"][:-1]})
    with pytest.raises(RuntimeError, match="its scale is not finite"):
        layer.load_state_dict(state | {"weight_scale": state["weight_scale"] * torch.inf})
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        nn.Linear(32, 48, bias=False).load_state_dict(state)


def test_casts_copies_and_pickles(quantized):
    model = load(quantized("gpt2"))
    copied = copy.deepcopy(model)
    layer, same = model.transformer.h[0].mlp.c_fc, copied.transformer.h[0].mlp.c_fc
    assert same is not layer
    assert same.packed is layer.packed  # the map of the file
    assert same.bias is not layer.bias
    assert copied.lm_head.weight is copied.transformer.wte.weight
    assert torch.equal(logits(pickle.loads(pickle.dumps(model))), logits(model))
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    assert torch.equal(logits(torch.load(file, weights_only=False)), logits(model))
    half = copied.to(torch.bfloat16)
    assert half.lm_head.weight is half.transformer.wte.weight
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert half.transformer.h[0].mlp.c_fc.packed is layer.packed
    assert logits(half).dtype == torch.bfloat16
    assert float((logits(half).float() - logits(model)).norm() / logits(model).norm()) < 0.05


def test_a_layer_is_a_linear_layer_to_those_who_ask(quantized):
    layer = load(quantized("gpt2")).transformer.h[0].mlp.c_fc
    assert isinstance(layer, nn.Linear)
    assert isinstance(layer, KbitLinear)
    assert (layer.in_features, layer.out_features, tuple(layer.weight.shape)) == (32, 128, (128, 32))
    assert repr(layer) == "KbitLinear(in_features=32, out_features=128, bias=True, format=nf4-b32, compute=exact)"
    table = load(quantized("gpt2")).transformer.wte
    assert isinstance(table, nn.Embedding)
    assert isinstance(table, KbitEmbedding)
    assert repr(table) == "KbitEmbedding(258, 32, format=int8-row)"


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_initialisers_leave_packed_layers_alone(name, quantized):
    model = load(quantized(name))
    before = logits(model)
    for module in packed_layers(model):
        model._init_weights(module)
    assert torch.equal(logits(model), before)


def test_floats_take_the_place_of_bits(quantized):
    for name in ("llama-tied", "gpt2"):
        model, floats = load(quantized(name)), load(quantized(name), packed=False)
        packed = {site.key: site for site in walk(model)}
        for site in walk(floats):
            set_floats(model, packed[site.key], site.read(floats))
        assert not packed_layers(model)
        assert torch.equal(logits(model), logits(floats))
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_a_whole_model_compiles_as_one_graph(quantized):
    model = load(quantized("llama-tied"))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert_near(compiled(IDS, use_cache=False).logits, model(IDS, use_cache=False).logits)


def test_a_whole_model_exports(quantized):
    model = load(quantized("llama-tied"))

    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, ids):
            return self.model(ids, use_cache=False).logits

    with torch.no_grad():
        program = torch.export.export(Logits(), (IDS,))
        assert_near(program.module()(IDS), logits(model))
    products = [node for node in program.graph.nodes if node.target is torch.ops.kbit.matmul.default]
    assert len(products) == 15


def test_gradients_pass_through_to_what_is_trained(quantized):
    model = load(quantized("llama"))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    scale = model.model.layers[0].input_layernorm.weight.requires_grad_()
    other = load(quantized("llama"), packed=False)
    same = other.model.layers[0].input_layernorm.weight
    for one in (model, other):
        one(IDS, labels=IDS).loss.backward()
    torch.testing.assert_close(scale.grad, same.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.peer
def test_peft_trains_adapters_on_packed_layers(quantized):
    peft = pytest.importorskip("peft")
    for name, targets in (("llama", ["q_proj", "down_proj"]), ("gpt2", ["c_attn"])):
        model = peft.get_peft_model(load(quantized(name)), peft.LoraConfig(target_modules=targets, r=2, fan_in_fan_out=False))
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        losses = []
        for _ in range(8):
            loss = model(input_ids=IDS, labels=IDS).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        assert losses[-1] < losses[0] - 0.05


def test_a_checkpoint_with_damaged_numbers_does_not_load(quantized, tmp_path):
    folder = shutil.copytree(quantized("llama"), tmp_path / "damaged")
    with safe_open(folder / "model.safetensors", "pt") as file:
        place = file.get_slice("model.layers.0.mlp.up_proj.weight_scale")
        assert place.get_dtype() == "F16"
    raw = bytearray((folder / "model.safetensors").read_bytes())
    length = int.from_bytes(raw[:8], "little")
    start, _ = json.loads(raw[8 : 8 + length])["model.layers.0.mlp.up_proj.weight_scale"]["data_offsets"]
    raw[8 + length + start : 8 + length + start + 2] = b"\x00\x7e"  # a NaN
    (folder / "model.safetensors").write_bytes(raw)
    with pytest.raises(
        CheckpointError, match=r"damaged, model\.layers\.0\.mlp\.up_proj: a packed weight .* its scale is not finite"
    ):
        load(folder)


MEASURE = """
import sys, time, torch
torch.set_num_threads(1)
from kbit.models import load
from kbit.recipes.peak import peak_bytes, restart_peak
from transformers import LlamaForCausalLM
load(sys.argv[2], packed=sys.argv[3] == "packed")  # what importing and a first load take
restart_peak()
before, start = peak_bytes(), time.perf_counter()
model = load(sys.argv[1], packed=sys.argv[3] == "packed")
seconds = time.perf_counter() - start
print(peak_bytes() - before, seconds)
"""


@pytest.mark.slow
def test_loading_holds_no_weights_as_floats(written, tmp_path):
    """Of a model of 150 MB in 16 bits no more than the packed file and 20 MB is in memory, and never a layer's floats."""
    from tests.tiny_models import tiny

    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 4, "num_attention_heads": 8}
    tiny("llama", tmp_path / "large", **sizes, vocab_size=8192)
    quantize_checkpoint(tmp_path / "large", "nf4-b64", tmp_path / "packed")
    quantize_checkpoint(written("llama"), "nf4-b64", tmp_path / "small")
    weights = (tmp_path / "packed" / "model.safetensors").stat().st_size
    peaks = {}
    for how in ("packed", "floats"):
        command = [sys.executable, "-c", MEASURE, str(tmp_path / "packed"), str(tmp_path / "small"), how]
        peaks[how] = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0])
    assert peaks["floats"] > 200e6
    assert peaks["packed"] < weights + 20e6
