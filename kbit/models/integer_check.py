"""Whether a program fits itself: no step of one that passes can read or write outside its operands, whatever a file said."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from kbit.fixedpoint.dyadic import MOST_SHIFT
from kbit.fixedpoint.tables import CURVES
from kbit.models.integer_program import KINDS, Buffer, Program, Step, WrongProgramError
from kbit.packed import PackedTensor

MOST_WIDTH = 2**17  # up to which sums of 8-bit products and of squares are proven
MOST_VOCABULARY = 2**24
MOST_PRODUCTS = 3  # of one input, in one step
MOST_LEFT = 16
MOST_TRANSFORM = 2**15  # numbers under one Hadamard transform
ONTO = ("positions", "add")  # operators that read what they write
OF_A_POSITION = ("positions", "rotate", "store", "attend")  # operators for which it matters where a row stands


def check(program: Program) -> None:
    """Raise WrongProgramError where a step does not fit its buffers, matrices or tensors, or a number is not allowed."""
    _need(bool(program.buffers) and program.buffers[-1].kind == "int32", "its last buffer is not one of logits")
    for buffer in program.buffers:
        _need(0 < buffer.width <= MOST_VOCABULARY and buffer.kind in KINDS, "a buffer has no kind or width that there is")
    _need(0 < program.positions <= MOST_WIDTH and 0 <= program.logits_shift <= 31, "its positions or logits_shift are none")
    cache = program.cache
    sizes = (cache.layers, cache.kv_heads, cache.head)
    _need(min(sizes) > 0 and max(sizes) <= MOST_WIDTH and 2 <= cache.k <= 8, "its cache has no size that there is")
    _need(bool(program.steps) and program.steps[0].op == "embed", "its first step does not embed tokens")
    for weight in program.weights:
        _need(is_integer_format(weight), f"a matrix is in {weight.fmt}, which has no whole numbers in 8 bits")
    written: set[int] = set()
    stored: set[int] = set()
    for index, step in enumerate(program.steps):
        try:
            _need(step.op in OPERATORS, f"there is no operator {step.op!r}")
            OPERATORS[step.op](Checked(program, step))
            reads = step.from_ + (step.to if step.op in ONTO else ())
            _need(written.issuperset(reads), "it reads a buffer that no step before it wrote, or that ends with 'last'")
            if step.op == "store":
                _need(step.numbers[0] not in stored, "its layer is stored already")
                stored.add(step.numbers[0])
            _need(step.op != "attend" or step.numbers[0] in stored, "its layer is stored after it, or never")
            written = set(step.to) if step.op == "last" else written | set(step.to)
        except WrongProgramError as error:
            raise WrongProgramError(f"step {index} ({step.op[:20]}): {error}") from None
    ends = [step.op for step in program.steps if step.op in ("last", *OF_A_POSITION)]
    _need(ends.count("last") == 1 and ends[-1] == "last", "a step that knows positions comes after 'last', or that is not one")
    _need(len(program.buffers) - 1 in written, "no step writes its logits")


def is_integer_format(weight: PackedTensor) -> bool:
    """Whether codes are whole numbers times one scale a row, or a scale of 8 bits a block under one a row."""
    fmt = weight.fmt
    plain = fmt.codebook == "int" and 2 <= fmt.k <= 8 and fmt.affine is None and not fmt.kept_percent
    return plain and ((fmt.granularity == "row" and fmt.scales == "f16") or fmt.scales == "i8")


class Checked:
    """One step against its operands; a method an operator."""

    def __init__(self, program: Program, step: Step) -> None:
        self.program, self.step = program, step
        for numbers, count in ((step.from_ + step.to, len(program.buffers)), (step.matrix, len(program.weights))):
            _need(all(0 <= number < count for number in numbers), "it names a buffer or matrix that there is not")
        for number in step.multiplier + step.shift + step.bias + step.tensor:
            _need(-1 <= number < len(program.tensors), "it names a tensor that there is not")

    def embed(self) -> None:
        """Rows of a matrix onto the residual stream."""
        self.counts(0, 1, 1, 0)
        self.kinds((), ("int32",))
        self.scaled_matrix(0, n_in=self.to(0).width)

    def positions(self) -> None:
        """Positions that are learned."""
        self.counts(0, 1, 0, 1)
        self.kinds((), ("int32",))
        self.integers(self.step.tensor[0], torch.int16, (self.program.positions, self.to(0).width))
        _need(0 <= self.number(0) <= MOST_LEFT, "its left shift is none of 0 to 16")

    def hadamard(self) -> None:
        """The residual stream under a Hadamard transform."""
        self.counts(1, 0, 0, 2)
        self.kinds(("int32",), ())
        width, shift = self.step.numbers
        power = 0 < width <= MOST_TRANSFORM and not width & (width - 1)
        _need(power and self.from_(0).width % width == 0, "its transform does not divide the row")
        _need(0 <= shift <= 31, "its shift is none of 0 to 31")

    def norm(self) -> None:
        """RMSNorm, LayerNorm."""
        self.counts(1, 1, 0, 4)
        _need(self.from_(0).kind in ("int32", "int16") and self.to(0).kind == "int16", "it does not give 16 bits")
        width, shift, epsilon, least = self.step.numbers
        _need(self.from_(0).width == self.to(0).width and 0 < width <= MOST_WIDTH, "its widths differ")
        _need(self.to(0).width % width == 0, "its width does not divide the row")
        _need(-256 <= shift <= 256 and 0 <= epsilon < 2**61 and -32 <= least <= 64, "its shift or epsilon is none")
        self.integers(self.step.tensor[0], torch.int16, (width,))
        self.integers(self.step.bias[0] if self.step.bias else -1, torch.int32, (width,), optional=True)

    def quantize(self) -> None:
        """Codes of k bits."""
        self.counts(1, 1, 0, 4)
        _need(self.from_(0).kind in ("int32", "int16") and self.to(0).kind == "rows", "it does not give codes")
        k, a, e, width = self.step.numbers
        _need(self.from_(0).width == self.to(0).width, "its widths differ")
        _need(2 <= k <= 8 and 0 <= a < 2**15 and 0 <= e <= 31, "its bits or its step are none")
        power = 0 <= width <= MOST_TRANSFORM and not width & (width - 1)
        _need(power and (width < 2 or self.to(0).width % width == 0), "its transform does not divide the row")

    def linear(self) -> None:
        """Products of one input."""
        count = len(self.step.to)
        _need(1 <= count <= MOST_PRODUCTS, "it has none or more than three products")
        self.counts(1, count, count, 0)
        _need(self.from_(0).kind == "rows", "it does not read codes")
        for j in range(count):
            _need(self.to(j).kind in ("int32", "int16"), "it writes codes")
            self.scaled_matrix(j, n_in=self.from_(0).width, n_out=self.to(j).width)
            bias = self.step.bias[j] if len(self.step.bias) == count else -1
            _need(len(self.step.bias) in (0, count), "it has biases for some of its products")
            self.integers(bias, torch.int32, (self.to(j).width,), optional=True)

    def rotate(self) -> None:
        """Rotary positions."""
        self.counts(1, 0, 0, 2)
        self.kinds(("int16",), ())
        head, rotary = self.step.numbers
        _need(0 < head <= MOST_WIDTH and self.from_(0).width % head == 0, "its heads do not divide the row")
        _need(0 < rotary <= head and rotary % 2 == 0 and len(self.step.tensor) == 2, "its pairs do not fit a head")
        for number in self.step.tensor:
            self.integers(number, torch.int16, (self.program.positions, rotary // 2))

    def store(self) -> None:
        """Keys and values into the cache."""
        self.counts(2, 0, 0, 2)
        self.kinds(("int16", "int16"), ())
        cache = self.program.cache
        width = cache.kv_heads * cache.head
        _need(all(self.from_(i).width == width for i in range(2)), "its keys and values do not fit the cache")
        _need(0 <= self.number(0) < cache.layers and self.number(1) == cache.k, "it has no layer of the cache, or other bits")

    def attend(self) -> None:
        """Attention over the cache."""
        self.counts(1, 1, 0, 4)
        self.kinds(("int16",), ("int16",))
        cache = self.program.cache
        layer, multiplier, shift, k = self.step.numbers
        _need(self.from_(0).width == self.to(0).width and self.from_(0).width % (cache.kv_heads * cache.head) == 0, "its heads")
        _need(0 <= layer < cache.layers and k == cache.k, "it has no layer of the cache, or other bits")
        _need(0 <= multiplier < 2**15 and 0 <= shift <= MOST_SHIFT, "its scale of scores is none")

    def gate(self) -> None:
        """act(g) * u, or act(g)."""
        count = 2 if self.step.op == "gate" else 1
        self.counts(count, 1, 0, 1)
        self.kinds(("int16",) * count, ("int32",))
        _need(all(self.from_(i).width == self.to(0).width for i in range(count)), "its widths differ")
        _need(self.step.table in CURVES and 0 <= self.number(0) <= 15, "it has no table or places that there are")

    def onto(self) -> None:
        """Addition onto the residual stream; the last row alone."""
        self.counts(1, 1, 0, 0)
        self.kinds(("int32",), ("int32",))
        _need(self.from_(0).width == self.to(0).width, "its widths differ")

    def counts(self, from_: int, to: int, matrices: int, numbers: int) -> None:
        """So many operands of each kind."""
        step = self.step
        found = (len(step.from_), len(step.to), len(step.matrix), len(step.multiplier), len(step.shift), len(step.numbers))
        _need(found == (from_, to, matrices, matrices, matrices, numbers), "it has too few or too many operands")
        least = {"positions": 1, "rms_norm": 1, "layer_norm": 1, "rotate": 2}.get(step.op, 0)
        _need(len(step.tensor) == least and len(step.bias) <= max(1, matrices), "it has too few or too many operands")

    def kinds(self, from_: tuple[str, ...], to: tuple[str, ...]) -> None:
        """The kinds of the buffers."""
        found = tuple(self.from_(i).kind for i in range(len(from_))), tuple(self.to(i).kind for i in range(len(to)))
        _need(found == (from_, to), "its buffers are of other kinds")

    def scaled_matrix(self, j: int, n_in: int, n_out: int | None = None) -> None:
        """Matrix j with a multiplier and a shift for each of its rows."""
        rows, columns = self.program.weights[self.step.matrix[j]].shape
        _need(columns == n_in and columns < MOST_WIDTH and rows == (n_out or rows), "its matrix is of another shape")
        multiplier = self.integers(self.step.multiplier[j], torch.int16, (rows,))
        shift = self.integers(self.step.shift[j], torch.int8, (rows,))
        assert multiplier is not None
        assert shift is not None
        _need(int(multiplier.min()) >= 0 and 0 <= int(shift.min()) <= int(shift.max()) <= MOST_SHIFT, "its scales are none")

    def integers(self, number: int, dtype: torch.dtype, shape: tuple[int, ...], *, optional: bool = False) -> Tensor | None:
        """The tensor `number`, of this dtype and shape."""
        if number < 0:
            _need(optional, "it lacks a tensor")
            return None
        found = self.program.tensors[number]
        _need(found.dtype == dtype and tuple(found.shape) == shape, f"tensor {number} is not {dtype} of shape {shape}")
        return found

    def from_(self, i: int) -> Buffer:
        """The buffer that it reads."""
        return self.program.buffers[self.step.from_[i]]

    def to(self, i: int) -> Buffer:
        """The buffer that it writes."""
        return self.program.buffers[self.step.to[i]]

    def number(self, i: int) -> int:
        """One of its numbers."""
        return self.step.numbers[i]


# operator -> the method that knows its operands
OPERATORS: dict[str, Callable[[Checked], None]] = {
    "embed": Checked.embed,
    "positions": Checked.positions,
    "hadamard": Checked.hadamard,
    "rms_norm": Checked.norm,
    "layer_norm": Checked.norm,
    "quantize": Checked.quantize,
    "linear": Checked.linear,
    "rotate": Checked.rotate,
    "store": Checked.store,
    "attend": Checked.attend,
    "gate": Checked.gate,
    "activate": Checked.gate,
    "add": Checked.onto,
    "last": Checked.onto,
}


def _need(holds: bool, what: str) -> None:
    if not holds:
        raise WrongProgramError(what)
