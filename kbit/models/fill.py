"""Turn a model on the meta device into one with weights, as transformers itself finishes a model that it loads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_utils import LoadStateDictConfig
from transformers.utils import logging

from kbit.errors import ModelError

Read = Callable[[str], Tensor]


def fill(model: PreTrainedModel, read: Read, names: list[str]) -> PreTrainedModel:
    """Give `model` (on the meta device) the parameters and persistent buffers `names` from read(name), in the dtype that it has.

    Goes through the second half of from_pretrained, with an empty mapping of names: so what no checkpoint holds, such as the
    frequencies of rotary embeddings, is computed as transformers computes it, and tied parameters are tied again.
    Raises ModelError where anything stays without a value.
    """
    dtype = model.dtype
    plan = LoadStateDictConfig(dtype=dtype, dtype_plan=model._get_dtype_plan(dtype), weight_mapping=[])
    with _quiet():
        found, _ = model._load_pretrained_model(model, {name: Later(read, name) for name in names}, None, plan)
        found = model._finalize_model_loading(model, plan, found)
    for fault in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs", "conversion_errors"):
        if remains := getattr(found, fault):
            raise ModelError(f"{type(model).__name__}: {fault.replace('_', ' ')} while loading: {sorted(map(str, remains))[:3]}.")
    left = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta]
    assert not left, left
    return model.eval()


class Later:
    """A tensor that is read when the loader asks for its content with [...]."""

    def __init__(self, read: Read, name: str) -> None:
        self.read, self.name = read, name

    def __getitem__(self, index: Any) -> Tensor:
        """The tensor, from disk."""
        assert index is Ellipsis
        return self.read(self.name)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bar; how far work has come is the command line's to say."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
