"""Which tensors of a checkpoint make which parameter of a model, by transformers' own mapping of names; read one at a time."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

from kbit.checkpoints.checkpoint import Checkpoint
from kbit.checkpoints.kbit_folder import KbitCheckpoint
from kbit.errors import ModelError

NAMED_IN_AN_ERROR = 3

# Buffers of older versions of transformers that checkpoints still hold; today's models compute them.
COMPUTED_BUFFERS = re.compile(r"(^|\.)(rotary_emb\.inv_freq|position_ids|masked_bias)$")


@dataclass(frozen=True)
class Origin:
    """How one or more parameters come from tensors of the checkpoint: read, or converted (experts fused, a fused one split)."""

    first: str  # the parameter by which transformers calls the conversion
    sources: tuple[tuple[str, str], ...]  # name in the checkpoint, and the pattern of the converter that it matches
    converter: WeightConverter | None


class Assembly:
    """The weights of `checkpoint` under the names of the parameters and persistent buffers of `model` (on the meta device).

    Only names and shapes are read at first: all conversions are rehearsed on the meta device, and a ModelError names what is
    missing, left over, or of another shape. `read(name)` then reads and converts what that parameter needs. Of what was
    converted together (q, k and v out of one matrix) the last group is kept, until another one is read.
    """

    def __init__(self, model: PreTrainedModel, checkpoint: Checkpoint) -> None:
        require_floats(checkpoint)
        self._model, self._checkpoint = model, checkpoint
        self._state = model.state_dict(keep_vars=True)
        self._lock = threading.Lock()
        self._last: tuple[Origin, dict[str, Tensor]] | None = None
        self._origins: dict[str, Origin] = {}
        unexpected: list[str] = []
        for origin in self._plan(unexpected):
            for name, tensor in self._convert(origin, rehearsal=True).items():
                self._check_shape(name, tensor)
                self._origins[name] = origin
        self._check_complete(unexpected)

    @property
    def names(self) -> list[str]:
        """The parameters and buffers that the checkpoint holds."""
        return list(self._origins)

    def __contains__(self, name: str) -> bool:
        """Whether the checkpoint holds this parameter under this very name; a tied one may lie under another."""
        return name in self._origins

    def read(self, name: str) -> Tensor:
        """The parameter or buffer `name`, in the dtype of the checkpoint, contiguous. Threads take turns."""
        origin = self._origins[self._held(name)]
        if origin.converter is None:
            return self._checkpoint.read(origin.sources[0][0])
        with self._lock:
            if self._last is None or self._last[0] is not origin:
                self._last = None  # free the old group before the new one is made
                self._last = origin, self._convert(origin)
            made = self._last[1]
            tensor = made[self._held(name)].contiguous()
            if len(made) == 1:
                self._last = None
            return tensor

    def _held(self, name: str) -> str:
        if name in self._origins:
            return name
        parameter = self._state[name]
        return next(other for other, tensor in self._state.items() if tensor is parameter and other in self._origins)

    def _plan(self, unexpected: list[str]) -> Iterator[Origin]:
        """Group the checkpoint's names by the parameter they go to, as transformers' loader does (core_model_loading)."""
        # kbit and GGUF checkpoints give the names of the model itself, and no conversion may be done twice
        mapping = get_model_conversion_mapping(self._model) if self._checkpoint.kind == "huggingface" else []
        renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
        by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
        prefix = self._model.base_model_prefix
        groups: dict[str, list[tuple[str, str | None]]] = {}
        for source in sorted(self._checkpoint.names, key=dot_natural_key):
            name, pattern = rename_source_key(source, renamings, converters, prefix, self._state)
            if name not in self._state and source in self._state:
                name, pattern = rename_source_key(source, [], [], prefix, self._state)
            if name in self._state:
                groups.setdefault(name, []).append((source, pattern))
            else:
                unexpected.append(source)
        for name, members in groups.items():
            converter = by_pattern[pattern] if (pattern := members[0][1]) is not None else None
            if converter is None and len(members) > 1:
                raise ModelError(
                    f"{self._checkpoint.path}: {members[0][0]} and {members[1][0]} both mean the parameter {name}. "
                    f"Mend the checkpoint."
                )
            yield Origin(name, tuple((source, pattern or source) for source, pattern in members), converter)

    def _convert(self, origin: Origin, *, rehearsal: bool = False) -> dict[str, Tensor]:
        """The parameters of `origin` by name; in a rehearsal on the meta device, without reading."""
        if origin.converter is None and rehearsal:
            return {origin.first: self._empty(origin.sources[0][0])}
        converter = deepcopy(origin.converter)
        assert converter is not None
        for source, pattern in origin.sources:
            read = self._empty if rehearsal else self._checkpoint.read
            converter.add_tensor(origin.first, source, pattern, partial(read, source))  # type: ignore[arg-type]  # or what makes one
        try:
            made = converter.convert(origin.first, model=self._model, config=self._model.config)
        except Exception as error:  # a conversion meets tensors that it was not made for
            raise ModelError(
                f"{self._checkpoint.path}: {origin.sources[0][0]} and {len(origin.sources) - 1} more tensors do not make the "
                f"parameter {origin.first} ({type(error).__name__}). The checkpoint is incomplete or not of this model."
            ) from error
        return {name: tensor[0] if isinstance(tensor, list) else tensor for name, tensor in made.items()}

    def _empty(self, source: str) -> Tensor:
        return torch.empty(self._checkpoint.shape(source), dtype=self._checkpoint.dtype(source), device="meta")

    def _check_shape(self, name: str, tensor: Tensor) -> None:
        if name not in self._state:
            raise ModelError(f"{self._checkpoint.path}: it makes a parameter {name}, which the model does not have.")
        if tensor.shape != self._state[name].shape:
            raise ModelError(
                f"{self._checkpoint.path}: {name} has the shape {tuple(tensor.shape)}, but its config.json asks for "
                f"{tuple(self._state[name].shape)}. Weights and config.json are not of one model."
            )

    def _check_complete(self, unexpected: list[str]) -> None:
        held = {id(self._state[name]) for name in self._origins}
        missing = [name for name, tensor in self._state.items() if id(tensor) not in held and not self._is_computed(name)]
        surplus = [source for source in unexpected if not self._is_ignored(source)]
        if missing:
            raise ModelError(
                f"{self._checkpoint.path}: {len(missing)} parameters of the model are missing: {_some(missing)}. "
                f"The checkpoint is incomplete or not of this model."
            )
        if surplus:
            raise ModelError(
                f"{self._checkpoint.path}: {len(surplus)} tensors have no place in the model: {_some(surplus)}. "
                f"The checkpoint is not of this model, or of a version that transformers does not know."
            )

    def _is_computed(self, name: str) -> bool:
        """A buffer that transformers lets be absent, since the model computes it. A missing parameter is never passed over."""
        patterns = self._model._keys_to_ignore_on_load_missing or ()
        return not isinstance(self._state[name], torch.nn.Parameter) and any(re.search(pattern, name) for pattern in patterns)

    def _is_ignored(self, source: str) -> bool:
        """A tensor that transformers drops: old buffers, heads for training."""
        patterns = self._model._keys_to_ignore_on_load_unexpected or ()
        return COMPUTED_BUFFERS.search(source) is not None or any(re.search(pattern, source) for pattern in patterns)


def require_floats(checkpoint: Checkpoint) -> None:
    """Raise ModelError where a checkpoint holds integers alone, and floats are asked for."""
    if isinstance(checkpoint, KbitCheckpoint) and checkpoint.program_sha256 is not None:
        raise ModelError(
            f"{checkpoint.path}: is a model of integers alone; kbit eval, kbit generate and kbit.load run it. For floats take "
            f"the model that it was made from: {checkpoint.source}."
        )


def _some(names: list[str]) -> str:
    more = len(names) - NAMED_IN_AN_ERROR
    return ", ".join(names[:NAMED_IN_AN_ERROR]) + (f" and {more} more" if more > 0 else "")
