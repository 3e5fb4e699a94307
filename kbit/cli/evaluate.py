"""`kbit eval`: how good a model is, and what quantizing it cost."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from kbit.checkpoints import Checkpoint
    from kbit.evaluation import Protocol, Quality

NO_REFERENCE = "none"


def evaluate(
    model: Annotated[str, typer.Argument(help="A Hugging Face folder, a hub id, a GGUF file or a kbit checkpoint.")],
    text: Annotated[Path | None, typer.Option(help="UTF-8 text to measure on.")] = None,
    format: Annotated[
        str | None, typer.Option(help="Quantize the linear layers in memory first, to nf4-b64 or the like.")
    ] = None,
    method: Annotated[
        str, typer.Option(help="How codes are chosen with --format: rtn, rtn-mse, rtn-percentile, rtn-kl.")
    ] = "rtn",
    reference: Annotated[
        str | None,
        typer.Option(
            help="Model to compare with, or none; by default MODEL as it lies with --format, else what MODEL was made from."
        ),
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="gptq, llama-perplexity or family; the next six options change parts of it.")
    ] = None,
    window: Annotated[
        int | None, typer.Option(help="Tokens read at once; by default 2048, or the model's context where that is less.")
    ] = None,
    stride: Annotated[int | None, typer.Option(help="Tokens from window to window; by default the window.")] = None,
    bos: Annotated[bool | None, typer.Option("--bos/--no-bos", help="Begin every window with BOS, or none.")] = None,
    max_windows: Annotated[int | None, typer.Option(help="Read no more windows than this.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32 (the default), bfloat16, float16 or float64.")] = None,
    compute: Annotated[
        str | None, typer.Option(help="How packed layers multiply: exact (the default), or int8 as in generating.")
    ] = None,
    check_integer: Annotated[
        bool, typer.Option("--check-integer", help="Watch a model of integers: an operation on a float is an error. Slow.")
    ] = False,
    tasks: Annotated[str | None, typer.Option(help="Zero-shot tasks: lambada,winogrande,hellaswag,piqa.")] = None,
    tasks_data: Annotated[Path | None, typer.Option(help="Folder of the tasks' JSON-lines files.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many rows of each task.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Windows, or rows of a task, at once.")] = None,
    device: Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, mps.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Seed of methods that draw at random.")] = 0,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure MODEL on a text or on tasks, and its distance to the 16-bit model.

    Perplexity, bits per byte, and the statistics of llama-perplexity --kl-divergence, each with its standard error.

    Example: kbit eval family/prose-754k --format int3-b64 --text family/texts/books.txt
    """
    from kbit.checkpoints import open_checkpoint
    from kbit.cli.show import show
    from kbit.errors import KbitError
    from kbit.evaluation import Findings, find_tasks, named_protocol, read_text, run_tasks, stored_sizes, tokenizer_of
    from kbit.models import computing
    from kbit.models.integer_model import watch
    from kbit.recipes import quantize
    from kbit.recipes.peak import peak_bytes

    names = [name.strip() for name in (tasks or "").split(",") if name.strip()]
    if not text and not names:
        raise KbitError("there is nothing to measure on. Write --text FILE, or --tasks lambada --tasks-data DIR.")
    if names and not tasks_data:
        raise KbitError("--tasks wants the folder of their files. Write --tasks-data DIR.")
    changes = {"window": window, "stride": stride, "bos": bos, "max_windows": max_windows, "dtype": dtype, "compute": compute}
    wanted = named_protocol(protocol, **{name: value for name, value in changes.items() if value is not None})
    prose = read_text(text) if text else ""
    if tasks_data:
        find_tasks(names, tasks_data)
    checkpoint = open_checkpoint(model, trust_remote_code=trust_remote_code)

    how: dict[str, Any] = {
        "dtype": "float32" if format else wanted.dtype,
        "device": device,
        "trust_remote_code": trust_remote_code,
    }
    base = _load(model, **how)
    packed = wanted.compute != "exact"  # with exact the dequantized weights give the same, and faster
    measured = quantize(base, format, method=method, packed=packed, seed=seed) if format else base
    sizes = vars(measured)["kbit_bits"].to_json() if format else stored_sizes(checkpoint, base)
    if check_integer:
        watch(measured)
    against, quality, results = _reference(reference, model, checkpoint, format), None, {}
    if text:
        other = base if against == model else _load_reference(against, reference, model, how) if against else None
        fitted = protocol is None and window is None
        quality = _measure(measured, prose, text, other, tokenizer_of(base), wanted, fitted, batch_size)
    if names and tasks_data:
        logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of what is meant here
        with computing(measured, wanted.compute):
            results = run_tasks(measured, tokenizer_of(base), names, tasks_data, limit, batch_size=batch_size or 8)
    quantized = f"{format} ({method})" if format else None
    show(Findings(model, quantized, against, str(text) if text else None, sizes, quality, results, peak_bytes()), json)


def _load(name: str, *, dtype: str, device: str, trust_remote_code: bool) -> PreTrainedModel:
    import torch

    from kbit.errors import ModelError
    from kbit.models import load

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ModelError(f"--device {device}: torch cannot compute there ({reason}). `kbit info` says what there is.") from None
    packed = torch.device(device).type == "cpu"  # kernels for other devices there are none yet
    model: Any = load(name, dtype=getattr(torch, dtype), packed=packed, trust_remote_code=trust_remote_code)
    loaded: PreTrainedModel = model.to(device)
    return loaded


def _reference(given: str | None, model: str, checkpoint: Checkpoint, format: str | None) -> str | None:
    """The model to compare with: the one given, else MODEL where it is quantized here, else what the checkpoint was made from."""
    from kbit.checkpoints import KbitCheckpoint

    if given is not None:
        return None if given == NO_REFERENCE else given
    if format is not None:
        return model
    return checkpoint.source if isinstance(checkpoint, KbitCheckpoint) else None


def _load_reference(name: str, given: str | None, model: str, how: dict[str, Any]) -> PreTrainedModel:
    from kbit.errors import CheckpointError

    try:
        return _load(name, **how)
    except CheckpointError as error:
        if given is not None:
            raise
        hint = "Name the 16-bit model with --reference, or write --reference none."
        raise CheckpointError(f"{model} was made from {name}, which is not to be had: {error} {hint}") from None


def _measure(
    measured: PreTrainedModel,
    prose: str,
    text: Path,
    reference: PreTrainedModel | None,
    tokenizer: Any,
    protocol: Protocol,
    fitted: bool,
    batch_size: int | None,
) -> Quality:
    from kbit.cli.progress import bar
    from kbit.errors import TextError
    from kbit.evaluation import evaluate, fit_window

    wanted = fit_window(measured, protocol) if fitted else protocol
    with bar("measuring") as advance:
        try:
            return evaluate(
                measured,
                prose,
                reference=reference,
                tokenizer=tokenizer,
                protocol=wanted,
                batch_size=batch_size,
                progress=advance,
            )
        except TextError as error:
            raise TextError(f"{text}: {error}") from None
