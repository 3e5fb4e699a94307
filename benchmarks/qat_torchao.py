"""kbit's quantization-aware training beside torchao's: equal formats, data, steps, loss, optimizer and rate.

The grids are torchao's, which kbit expresses exactly: its symmetric int2 and int4 are {-2 .. 1} and {-8 .. 7} times a scale for
each group, a table in kbit's words (table2:ao-b32); its asymmetric ones have an integer zero point, int2-b32-asym. Groups are of
32, since torchao wants them to divide every row. torchao rounds to a range that it takes from the weights at every step, or
learns scales where range_learning is asked for. Linear layers alone are quantized; embeddings and norms are trained in floats.
All start from the same model, and are measured as they are simulated, with scales in float32 for torchao and in float16, as
stored, for kbit.

    python benchmarks/qat_torchao.py family/prose-94k --text texts/ --eval family/texts/books.txt --steps 200

torchao is read from PYTHONPATH where it is not installed: pip install --no-deps --target DIR torchao
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import nn
from transformers import PreTrainedModel

from kbit.evaluation import Protocol, evaluate
from kbit.evaluation.text import read_text
from kbit.models import load
from kbit.qat import METHOD, TrainPlan, prepare_qat, read_training_text
from kbit.qat.loss import distillation
from kbit.qat.train import BETAS, RATE, parameter_groups, root_mean_square
from kbit.recipes import Recipe

GROUP = 32
KEPT = {"embeddings": "f32", "lm_head": "f32"}
WINDOWS = 48  # of the text that is measured


def by_kbit(model: PreTrainedModel, k: int, symmetric: bool) -> tuple[nn.Module, list[dict]]:
    """kbit's prepared model, and groups of its parameters with rates relative to 1."""
    if symmetric:
        levels = tuple(float(level) for level in range(-(2 ** (k - 1)), 2 ** (k - 1)))
        recipe = Recipe(f"table{k}:ao-b{GROUP}", method=METHOD, tables={"ao": levels}, **KEPT)
    else:
        recipe = Recipe(f"int{k}-b{GROUP}-asym", method=METHOD, **KEPT)
    prepared = prepare_qat(model, recipe)
    return prepared, parameter_groups(prepared, TrainPlan(steps=1, rate=1.0))


def by_torchao(model: PreTrainedModel, k: int, symmetric: bool, learned: bool) -> tuple[nn.Module, list[dict]]:
    """torchao's prepared model, and its parameters at one rate."""
    from torchao.quantization import quantize_
    from torchao.quantization.granularity import PerGroup
    from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig, initialize_fake_quantizers

    prepared = deepcopy(model).train().requires_grad_(True)
    config = IntxFakeQuantizeConfig(
        getattr(torch, f"int{k}" if symmetric else f"uint{k}"),
        PerGroup(GROUP),
        is_symmetric=symmetric,
        is_dynamic=not learned,
        range_learning=learned,
        zero_point_precision=torch.float32 if learned and not symmetric else torch.int32,  # integers cannot learn
    )
    head = prepared.lm_head  # tied to the embeddings, which stay as they are
    quantize_(
        prepared,
        QATConfig(weight_config=config, step="prepare"),
        lambda module, _: type(module) is nn.Linear and module is not head,
    )
    if learned:
        initialize_fake_quantizers(prepared, (torch.zeros(1, 8, dtype=torch.long),))
    return prepared, [{"params": [p for p in prepared.parameters() if p.requires_grad], "lr": 1.0, "weight_decay": 0.0}]


def candidates(model: PreTrainedModel, k: int, symmetric: bool) -> Iterator[tuple[str, nn.Module, list[dict]]]:
    """Each with its name."""
    yield "kbit", *by_kbit(model, k, symmetric)
    yield "torchao", *by_torchao(model, k, symmetric, learned=False)
    yield "torchao, range learning", *by_torchao(model, k, symmetric, learned=True)


def train(
    model: nn.Module, groups: list[dict], teacher: PreTrainedModel, text: object, steps: int, batch: int, rate: float
) -> float:
    """Seconds of `steps` of AdamW on the KL divergence, warm-up and cosine; the loop is one for all."""
    optimizer = torch.optim.AdamW(groups, betas=BETAS)
    relative = [group["lr"] for group in optimizer.param_groups]
    model.train()
    started = time.perf_counter()
    for step in range(steps):
        warm = max(1, round(0.05 * steps))
        share = (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))
        for group, own in zip(optimizer.param_groups, relative, strict=True):
            group["lr"] = rate * share * own
        windows = text.of_step(step, batch)  # type: ignore[attr-defined]
        ids, tokens = windows[:, :-1], windows[:, 1:]
        with torch.no_grad():
            said = teacher(input_ids=ids, use_cache=False).logits
        distillation(model(input_ids=ids, use_cache=False).logits, said, tokens).backward()
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - started


def main() -> None:
    """Train, measure and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--text", required=True, help="training text, as kbit qat reads it")
    parser.add_argument("--eval", required=True, help="text that is measured")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--k", type=int, nargs="+", default=[2, 4])
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[0.5, 1.0, 2.0], help="in units of kbit's default; all run, best counts"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    teacher = load(arguments.model)
    window = min(256, teacher.config.max_position_embeddings)
    length = {"window": window, "batch": arguments.batch, "steps": arguments.steps, "held_out": 1}
    text = read_training_text(arguments.text, teacher.kbit_tokenizer, **length)
    measured = read_text(arguments.eval)
    protocol = Protocol(window=window, max_windows=WINDOWS)

    def loss_of(model: nn.Module) -> float:
        return evaluate(model, measured, tokenizer=teacher.kbit_tokenizer, protocol=protocol).loss  # type: ignore[arg-type]

    base, rows = loss_of(teacher), []
    for k in arguments.k:
        for symmetric in (True, False):
            for share in arguments.rates:
                for name, model, groups in candidates(teacher, k, symmetric):
                    before = loss_of(model)
                    rate = share * RATE * root_mean_square(prepare_qat(teacher, Recipe("int4-b64", **KEPT)))
                    seconds = train(model, groups, teacher, text, arguments.steps, arguments.batch, rate)
                    grid = f"int{k}" if symmetric else f"int{k} asymmetric"
                    row = {"grid": grid, "by": name, "rate": rate, "before": before - base, "after": loss_of(model) - base}
                    rows.append(row | {"seconds": seconds})
                    if not arguments.json:
                        print(
                            f"{grid:16} {name:24} rate {rate:.1e}  {row['before']:8.4f} -> {row['after']:8.4f} nats above "
                            f"16 bits, {1e3 * seconds / arguments.steps:.0f} ms a step",
                            flush=True,
                        )
    if arguments.json:
        print(json.dumps({"model": arguments.model, "loss_16_bits": base, "steps": arguments.steps, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
