"""prepare_qat and convert, over models of every kind: what is trained is what is stored."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import kbit
from kbit.errors import FormatError, ModelError
from kbit.models import KbitEmbedding, KbitLinear, packed_layers
from kbit.qat import convert, prepare_qat
from kbit.qat.activations import ActivationQuantizer
from kbit.qat.weights import WeightQuantizer
from kbit.recipes import Recipe
from tests.tiny_models import TINY, VOCABULARY

IDS = torch.randint(0, VOCABULARY, (2, 24), generator=torch.Generator().manual_seed(0))


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS, use_cache=False).logits


def step(model: nn.Module, rate: float = 1e-3) -> None:
    """One step of training, so that weights, scales and norms are where no format holds them."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    torch.nn.functional.cross_entropy(model.train()(input_ids=IDS).logits.flatten(0, 1), IDS.flatten()).backward()
    optimizer.step()


@pytest.mark.parametrize("name", TINY)
def test_a_prepared_model_is_the_quantized_one_and_converts_to_the_same_logits(name, written):
    model = kbit.load(written(name))
    before = deepcopy(model.state_dict())
    prepared = prepare_qat(model, "int3-b16")
    assert torch.equal(logits(prepared), logits(kbit.quantize(model, "int3-b16", method="rtn-mse")))
    step(prepared)
    trained = logits(prepared)
    small = convert(prepared)
    torch.testing.assert_close(logits(small), trained, rtol=1e-5, atol=2e-5)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items()), "the first model changed"
    assert torch.equal(logits(prepared), trained), "converting changed the prepared model"


@pytest.mark.parametrize(
    "text", ["ternary-b64", "binary-b64", "nf4-b64-s8", "int2-b16-asym", "mxfp4", "kmeans2-row", "int4-b16-min-o5"]
)
def test_formats_convert_to_packed_layers_of_that_format(text, written):
    prepared = prepare_qat(kbit.load(written("llama-tied")), text)
    step(prepared)
    trained = logits(prepared)
    small = convert(prepared)
    torch.testing.assert_close(logits(small), trained, rtol=1e-5, atol=2e-5)
    linear = [layer for layer in packed_layers(small) if isinstance(layer, KbitLinear) and layer is not small.lm_head]
    assert linear
    assert {str(layer.packed.fmt) for layer in linear} == {str(kbit.Format.parse(text))}


def test_all_weights_scales_and_norms_learn(written):
    prepared = prepare_qat(kbit.load(written("llama-tied")), "int2-b16")
    before = {name: value.clone() for name, value in prepared.named_parameters()}
    step(prepared)
    still = [name for name, value in prepared.named_parameters() if torch.equal(value, before[name])]
    assert not still
    assert sum(isinstance(module, WeightQuantizer) for module in prepared.modules()) == 15  # 14 of layers, one of the tied table


def test_tied_weights_stay_tied(written):
    prepared = prepare_qat(kbit.load(written("llama-tied")), "int4-b16")
    step(prepared)
    assert prepared.lm_head.parametrizations.weight.original is prepared.model.embed_tokens.parametrizations.weight.original
    small = convert(prepared)
    assert small.lm_head.weight is small.model.embed_tokens.weight
    assert isinstance(small.model.embed_tokens, KbitEmbedding)


def test_what_a_recipe_keeps_is_rounded_as_it_is_stored(written):
    recipe = Recipe("int3-b16", method="rtn-mse", embeddings="bf16", keep=("*.layers.0.*",))
    prepared = prepare_qat(kbit.load(written("llama-tied")), recipe)
    step(prepared)
    weight = prepared.model.layers[0].mlp.up_proj.weight
    assert torch.equal(weight, weight.bfloat16().float())
    trained = logits(prepared)
    torch.testing.assert_close(logits(convert(prepared)), trained, rtol=1e-5, atol=2e-5)


def test_a_packed_model_is_dequantized_first(written):
    packed = kbit.quantize(kbit.load(written("llama")), "int8-b16", packed=True)
    prepared = prepare_qat(packed, "int2-b16")
    assert not packed_layers(prepared)
    assert packed_layers(packed)


def test_a_recipe_that_leaves_nothing_to_train_is_refused(written):
    model = kbit.load(written("llama"))
    floats = {"embeddings": "bf16", "lm_head": "bf16"}
    for recipe in (Recipe("bf16", **floats), Recipe("int2-b16", keep=("*",), **floats)):
        with pytest.raises(FormatError, match=r"it quantizes no layer of LlamaForCausalLM, so there is nothing to train"):
            prepare_qat(model, recipe)


def test_a_model_that_was_not_prepared_is_refused(written):
    with pytest.raises(ModelError, match=r"was not prepared for training\. Call prepare_qat first"):
        convert(kbit.load(written("llama")))


