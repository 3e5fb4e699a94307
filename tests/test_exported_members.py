"""The public names are those of a short list; each is there, and nothing heavy is imported before one is used."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from inspect import isclass, isfunction

import pytest

import kbit

LIST = [
    "Format",
    "KbitError",
    "PackedTensor",
    "Protocol",
    "Quality",
    "Recipe",
    "Sampling",
    "evaluate",
    "generate",
    "linear_dequantize",
    "linear_quantize",
    "load",
    "load_tokenizer",
    "pack",
    "quantization_error_variance",
    "quantize",
    "quantize_checkpoint",
    "quantized_matmul",
    "total_bits",
]


def test_the_public_names_are_these():
    assert sorted(kbit.__all__) == sorted(kbit.PUBLIC) == sorted(LIST)


@pytest.mark.parametrize("name", LIST)
def test_each_name_is_there_and_says_what_it_is(name):
    member = getattr(kbit, name)
    assert callable(member)
    assert member.__doc__.strip()
    assert name in dir(kbit)


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"^module 'kbit' has no attribute 'quantise'\. Public names are Format, "):
        kbit.quantise  # noqa: B018


def test_import_kbit_brings_neither_torch_nor_transformers():
    code = "import sys, kbit; print(*sorted({'torch', 'transformers', 'numpy', 'rich', 'typer'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_no_package_hides_a_public_name():
    for module in set(kbit.PUBLIC.values()):
        import_module(module)
    assert all(isfunction(member) or isclass(member) for member in (getattr(kbit, name) for name in LIST))
