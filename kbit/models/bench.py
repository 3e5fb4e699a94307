"""How fast this machine multiplies packed weights at each k, and reads tokens with a model, beside what memory gives."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import mean, median, quantiles, stdev

import psutil
import torch
from transformers import PreTrainedModel

from kbit import kernels
from kbit.errors import KbitError, ModelError
from kbit.formats import Encoded, Format
from kbit.kernels.bench import cache_bytes, cpu_name, read_speed, take_turns, to_read
from kbit.methods import choose
from kbit.models.architecture import parameters
from kbit.models.integer_model import IntegerModel
from kbit.models.reading import Reader, bytes_per_token, compute_of, context_of, open_reader, read, vocabulary_of, way_of
from kbit.packed import COMPUTE, PackedTensor, pack

FORMATS = tuple(f"int{k}-b64" for k in range(1, 9))
SHAPE = (4096, 4096)  # n_out, n_in of Llama 7B's attention
SAMPLE_ROWS = 256  # rows that are quantized; the others repeat them
ROWS = ("codes", "scale", "zero", "minimum", "mean", "kept_weight")  # of Encoded: those with a row for each of the weight
CACHES_OF_WEIGHTS = 3  # the copies of a weight together, in last-level caches
FEW_TOKENS = 8  # up to so many, the copies fill one cache; with more, the read between two turns has emptied it
MOST_COPIES = 1024
PROMPT, ANSWER = 512, 128  # llama-bench's own numbers

Advance = Callable[[float, float, str], None]


@dataclass(frozen=True)
class Machine:
    """Where it was measured. read_1, read_n: bytes per second that memory gives to one thread and to all `threads`."""

    cpu: str
    isa: str
    isa_reason: str
    threads: int
    read_1: float
    read_n: float


@dataclass(frozen=True)
class Product:
    """One format's row. seconds: the median of its products; low, high: their quartiles. read: bytes per second that memory gave
    in the same rounds. nbytes: of the packed weight. bits_per_weight: those of its parts, padding included.
    """

    format: str
    k: int
    bits_per_weight: float
    nbytes: int
    seconds: float
    low: float
    high: float
    macs: int
    read: float

    @property
    def bandwidth(self) -> float:
        """Packed bytes per second."""
        return self.nbytes / self.seconds

    @property
    def share(self) -> float:
        """Of the bytes per second that memory gave."""
        return self.bandwidth / self.read

    @property
    def macs_per_second(self) -> float:
        """Weights multiplied and added per second."""
        return self.macs / self.seconds


@dataclass(frozen=True)
class Speed:
    """pp512 or tg128 of a model, in the words of llama-bench: tokens per second, mean and standard deviation of repetitions.

    bandwidth: bytes of weights read per second, where each token reads them all.
    """

    name: str
    tokens_per_second: float
    deviation: float
    bandwidth: float | None


@dataclass(frozen=True)
class ModelSpeed:
    """A model's row. nbytes: weights that a token reads. way: native or modules."""

    model: str
    parameters: int
    nbytes: int
    way: str
    compute: str
    tests: tuple[Speed, ...]


def measure_machine() -> Machine:
    """What there is to multiply with."""
    data = to_read()
    return Machine(cpu_name(), kernels.isa(), kernels.isa_reason(), kernels.threads(), read_speed(1, data), read_speed(data=data))


def bench_products(
    formats: Sequence[str | Format] = FORMATS,
    *,
    shape: tuple[int, int] = SHAPE,
    batch: int = 1,
    compute: str = "int8",
    seconds: float = 6.0,
    progress: Advance | None = None,
) -> list[Product]:
    """The product of a weight of `shape` and `batch` tokens in each format, in rounds of one turn each, for `seconds` in all.

    A turn multiplies by several copies of the weight, which together exceed the last-level cache. Raises FormatError for formats
    that do not exist, KbitError for sizes that cannot be measured.
    """
    wanted = list(dict.fromkeys(str(Format.parse(fmt) if isinstance(fmt, str) else fmt) for fmt in formats))
    check_sizes(wanted, shape, batch, compute)
    x = torch.randn(batch, shape[1], generator=torch.Generator().manual_seed(0))
    y = torch.empty(batch, shape[0])
    weights = {}
    for index, fmt in enumerate(wanted):
        if progress:
            progress(index, len(wanted), f"packing {fmt}")
        weights[fmt] = packed_copies(Format.parse(fmt), shape, batch)

    calls = {fmt: [partial(packed.native.product, x, y, compute) for packed in packs] for fmt, packs in weights.items()}
    turns = take_turns(calls, to_read(), seconds=seconds, progress=progress)
    ceiling = median(turns.read)
    return [_product(fmt, weights[fmt][0], turns.seconds[fmt], batch, ceiling) for fmt in wanted]


