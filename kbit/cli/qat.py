"""`kbit qat`: a model in 16 bits in, trained at its k bits, a kbit checkpoint out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kbit.cli.recipe_options import (
    ActivationsOption,
    EmbeddingsOption,
    HeadOption,
    KeepOption,
    RangesOption,
    RecipeOption,
    RotateOption,
    SmoothOption,
    WeightsOption,
    format_of,
    integers_of,
    recipe_of,
    with_integers,
)

OPTIONS = "--weights, --activations, --ranges, --smooth, --rotate and --calibration"


def qat(
    model: Annotated[str, typer.Argument(help="A Hugging Face folder, a hub id or a GGUF file.")],
    text: Annotated[
        Path,
        typer.Option(help="Training text: a text file, *.jsonl or *.jsonl.xz with a 'text' on each line, or a folder of these."),
    ],
    steps: Annotated[int, typer.Option(help="Steps of training, of BATCH windows each.")],
    out: Annotated[Path, typer.Option(help="The new folder for the checkpoint.")],
    format: Annotated[str | None, typer.Option(help="Format of the linear layers, such as int2-b64.")] = None,
    recipe: RecipeOption = None,
    method: Annotated[
        str | None, typer.Option(help="Where the scales start: rtn-mse (the default), rtn, rtn-percentile, rtn-kl.")
    ] = None,
    embeddings: EmbeddingsOption = None,
    lm_head: HeadOption = None,
    keep: KeepOption = None,
    fixed_point: Annotated[
        bool,
        typer.Option("--fixed-point", help="Train a model that runs on integers alone; the next six options say how."),
    ] = False,
    weights: WeightsOption = None,
    activations: ActivationsOption = None,
    ranges: RangesOption = None,
    smooth: SmoothOption = None,
    rotate: RotateOption = None,
    calibration: Annotated[
        Path | None, typer.Option(help="UTF-8 text to calibrate it on; by default passages of the training text.")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(help="The model whose predictions it learns, one with the same tokenizer; by default MODEL in 16 bits."),
    ] = None,
    state: Annotated[
        Path | None, typer.Option(help="Where the state of training is kept until it is done; OUT.training by default.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Windows of a step, on all devices together.")] = 8,
    window: Annotated[
        int | None, typer.Option(help="Tokens of a window; by default the model's context, but no more than 2048.")
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="Highest learning rate; it falls as a cosine to 0. By default 0.005 of the weights' root mean square."),
    ] = None,
    scale_rate: Annotated[float, typer.Option(help="Rate of the scales over that of the weights.")] = 1.0,
    warmup: Annotated[float, typer.Option(help="Share of the steps in which the rate rises.")] = 0.05,
    weight_decay: Annotated[float, typer.Option(help="Weight decay of matrices.")] = 0.0,
    cross_entropy: Annotated[
        float,
        typer.Option(
            help="Share of the loss that is cross-entropy with the text; the rest is the KL divergence from the teacher."
        ),
    ] = 0.0,
    micro_batch: Annotated[
        int | None, typer.Option(help="Windows at once on a device; gradients of the others are added.")
    ] = None,
    precision: Annotated[str, typer.Option(help="f32, or bf16 for products in bfloat16.")] = "f32",
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Save memory: compute activations again in the backward pass.")
    ] = False,
    check_every: Annotated[
        int | None, typer.Option(help="Steps between two measurements of held-out text; a sixteenth by default.")
    ] = None,
    held_out: Annotated[int, typer.Option(help="Windows of the text that are measured and not trained on.")] = 16,
    seed: Annotated[int, typer.Option(help="Seed of the order of the text, and of dropout.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, where there is more; else what accelerate finds.")] = None,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train MODEL with the quantizer in the loop, and write a kbit checkpoint to the folder OUT.

    The loss is the KL divergence from MODEL in 16 bits, or from a larger --teacher. Held-out text is measured as it goes, and the
    best weights are written. Killed at any moment and started again, it goes on where it was. On several devices: accelerate
    launch -m kbit qat ...

    Example: kbit qat family/prose-94k --format int2-b64 --text texts/ --steps 800 --out prose-2-bits
    """
    from kbit.cli.progress import bar
    from kbit.cli.show import show
    from kbit.errors import ModelError
    from kbit.evaluation import read_text
    from kbit.qat import METHOD, TrainPlan, qat_checkpoint, qat_fixed_point

    given = {"weights": format_of(format, weights), "method": method, "embeddings": embeddings, "lm_head": lm_head}
    wanted = recipe_of(recipe, keep, example="int2-b64", usual_method=METHOD, **given)
    settings, more = integers_of(activations, ranges, smooth, rotate), weights is not None or calibration is not None
    wanted = with_integers(wanted, settings, fixed_point=fixed_point, more=more, options=OPTIONS)
    plan = TrainPlan(
        steps=steps,
        batch=batch,
        window=window,
        rate=rate,
        scale_rate=scale_rate,
        warmup=warmup,
        weight_decay=weight_decay,
        cross_entropy=cross_entropy,
        micro_batch=micro_batch,
        precision=precision,
        recompute=recompute,
        check_every=check_every,
        held_out=held_out,
        seed=seed,
    )
    how: dict[str, Any] = {"text": text, "plan": plan, "teacher": teacher, "state": state, "device": device}
    how["trust_remote_code"] = trust_remote_code
    with bar("training") as advance:
        if wanted.integers is None:
            result = qat_checkpoint(model, wanted, out, **how, progress=advance)
        else:
            ranged = None if calibration is None else read_text(calibration)
            result = qat_fixed_point(model, wanted, out, calibration=ranged, **how, progress=advance)
    if result.main:
        show(result, json)
    if result.stopped:
        raise ModelError(f"{model}: {result.stopped}")
