"""One member's training, cut into legs that can be stopped and taken up again.

A warm-up, stable, decay schedule (Hu et al. 2024, MiniCPM): the trunk keeps one learning rate; at three points a branch
leaves it and decays linearly to zero, so that one training gives finished models at a quarter, a half and all of the tokens.

    trunk   0 ------ f1 ------------ f2 ------------------------ f3        f = 3/4 of the branch's end
    decay             `- S/4          `- S/2                      `- S
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kbit.errors import CheckpointError
from kbit.training.state import read_state, write_state

WARMUP_STEPS = 100
DECAY_SHARE = 0.25
SAVE_EVERY = 64  # steps; a killed leg repeats fewer than this many


@dataclass(frozen=True)
class Leg:
    """Steps `start` to `end` of the trunk or of a decaying branch; `parent` names the leg whose state it starts from."""

    name: str
    start: int
    end: int
    decays: bool
    parent: str | None

    def learning_rate(self, step: int, peak: float) -> float:
        """Rate of step `step` (from 0): linear warm-up, `peak`, and in a decaying leg a line to zero at its end."""
        if self.decays:
            return peak * (self.end - step) / (self.end - self.start)
        return peak * min(1.0, (step + 1) / WARMUP_STEPS)


def plan_legs(steps: int) -> list[Leg]:
    """The six legs of a training of `steps` steps (a multiple of 16), in the order in which they run."""
    assert steps % 16 == 0
    legs: list[Leg] = []
    trunk_end, trunk = 0, None
    for share in (0.25, 0.5, 1.0):
        end = int(steps * share)
        fork = int(end * (1 - DECAY_SHARE))
        legs.append(Leg(f"trunk-{fork:06d}", trunk_end, fork, False, trunk))
        trunk, trunk_end = legs[-1].name, fork
        legs.append(Leg(f"decay-{end:06d}", fork, end, True, trunk))
    return legs


@dataclass(frozen=True)
class Batches:
    """Windows of the token stream in the order of training; step i takes the i-th `size` of them, round and round."""

    stream: np.ndarray  # uint16 (tokens,)
    starts: np.ndarray  # int64 (windows,)
    context: int
    size: int

    def of_step(self, step: int) -> Tensor:
        """Token ids of one step: int64 (size, context + 1)."""
        picks = self.starts[np.arange(step * self.size, (step + 1) * self.size) % len(self.starts)]
        return torch.from_numpy(self.stream[picks[:, None] + np.arange(self.context + 1)].astype(np.int64))


def make_optimizer(model: nn.Module) -> torch.optim.AdamW:
    """AdamW (0.9, 0.95), weight decay 0.1 on matrices and none on norms."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), fused=True)


def train_step(
    model: nn.Module, optimizer: torch.optim.AdamW, ids: Tensor, rate: float, *, precision: torch.dtype, micro_batch: int
) -> float:
    """One AdamW step on windows `ids` (size, context + 1); the mean cross-entropy before it, in nats per token."""
    total = 0.0
    for part in ids.split(micro_batch):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
            logits = model(input_ids=part[:, :-1]).logits
        loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), part[:, 1:].flatten()) * (len(part) / len(ids))
        loss.backward()
        total += loss.item()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()
    return total


def run_leg(
    leg: Leg,
    model: nn.Module,
    batches: Batches,
    folder: Path,
    *,
    peak_rate: float,
    precision: torch.dtype = torch.float32,
    micro_batch: int = 8,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """Run `leg` to its end in `folder`/`leg.name`, from its last saved step where there is one; `model` then holds its result.

    progress(step, loss) is called after every step. Raises CheckpointError where the loss is not finite.
    """
    here = folder / leg.name
    named, optimizer = dict(model.named_parameters()), make_optimizer(model)
    if saved := latest_state(here) or (latest_state(folder / leg.parent) if leg.parent else None):
        record = read_state(saved, named, optimizer)
        step, losses = record["step"], record["losses"]
    else:
        step, losses = 0, []
    while step < leg.end:
        rate = leg.learning_rate(step, peak_rate)
        loss = train_step(model, optimizer, batches.of_step(step), rate, precision=precision, micro_batch=micro_batch)
        if not np.isfinite(loss):
            raise CheckpointError(
                f"{here}: the loss of step {step} is {loss}. Lower the learning rate; the last good state is kept."
            )
        losses.append(round(loss, 6))
        step += 1
        if step % SAVE_EVERY == 0 or step == leg.end:
            write_state(here / f"step-{step:06d}", {"step": step, "losses": losses}, named, optimizer)
        progress(step, loss)


def is_done(leg: Leg, folder: Path) -> bool:
    """Whether the leg's last step lies on disk."""
    saved = latest_state(folder / leg.name)
    return saved is not None and saved.name == f"step-{leg.end:06d}"


def latest_state(folder: Path) -> Path | None:
    """The saved state of the highest step in `folder`, or None."""
    return max(folder.glob("step-*"), default=None)
