"""TrainPlan: everything that decides how a training goes, beside model, recipe and text."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from kbit.errors import KbitError

PRECISIONS = ("f32", "bf16")
RATE = 0.005  # of the weights' root mean square: the best of 0.0025, 0.005, 0.01, 0.02 at 2 bits on two sizes of the family


@dataclass(frozen=True)
class TrainPlan:
    """steps: of AdamW, each on `batch` windows of `window` tokens (None: the model's context, but no more than 2048).

    rate: the highest learning rate; it rises over the first `warmup` of the steps, then falls as a cosine to 0. None: RATE times
    the root mean square of the quantized weights, so that models of any size turn as much in a step.
    scale_rate: the rate of scales, in units of the largest value that they stand for, over that of the weights.
    weight_decay: of matrices. cross_entropy: the share of the loss that the text itself has; the rest is the KL divergence from
    the model that was prepared. clip: the largest norm of a gradient. micro_batch: windows at once (None: all that one device
    has). precision: f32, or bf16 for autocast. recompute: keep the activations of whole layers alone, and compute the others
    again in the backward pass (gradient checkpointing). check_every: steps after which held-out text is measured and the state
    saved (None: a sixteenth of all). held_out: windows of the text that are measured and not trained on. seed: of the order of
    passages, and of dropout.
    """

    steps: int
    batch: int = 8
    window: int | None = None
    rate: float | None = None
    scale_rate: float = 1.0
    warmup: float = 0.05
    weight_decay: float = 0.0
    cross_entropy: float = 0.0
    clip: float = 1.0
    micro_batch: int | None = None
    precision: str = "f32"
    recompute: bool = False
    check_every: int | None = None
    held_out: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every value, so that a wrong one is refused before any model is read."""
        for name in ("steps", "batch", "held_out"):
            if getattr(self, name) < 1:
                raise KbitError(f"{name} {getattr(self, name)}: there is nothing to train or to measure. Take 1 or more.")
        for name in ("window", "micro_batch", "check_every"):
            value = getattr(self, name)
            if value is not None and value < 1 + (name == "window"):
                raise KbitError(f"{name} {value} is too small. Take more, or leave it out.")
        for name, value in (
            ("rate", 1.0 if self.rate is None else self.rate),
            ("scale_rate", self.scale_rate),
            ("clip", self.clip),
        ):
            if not 0 < value < float("inf"):
                raise KbitError(f"{name} {value:g} trains nothing. Take a number above 0.")
        for name in ("warmup", "cross_entropy", "weight_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise KbitError(f"{name} {getattr(self, name):g} is no share. Take a number from 0 to 1.")
        if self.precision not in PRECISIONS:
            raise KbitError(f"precision '{self.precision}' is not known. Choose {' or '.join(PRECISIONS)}.")

    @property
    def every(self) -> int:
        """Steps between two measurements."""
        return self.check_every or max(1, self.steps // 16)

    @property
    def reading(self) -> dict[str, int]:
        """How much of a text a training of this plan reads, and in which order: what read_training_text asks."""
        assert self.window is not None, "a plan without a window"
        return {name: getattr(self, name) for name in ("window", "batch", "steps", "held_out", "seed")}

    def to_dict(self) -> dict[str, Any]:
        """All settings by name."""
        return asdict(self)