def check_sizes(formats: Sequence[str], shape: tuple[int, int], batch: int, compute: str) -> None:
    """Raise KbitError where these cannot be measured: no format of codes, no matrix, or not enough memory."""
    if floats := [fmt for fmt in formats if Format.parse(fmt).is_float]:
        raise KbitError(f"format '{floats[0]}' has no codes, so its product is torch's. Take one of codes, such as int4-b64.")
    if compute not in COMPUTE:
        raise KbitError(f"compute '{compute}' is not to be had. Write {' or '.join(COMPUTE)}.")
    if min(*shape, batch) < 1:
        raise KbitError(f"a weight of {shape[0]}x{shape[1]} and {batch} tokens make no product. Write sizes of 1 or more.")
    each = [Format.parse(fmt).stored_bits(shape) // 8 for fmt in formats]
    needed = sum(n_bytes * copies_of(n_bytes, batch) for n_bytes in each) + 4 * batch * sum(shape)
    if needed > (free := psutil.virtual_memory().available) // 2:
        raise KbitError(
            f"the weights of {len(formats)} formats of {shape[0]}x{shape[1]} take {needed / 1e9:.1f} GB, more than half of the "
            f"{free / 1e9:.1f} GB that are free. Take fewer formats or a smaller shape."
        )


def copies_of(n_bytes: int, batch: int) -> int:
    """So many copies of a weight of n_bytes that none is found in the last-level cache (of tiny ones at most MOST_COPIES)."""
    caches = CACHES_OF_WEIGHTS if batch == 1 else 1 if batch <= FEW_TOKENS else 0
    return max(1, min(MOST_COPIES, -(-caches * cache_bytes() // n_bytes)))


def packed_copies(fmt: Format, shape: tuple[int, int], batch: int) -> list[PackedTensor]:
    """A weight of `shape` and equal copies of it."""
    n_out, n_in = shape
    sample = torch.randn(min(n_out, SAMPLE_ROWS), n_in, generator=torch.Generator().manual_seed(0))
    packed = pack(repeated(choose("rtn", sample, fmt), n_out))
    copies = [{name: part.clone() for name, part in packed.parts().items()} for _ in range(copies_of(packed.nbytes, batch) - 1)]
    return [packed, *(PackedTensor.from_parts(packed.fmt, shape, parts) for parts in copies)]


def repeated(encoded: Encoded, n_out: int) -> Encoded:
    """Its rows again and again, n_out of them: quantizing so many would take minutes, and teach nothing."""
    n, n_in = encoded.shape
    by_row = {name: values for name in ROWS if (values := getattr(encoded, name)) is not None and len(values) == n}
    again = {name: values.repeat(-(-n_out // n), 1)[:n_out] for name, values in by_row.items()}
    return replace(encoded, shape=(n_out, n_in), **again)


def bench_model(
    model: PreTrainedModel,
    *,
    prompt: int | None = None,
    answer: int | None = None,
    repetitions: int = 5,
    compute: str | None = None,
    progress: Advance | None = None,
) -> ModelSpeed:
    """pp and tg of `model` as llama-bench has them: `prompt` tokens read at once, `answer` tokens read one after another.

    Each begins with an empty cache and takes tokens at random, since their choice is no part of it; one run before warms up. By
    default 512 and 128, or the model's context where that is less; 0 leaves a test out. Raises ModelError beyond the context.
    """
    context = context_of(model)
    lengths = {}
    for word, given, usual in (("pp", prompt, PROMPT), ("tg", answer, ANSWER)):
        n = min(usual, context or usual) if given is None else given
        if n < 0 or (context is not None and n > context):
            raise ModelError(f"{n} tokens do not fit the model's context of {context}. Write 0 to {context}.")
        if n:
            lengths[word] = n
    if repetitions < 1:
        raise ModelError(f"{repetitions} repetitions measure nothing. Take 1 or more.")
    reader = open_reader(model, max([*lengths.values(), 1]), compute)
    nbytes = bytes_per_token(model)
    tests = []
    for index, (word, n) in enumerate(lengths.items()):
        speeds = []
        for repetition in range(repetitions + 1):
            if progress:
                progress(index * (repetitions + 1) + repetition, len(lengths) * (repetitions + 1), f"{word}{n}")
            seconds = timed(reader, model, n, at_once=word == "pp")
            if repetition:
                speeds.append(n / seconds)
        deviation = stdev(speeds) if repetitions > 1 else 0.0
        tests.append(Speed(f"{word}{n}", mean(speeds), deviation, mean(speeds) * nbytes if word == "tg" else None))
    return ModelSpeed(
        str(model.name_or_path), weights_of(model), nbytes, way_of(reader), compute_of(model, compute), tuple(tests)
    )


def weights_of(model: PreTrainedModel) -> int:
    """The number of a model's parameters; of one of integers, of those that its matrices hold."""
    if isinstance(model, IntegerModel):
        return sum(weight.shape[0] * weight.shape[1] for weight in model.program.weights)
    return parameters(model)


def timed(reader: Reader, model: PreTrainedModel, n: int, *, at_once: bool) -> float:
    """Seconds to read n tokens from an empty cache, at once or one after another."""
    tokens = torch.randint(vocabulary_of(model), (n,), generator=torch.Generator().manual_seed(0))
    reader.rewind(0)
    start = time.perf_counter()
    if at_once:
        read(reader, tokens)
    else:
        for token in tokens.split(1):
            reader(token)
    return time.perf_counter() - start


def _product(fmt: str, packed: PackedTensor, seconds: Sequence[float], batch: int, read: float) -> Product:
    low, middle, high = quantiles(seconds, n=4, method="inclusive")
    nbytes, (n_out, n_in) = packed.nbytes, packed.shape
    k = Format.parse(fmt).k
    return Product(fmt, k, nbytes * 8 / (n_out * n_in), nbytes, middle, low, high, batch * n_out * n_in, read)
