"""Training of a whole family: every size and seed on one token stream, each finished model written at once."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from kbit.errors import CheckpointError, KbitError
from kbit.training.legs import Batches, Leg, is_done, plan_legs, run_leg
from kbit.training.members import CONTEXT, MEMBERS, VOCABULARY, Member
from kbit.training.tokens import train_tokenizer, window_order, write_token_stream

Progress = Callable[[str, int, int, float], None]  # name of the size, last step of its leg, step, loss


@dataclass(frozen=True)
class FamilyPlan:
    """What to train: names of MEMBERS, a seed each; `steps` of `batch` windows of 256 tokens."""

    members: Sequence[str] = tuple(MEMBERS)
    seeds: Sequence[int] = (0,)
    steps: int = 2048
    batch: int = 16
    precision: str = "f32"  # or bf16: autocast, for CPUs that multiply bfloat16
    threads: int = field(default_factory=torch.get_num_threads)

    def __post_init__(self) -> None:
        if unknown := [name for name in self.members if name not in MEMBERS]:
            raise KbitError(f"size {unknown[0]!r} is not in the family. Choose from {', '.join(MEMBERS)}.")
        if self.steps < 16 or self.steps % 16:
            raise KbitError(f"{self.steps} steps: take a multiple of 16, so that a quarter and its decay are whole steps.")
        if self.precision not in ("f32", "bf16"):
            raise KbitError(f"precision {self.precision!r} is not known. Choose f32 or bf16.")

    @property
    def tokens(self) -> int:
        """Training tokens of a whole training."""
        return self.steps * self.batch * CONTEXT


def train_family(
    plan: FamilyPlan, text: Path, out: Path, state: Path, *, progress: Progress = lambda name, end, step, loss: None
) -> list[Path]:
    """Train every (seed, size) of `plan` on the documents in `text`; the folders of the finished models, small to large.

    A finished model goes to `out`/NAME (all tokens), NAME-half and NAME-quarter, with -seed-1 and so on after it, as
    bfloat16 safetensors with its tokenizer and training.json. The state of training lies in `state`: called again after
    any interruption, it goes on where it was. The same plan gives the same bytes on one kind of CPU and number of threads.
    """
    torch.set_num_threads(plan.threads)
    tokenizer, stream = prepare_tokens(text, state)
    folders: list[Path] = []
    for seed in plan.seeds:
        for member in (MEMBERS[name] for name in plan.members):
            folder = state / f"{member.name}-seed-{seed}"
            check_same_plan(folder, plan)
            batches = Batches(stream, window_order(len(stream), CONTEXT, seed), CONTEXT, plan.batch)
            legs = plan_legs(plan.steps)
            targets = {leg: out / finished_name(member, leg, plan.steps, seed) for leg in legs if leg.decays}
            folders += targets.values()
            while legs and (not legs[-1].decays or (targets[legs[-1]] / "training.json").exists()):
                legs.pop()  # what only finished models were grown from need not run again
            for leg in legs:
                target = targets.get(leg)
                if (target / "training.json").exists() if target else is_done(leg, folder):
                    continue
                model = new_model(member, seed)
                run_leg(
                    leg,
                    model,
                    batches,
                    folder,
                    peak_rate=member.learning_rate,
                    precision=torch.bfloat16 if plan.precision == "bf16" else torch.float32,
                    progress=partial(progress, member.name, leg.end),
                )
                if target:
                    write_finished(target, model, tokenizer, training_record(member, leg, plan, seed, folder))
    return folders


def prepare_tokens(text: Path, state: Path) -> tuple[PreTrainedTokenizerFast, np.ndarray]:
    """The family's tokenizer and token stream, made from `text` on the first call and kept in `state`."""
    state.mkdir(parents=True, exist_ok=True)
    if not (state / "tokenizer" / "tokenizer.json").exists():
        train_tokenizer(text, VOCABULARY).save_pretrained(state / "tokenizer")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(state / "tokenizer")
    tokenizer.model_max_length = CONTEXT
    if not (state / "tokens.npy").exists():
        write_token_stream(text, tokenizer, state / "tokens.npy")
    return tokenizer, np.load(state / "tokens.npy", mmap_mode="r")


def new_model(member: Member, seed: int) -> LlamaForCausalLM:
    """A model with weights drawn from `seed`, in float32."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(member.config())


def finished_name(member: Member, leg: Leg, steps: int, seed: int) -> str:
    """Folder of a finished model: prose-94k, prose-94k-half, prose-94k-seed-1, ..."""
    share = {steps: "", steps // 2: "-half", steps // 4: "-quarter"}.get(leg.end, "")
    return f"{member.name}{share}" + (f"-seed-{seed}" if seed else "")


def check_same_plan(folder: Path, plan: FamilyPlan) -> None:
    """Refuse to go on from a state of another plan; note the plan where there is none yet."""
    asked = {"steps": plan.steps, "batch": plan.batch, "precision": plan.precision, "threads": plan.threads}
    path = folder / "plan.json"
    if path.exists():
        found = json.loads(path.read_text())
        if found != asked:
            raise CheckpointError(
                f"{path}: this training was begun with {found}, and is now asked for {asked}. Use another state folder."
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asked))


def training_record(member: Member, leg: Leg, plan: FamilyPlan, seed: int, folder: Path) -> dict[str, object]:
    """What training.json says: sizes, tokens, schedule, seed, machine, and the mean loss of the last 64 steps."""
    losses = json.loads((folder / leg.name / f"step-{leg.end:06d}" / "state.json").read_text())["losses"]
    return {
        "family": "prose",
        "parameters_linear": member.parameters_linear,
        "training_tokens": leg.end * plan.batch * CONTEXT,
        "steps": leg.end,
        "batch_tokens": plan.batch * CONTEXT,
        "learning_rate": member.learning_rate,
        "seed": seed,
        "precision": plan.precision,
        "threads": plan.threads,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "training_loss_last_64_steps": round(float(np.mean(losses[-64:])), 5),
    }


def write_finished(target: Path, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, record: dict[str, object]) -> None:
    """A Hugging Face directory in bfloat16, written under a temporary name and renamed."""
    temporary = target.with_name(f".{target.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    model.bfloat16().save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    (temporary / "training.json").write_text(json.dumps(record, indent=2) + "\n")
    with safe_open(temporary / "model.safetensors", "pt") as weights:
        assert "model.embed_tokens.weight" in weights.keys()  # noqa: SIM118 (safe_open is no mapping)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(temporary, target)
