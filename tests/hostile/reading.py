"""Open a checkpoint and read all of it, as a user's command would."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from kbit.checkpoints import Checkpoint, open_checkpoint


def read_all(path_or_checkpoint: Path | Checkpoint) -> dict[str, Tensor]:
    """Every parameter; settings, shapes and dtypes agree with what is read."""
    opened = path_or_checkpoint if isinstance(path_or_checkpoint, Checkpoint) else open_checkpoint(path_or_checkpoint)
    assert isinstance(opened.config, dict)
    tensors = {name: opened.read(name) for name in opened.names}
    for name, tensor in tensors.items():
        assert (tuple(tensor.shape), tensor.dtype) == (opened.shape(name), opened.dtype(name))
        assert opened.nbytes(name) >= 0
    return tensors
