"""`kbit generate`: text from a model, as it comes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from kbit.models.generation import Generation

STDIN = "-"


def generate(
    model: Annotated[str, typer.Argument(help="A kbit checkpoint, a Hugging Face folder, a hub id or a GGUF file.")],
    prompt: Annotated[str | None, typer.Option(help="The text to go on from.")] = None,
    prompt_file: Annotated[
        Path | None, typer.Option(help="UTF-8 file with it, or - for stdin; stdin too where neither is given.")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="The prompt is a message: write it in the model's chat template.")] = False,
    system: Annotated[str | None, typer.Option(help="System message, with --chat.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate at most.")] = 128,
    temperature: Annotated[float, typer.Option(help="0: the most likely token always; 1: as the model says.")] = 0.0,
    top_k: Annotated[int | None, typer.Option(help="Draw from the so many most likely tokens. Default: all.")] = None,
    top_p: Annotated[float, typer.Option(help="Draw from the fewest that together are so likely.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed draws the same text.")] = 0,
    stop: Annotated[list[str] | None, typer.Option(help="End before this string; repeat it.")] = None,
    format: Annotated[
        str | None, typer.Option(help="Quantize the linear layers in memory first, to nf4-b64 or the like.")
    ] = None,
    compute: Annotated[
        str | None, typer.Option(help="How packed layers multiply: int8 (the default where there are any), or exact.")
    ] = None,
    check_integer: Annotated[
        bool, typer.Option("--check-integer", help="Watch a model of integers: an operation on a float is an error. Slow.")
    ] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; by default as torch has them.")] = None,
    trust_remote_code: Annotated[bool, typer.Option("--trust-remote-code", help="Run code that comes with the model.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
) -> None:
    """Generate text from MODEL: on stdout as it comes, and on stderr how fast it came.

    Example: kbit generate family/prose-754k --format int4-b64 --prompt "The morning was" --temperature 0.8 --top-p 0.95
    """
    from dataclasses import replace

    from kbit.cli.show import show
    from kbit.cli.threads import use_threads
    from kbit.kernels.bench import read_speed
    from kbit.models import load
    from kbit.models.integer_model import watch
    from kbit.models.sampling import Sampling
    from kbit.recipes import Recipe, quantize

    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    text = read_prompt(prompt, prompt_file, chat=chat, system=system)
    recipe = Recipe(format) if format else None
    use_threads(threads)
    loaded = load(model, trust_remote_code=trust_remote_code)
    if recipe is not None:
        loaded = quantize(loaded, recipe, packed=True)
    if check_integer:
        watch(loaded)
    generation = begin(loaded, text, chat, system, max_tokens=max_tokens, sampling=sampling, stop=stop or (), compute=compute)
    if json:
        answer = "".join(generation.pieces())
    else:
        for piece in generation.pieces():
            print(piece, end="", flush=True)
        print(flush=True)
    statistics = replace(generation.statistics, read_bandwidth=read_speed())
    if json:
        show({"model": model, "format": format, "prompt": text, "text": answer, **statistics.to_json()}, json)
    else:
        typer.echo(statistics, err=True)


def begin(model: PreTrainedModel, text: str, chat: bool, system: str | None, **how: Any) -> Generation:
    """The text that `text` begins, or the answer to it as a message."""
    from kbit.evaluation.forward import tokenizer_of
    from kbit.models.chat import chat_ends, chat_tokens
    from kbit.models.generation import generate

    if not chat:
        return generate(model, text, **how)
    tokenizer = tokenizer_of(model)
    messages = [{"role": "system", "content": system}] if system is not None else []
    ids = chat_tokens(tokenizer, [*messages, {"role": "user", "content": text}])
    return generate(model, ids, ends=tuple(chat_ends(tokenizer)), **how)


def read_prompt(prompt: str | None, path: Path | None, *, chat: bool, system: str | None) -> str:
    """The prompt, from where it is given. Raises KbitError where that is nowhere, or twice."""
    import sys

    from kbit.errors import KbitError
    from kbit.evaluation import read_text

    if prompt is not None and path is not None:
        raise KbitError("--prompt and --prompt-file are two prompts. Leave one of them out.")
    if system is not None and not chat:
        raise KbitError("--system is a message of a chat. Write --chat too.")
    if prompt is not None:
        return prompt
    if path is not None and str(path) != STDIN:
        return without_line_end(read_text(path))
    if path is None and sys.stdin.isatty():
        raise KbitError("there is no prompt. Write --prompt TEXT or --prompt-file FILE, or pipe it in.")
    try:
        return without_line_end(sys.stdin.buffer.read().decode())
    except UnicodeDecodeError as error:
        raise KbitError(f"stdin: byte {error.start} is not UTF-8. Convert it: iconv -f latin1 -t utf-8.") from None


def without_line_end(text: str) -> str:
    """Editors and echo end a file with a line end, which is no part of the prompt."""
    return text.removesuffix("\n").removesuffix("\r")
