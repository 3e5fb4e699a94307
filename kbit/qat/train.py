"""train_qat: a prepared model learns to say what a 16-bit model says, with the weights that it will be stored with."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, get_cosine_schedule_with_warmup

from kbit.errors import CheckpointError, FormatError, ModelError
from kbit.qat.loss import distillation
from kbit.qat.plan import RATE, TrainPlan
from kbit.qat.prepare import Prepared
from kbit.qat.state import claim, load_state, load_weights, save_state, save_weights
from kbit.qat.teacher import KeptTeacher
from kbit.qat.text import TrainingText
from kbit.qat.weights import Rounded, WeightQuantizer

if TYPE_CHECKING:
    from accelerate import Accelerator

Progress = Callable[[int, int, str], None]  # steps done, in all, and how it goes

BETAS = (0.9, 0.95)
BEST = "best.safetensors"


@dataclass
class History:
    """What has happened: the loss of every step, and what held-out text gave after some, as (step, nats per token)."""

    losses: list[float] = field(default_factory=list)
    held_out: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def best(self) -> tuple[int, float] | None:
        """The step, and the loss, of the least held-out loss."""
        return min(self.held_out, key=lambda entry: (entry[1], -entry[0]), default=None)


@dataclass(frozen=True)
class Trained:
    """How a training went. model: prepared, with the weights of the best step. stopped: why it ended early, where it did.

    plan: as it was carried out, its rate a number. main: whether this process is the one that writes, of those that trained.
    """

    model: PreTrainedModel
    plan: TrainPlan
    step: int
    held_out: float
    held_out_reference: float
    history: History
    tokens: int
    main: bool = True
    stopped: str | None = None


def train_qat(
    model: PreTrainedModel,
    original: PreTrainedModel,
    text: TrainingText,
    plan: TrainPlan,
    *,
    state: Path,
    teacher: PreTrainedModel | KeptTeacher | None = None,
    progress: Progress = lambda step, steps, doing: None,
    device: str | None = None,
) -> Trained:
    """Train `model`, which prepare_qat made of `original`, to predict as `teacher` does. Of the three model alone changes.

    teacher: a model of the same vocabulary, in 16 or 32 bits; by default the original. A larger one of the family says more.
    state: folder of the state of training. Called again with the same arguments after any interruption, it goes on from there,
    to the same losses. Held-out text is measured as it goes, and the weights that did best are those of the result.
    Run by `accelerate launch`, it trains on all processes, which share every batch.
    Where a loss is NaN or infinite, training stops, and the result is the best state before, with the reason.
    Raises CheckpointError where `state` was begun with something else, or where no state was good, and ModelError where the
    teacher has another vocabulary.
    """
    teacher = teacher or original
    check_vocabulary(original, teacher)
    prepared: Prepared | None = vars(model).get("kbit_qat")
    if prepared is None:
        raise ModelError(f"{type(model).__name__}: it was not prepared for training. Call prepare_qat first.")
    plan = replace(plan, rate=plan.rate or RATE * root_mean_square(model))
    accelerator = make_accelerator(device)
    if plan.batch % accelerator.num_processes:
        raise FormatError(
            f"a batch of {plan.batch} windows cannot be shared by {accelerator.num_processes} processes. Take a multiple."
        )
    if accelerator.is_main_process:
        claim(state, identity(original, teacher, prepared, text, plan))
    accelerator.wait_for_everyone()
    run = _Training(accelerator, model, original, teacher, text, plan, state)
    return run.to_end(progress)


def make_accelerator(device: str | None) -> Accelerator:
    """What `accelerate launch` says of processes and devices; else one process. Raises ModelError without accelerate."""
    try:
        from accelerate import Accelerator
    except ImportError:
        raise ModelError("training needs accelerate, which is not installed. Install it: pip install 'kbit[train]'.") from None
    return Accelerator(cpu=device == "cpu")


def check_vocabulary(original: PreTrainedModel, teacher: PreTrainedModel | KeptTeacher) -> None:
    """Raise ModelError where a teacher speaks of other tokens."""
    known, taught = original.config.get_text_config().vocab_size, teacher.config.get_text_config().vocab_size
    if known != taught:
        raise ModelError(
            f"the teacher has a vocabulary of {taught} tokens, the model one of {known}. Take one with the model's tokenizer."
        )


def identity(
    original: PreTrainedModel, teacher: PreTrainedModel | KeptTeacher, prepared: Prepared, text: TrainingText, plan: TrainPlan
) -> dict[str, Any]:
    """All that decides how a training goes."""
    decided = {"model": digest_of(original), "recipe": prepared.recipe.to_json(), "text": text.sha256}
    if teacher is not original:
        decided["teacher"] = digest_of(teacher)
    return decided | plan.to_dict()


def digest_of(model: nn.Module) -> str:
    """SHA-256 of all parameters, in float32."""
    digest = sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def root_mean_square(model: nn.Module) -> float:
    """Of all weights that have a quantizer."""
    quantized: dict[int, Tensor] = {}
    for module in model.modules():
        for seen in getattr(module, "parametrizations", {}).values():
            if not isinstance(seen[0], Rounded):
                quantized[id(seen.original)] = seen.original.detach()
    total = sum(float(parameter.double().square().sum()) for parameter in quantized.values())
    return (total / sum(parameter.numel() for parameter in quantized.values())) ** 0.5


def parameter_groups(model: nn.Module, plan: TrainPlan) -> list[dict[str, Any]]:
    """Groups of AdamW: matrices, which decay; vectors; and scales and shifts by the largest level that they multiply.

    Adam moves every number by about the rate. A scale moved by r moves the largest value by r times the largest level, so its
    rate is divided by that.
    """
    assert plan.rate is not None
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    taken: set[int] = set()
    for module in model.modules():
        if isinstance(module, WeightQuantizer):
            for name, parameter in module.named_parameters(recurse=False):
                units = {"scale": 1 / module.reach, "shift": 1.0, "zero": 1 / float(module.scale.detach().mean())}[name]
                if id(parameter) not in taken:
                    groups.setdefault((plan.rate * plan.scale_rate * units, 0.0), []).append(parameter)
                taken.add(id(parameter))
    for parameter in model.parameters():
        if id(parameter) not in taken and parameter.requires_grad:
            decay = plan.weight_decay if parameter.ndim >= 2 else 0.0
            groups.setdefault((plan.rate, decay), []).append(parameter)
    return [{"params": parameters, "lr": rate, "weight_decay": decay} for (rate, decay), parameters in groups.items()]


class _Training:
    """One process's part of a training."""

    def __init__(
        self,
        accelerator: Accelerator,
        model: PreTrainedModel,
        original: PreTrainedModel,
        teacher: PreTrainedModel | KeptTeacher,
        text: TrainingText,
        plan: TrainPlan,
        state: Path,
    ) -> None:
        self.accelerator, self.text, self.plan, self.state = accelerator, text, plan, state
        device = accelerator.device
        self.original: Any = original.to(device).eval()
        self.teacher: Any = teacher.to(device).eval()
        self.bare: Any = model.to(device).train()
        if plan.recompute:
            enable = getattr(self.bare, "activation_checkpointing_enable", None) or self.bare.gradient_checkpointing_enable
            enable({"use_reentrant": False})
        optimizer = torch.optim.AdamW(parameter_groups(self.bare, plan), betas=BETAS, fused=True)
        self.history = History()
        schedule = get_cosine_schedule_with_warmup(optimizer, round(plan.warmup * plan.steps), plan.steps)
        if record := load_state(state, self.bare, optimizer):
            self.history = History(record["losses"], [(step, loss) for step, loss in record["held_out"]], record["seconds"])
            schedule.load_state_dict(record["schedule"])
            for group, rate in zip(optimizer.param_groups, record["schedule"]["_last_lr"], strict=True):
                group["lr"] = rate
        self.inner, self.schedule = optimizer, schedule
        self.model, self.optimizer = accelerator.prepare(self.bare, optimizer)
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.history.losses)

    def to_end(self, progress: Progress) -> Trained:
        """All steps that are left."""
        plan, stopped = self.plan, None
        reference = self.measure(self.original)
        if not self.history.held_out:
            self.keep()
        started = time.perf_counter()
        since, first = started, self.step
        while self.step < plan.steps:
            loss = self.one_step()
            if not math.isfinite(loss):
                stopped = f"the loss of step {self.step + 1} is {loss}"
                break
            self.history.losses.append(loss)
            if self.step % plan.every == 0 or self.step == plan.steps:
                self.history.seconds += time.perf_counter() - since
                since = time.perf_counter()
                if not self.keep():
                    stopped = f"held-out text has no finite loss after step {self.step}"
                    break
            speed = (self.step - first) * plan.batch * (self.text.windows.shape[1] - 1) / (time.perf_counter() - started)
            progress(self.step, plan.steps, f"loss {loss:.4f}, {speed:,.0f} tokens per second")
        best = self.history.best
        if best is None:
            raise CheckpointError(f"{self.state}: {stopped}, and no state before it was good. Lower the learning rate.")
        self.accelerator.wait_for_everyone()
        load_weights(self.state / BEST, self.bare)
        self.bare.eval()
        if stopped:
            stopped += (
                f"; the weights are those of step {best[0]}. Lower the learning rate, and train again with another state folder."
            )
        tokens = self.step * plan.batch * (self.text.windows.shape[1] - 1)
        return Trained(self.bare, plan, *best, reference, self.history, tokens, self.accelerator.is_main_process, stopped)

    def one_step(self) -> float:
        """The loss before the step, over the whole batch on all devices; then a step, unless it is not finite."""
        plan, ranks = self.plan, self.accelerator.num_processes
        torch.manual_seed((plan.seed * plan.steps + self.step) * ranks + self.accelerator.process_index)  # of dropout
        share = plan.batch // ranks
        start = self.accelerator.process_index * share
        mine = self.text.of_step(self.step, plan.batch)[start : start + share]
        parts = mine.split(plan.micro_batch or share)
        total = torch.zeros((), device=self.accelerator.device)
        for number, part in enumerate(parts, 1):
            last = number == len(parts)
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                loss = self.loss(self.model, part.to(self.accelerator.device)) * (len(part) / share)
                self.accelerator.backward(loss)
            total += loss.detach()
        norm = self.accelerator.clip_grad_norm_(self.parameters, plan.clip)
        everyone: Any = self.accelerator.reduce(torch.stack([total, torch.as_tensor(norm, device=total.device) * 0]), "mean")
        mean = float(everyone.sum())  # an infinite gradient makes it NaN, a finite one leaves it
        if math.isfinite(mean):
            self.optimizer.step()
            self.schedule.step()
        self.optimizer.zero_grad()
        return mean

    def loss(self, model: Callable[..., Any], windows: Tensor) -> Tensor:
        """The mean loss of windows (n, window + 1)."""
        ids, tokens, share = windows[:, :-1], windows[:, 1:], self.plan.cross_entropy
        with self.autocast():
            with torch.no_grad():
                teacher = None if share == 1 else self.teacher(input_ids=ids, use_cache=False).logits
            student = model(input_ids=ids, use_cache=False).logits
        return distillation(student, teacher, tokens, share)

    def autocast(self) -> torch.autocast:
        """Products in the plan's precision. torch's own: accelerate would settle it for the whole process."""
        bf16 = self.plan.precision == "bf16"
        return torch.autocast(self.accelerator.device.type, dtype=torch.bfloat16, enabled=bf16)

    def keep(self) -> bool:
        """Measure held-out text; keep the state, and the weights where they are the best so far. False where nothing is good."""
        loss = self.measure(self.bare)
        if not math.isfinite(loss):
            return False
        self.history.held_out.append((self.step, loss))
        if self.accelerator.is_main_process:
            if self.history.best == (self.step, loss):
                save_weights(self.state / BEST, self.bare)
            history = {"losses": self.history.losses, "held_out": self.history.held_out, "seconds": self.history.seconds}
            save_state(self.state, self.step, history | {"schedule": self.schedule.state_dict()}, self.bare, self.inner)
        self.accelerator.wait_for_everyone()
        return True

    @torch.no_grad()
    def measure(self, model: nn.Module) -> float:
        """Cross-entropy of the held-out windows, nats per token; every process measures them all, and finds the same."""
        with evaluating(model), self.autocast():
            total = 0.0
            parts = self.text.held_out.split(self.plan.micro_batch or max(1, self.plan.batch // self.accelerator.num_processes))
            for part in parts:
                windows = part.to(self.accelerator.device)
                logits = model(input_ids=windows[:, :-1], use_cache=False).logits
                total += float(distillation(logits, None, windows[:, 1:], 1.0)) * len(part)
        return total / len(self.text.held_out)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode for a while."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