class Classifier(nn.Module):
    """Convolutions, a shared layer, a norm and an embedding of the class of picture: no language model."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, groups=2)
        self.norm, self.hidden, self.out = nn.BatchNorm2d(8), nn.Linear(128, 40), nn.Linear(40, 10)
        self.kind = nn.Embedding(3, 40)

    def forward(self, x: torch.Tensor, kind: torch.Tensor) -> torch.Tensor:
        x = self.second(self.first(x).relu()).relu()
        return self.out((self.hidden(self.norm(x).flatten(1)) + self.kind(kind)).relu())


@pytest.mark.parametrize("activations", [None, "int8-tensor", "int4-tensor-asym", "int8-token"])
@pytest.mark.parametrize("learning", ["pact", "lsq"])
def test_any_module_is_prepared_and_converted(activations, learning):
    torch.manual_seed(0)
    model, x, kind = Classifier(), torch.rand(6, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    prepared = prepare_qat(model, "int4-b16", activations=activations, learning=learning)
    optimizer = torch.optim.AdamW(prepared.parameters(), lr=1e-3)
    for _ in range(2):
        prepared(x, kind).square().mean().backward()
        optimizer.step()
    prepared.eval()
    small = convert(prepared)
    torch.testing.assert_close(small(x, kind), prepared(x, kind), rtol=1e-5, atol=1e-5)
    assert isinstance(small.hidden, KbitLinear)
    assert isinstance(small.kind, KbitEmbedding)
    assert type(small.first) is nn.Conv2d
    assert not any(parametrize.is_parametrized(module) for module in small.modules())
    found = sum(isinstance(module, ActivationQuantizer) for module in small.modules())
    assert found == (4 if activations else 0)


def test_a_module_without_matrices_is_refused():
    with pytest.raises(ModelError, match="no linear layer, convolution or embedding"):
        prepare_qat(nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3)), "int4-b64")


def test_a_glob_that_matches_nothing_is_refused():
    with pytest.raises(FormatError, match=r"the glob '\*\.conv9\*' matches no layer"):
        prepare_qat(Classifier(), Recipe("int4-b64", layers={"*.conv9*": "int8-row"}))


@pytest.mark.parametrize("k", [2, 3, 4, 8])
def test_the_digits_classifier_learns_at_k_bits(k):
    """scikit-learn's digits: weights and inputs in k bits do as well as floats, to a few in a hundred."""
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    x, y = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def fit(model: nn.Module, rate: float, steps: int) -> float:
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        for _ in range(steps):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[:1400]), y[:1400]).backward()
            optimizer.step()
        return float((model(x[1400:]).argmax(-1) == y[1400:]).float().mean())

    floats = fit(model, 5e-3, 150)
    prepared = prepare_qat(model, f"int{k}-b64", activations=f"int{max(k, 4)}-tensor")
    trained = fit(prepared, 2e-3, 150)
    small = convert(prepared)
    assert float((small(x[1400:]).argmax(-1) == y[1400:]).float().mean()) == pytest.approx(trained, abs=3e-3)
    assert trained > floats - 0.04


@pytest.fixture(scope="module")
def digits():
    """8x8 images of 0 to 1, and what they show."""
    found = pytest.importorskip("sklearn.datasets").load_digits()
    return torch.tensor(found.images, dtype=torch.float32)[:, None] / 16, torch.tensor(found.target)


def fit_digits(model, digits, rate, epochs):
    """Train on the first 1200; the share of the others that it knows."""
    x, y = digits
    optimizer, order = torch.optim.Adam(model.parameters(), lr=rate), torch.Generator().manual_seed(0)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(1200, generator=order).chunk(10):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    return share_known(model.eval(), digits)


@torch.no_grad()
def share_known(model, digits):
    x, y = digits[0][1200:], digits[1][1200:]
    return float((model(x).argmax(-1) == y).double().mean())


@pytest.fixture(scope="module")
def classifier(digits):
    """The network of examples/digits_integer.py, and how much it knows."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(24, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(192, 10),
    )  # fmt: skip
    return model, fit_digits(model, digits, 5e-3, 8)


@pytest.mark.slow
@pytest.mark.parametrize(("k", "less"), [(8, 0.02), (7, 0.02), (6, 0.02), (5, 0.02), (4, 0.02), (3, 0.05), (2, 0.15)])
def test_the_convolutional_classifier_learns_at_k_bits(digits, classifier, k, less):
    """Weights and inputs of k bits: convolutions, BatchNorm, pooling, a linear layer. Stored, it says the same."""
    model, in_floats = classifier
    prepared = prepare_qat(model, f"int{k}-b64", activations=f"int{k}-tensor-asym")
    trained = fit_digits(prepared, digits, 5e-3, 12)
    assert trained > in_floats - less
    x, small = digits[0][1200:], convert(prepared).eval()
    with torch.no_grad():
        torch.testing.assert_close(small(x), prepared(x), rtol=1e-4, atol=1e-4)
