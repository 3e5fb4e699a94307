"""Steps of matrices in training: rows of an embedding, codes of k bits, and the products of those with matrices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

from kbit.fixedpoint.dyadic import Dyadic
from kbit.fixedpoint.linear import row_scales
from kbit.fixedpoint.rounding import largest, narrow, saturate, scaled
from kbit.models.integer_float import turned
from kbit.models.integer_program import Program, Step
from kbit.models.integer_run import BITS, codes
from kbit.qat.fake_quantize import pass_through
from kbit.qat.integer_parts import Matrix, bias_integers
from kbit.qat.integer_step import Pass, Taught, within

FLOAT32_WHOLE = 2**24  # up to which float32 holds every whole number, and so any sum of products that stays below


class Embed(Taught):
    """Rows of the embedding."""

    def __init__(self, matrix: Matrix, unit: float, *about: Any) -> None:
        super().__init__(*about)
        self.matrix, self.unit = matrix, unit
        matrix.quantizer.hold(unit)

    def results(self) -> dict[int, float]:
        return {self.step.to[0]: self.unit}

    def scales(self, unit: Tensor) -> tuple[Tensor, Tensor]:
        """Multiplier and shift of each row."""
        scale = Dyadic.of(unit / self.unit, what=self.matrix.name)
        return torch.as_tensor(scale.multiplier), torch.as_tensor(scale.shift)

    def forward(self, state: Pass) -> None:
        now = state.matrices[self.matrix.name]
        multiplier, shift = (each[state.ids, None] for each in self.scales(now.unit))
        rows = scaled(now.whole[state.ids].long() * multiplier, shift).int()
        state.put(self.step.to[0], rows, self.unit, lambda floats: functional.embedding(state.ids, now.values))

    def lowered(self, program: Program) -> Step:
        packed = self.matrix.packed()
        multiplier, shift = self.scales(self.matrix.quantizer.unit())
        return self.changed(
            matrix=(program.matrix(self.matrix.name, packed),),
            multiplier=(program.tensor(multiplier.to(torch.int16)),),
            shift=(program.tensor(shift.to(torch.int8)),),
        )


class Quantized(Taught):
    """Codes of k bits, of rows or of their Hadamard transforms."""

    def results(self) -> dict[int, float]:
        width = self.step.numbers[3]
        return {self.step.to[0]: self.units[self.step.from_[0]] * (width**-0.5 if width > 1 else 1.0)}

    def forward(self, state: Pass) -> None:
        k, a, e, width = self.step.numbers
        from_, to = self.step.from_[0], self.step.to[0]
        rows = codes(state.integers[from_], k, a, e, width)
        state.integers[to] = rows
        if state.floats is None:
            return
        x = turned(state.floats[from_], width if width > 1 else 0)
        end = torch.ldexp(rows.a.float() * self.results()[to], rows.e)
        if a:
            x = torch.where(x.detach().abs() <= end, x, x.detach())
        state.floats[to] = pass_through(x, rows.q.float() * (end / largest(k)))


class Multiplied(Taught):
    """Up to three matrices times the same codes."""

    def __init__(
        self,
        matrices: list[Matrix],
        biases: list[Tensor | None],
        y_units: tuple[float, ...],
        k_x: int,
        kinds: list[str],
        *about: Any,
    ) -> None:
        super().__init__(*about)
        self.matrices = nn.ModuleList(matrices)
        self.biases = nn.ParameterDict({str(j): bias.clone() for j, bias in enumerate(biases) if bias is not None})
        self.y_units, self.k_x, self.kinds = y_units, k_x, kinds
        for matrix, y_unit in zip(matrices, y_units, strict=True):
            matrix.quantizer.hold(y_unit * largest(k_x) / self.units[self.step.from_[0]])

    def results(self) -> dict[int, float]:
        return dict(zip(self.step.to, self.y_units, strict=True))

    def products(self) -> list[tuple[int, Matrix, Tensor | None, float]]:
        """(buffer, matrix, bias, unit of the result) of each."""
        biases = [self.biases.get(str(j)) for j in range(len(self.matrices))]
        return list(zip(self.step.to, self.matrices, biases, self.y_units, strict=True))  # type: ignore[arg-type]

    def scales(self, unit: Tensor, y_unit: float, name: str) -> tuple[Tensor, Tensor]:
        """Multiplier int16 and shift int8 of each row."""
        return row_scales(unit, self.units[self.step.from_[0]], self.k_x, y_unit, name)

    def forward(self, state: Pass) -> None:
        x = state.integers[self.step.from_[0]]
        for (to, matrix, bias, y_unit), kind in zip(self.products(), self.kinds, strict=True):
            now = state.matrices[matrix.name]
            multiplier, shift = self.scales(now.unit, y_unit, matrix.name)
            y = scaled(sums(x.q, now.whole, self.k_x) * x.a.long() * multiplier.long(), shift.long() - x.e.long())
            added = bias_integers(bias, y_unit)
            y = narrow(saturate(y if added is None else y + added, BITS[kind]), BITS[kind])
            state.integers[to] = y
            if state.floats is not None:
                floats: Tensor = Product.apply(state.floats[self.step.from_[0]], now.values, bias, y.float() * y_unit)
                state.floats[to] = within(floats, y)

    def lowered(self, program: Program) -> Step:
        operands: dict[str, list[int]] = {"matrix": [], "multiplier": [], "shift": [], "bias": []}
        for _, matrix, bias, y_unit in self.products():
            operands["matrix"].append(program.matrix(matrix.name, matrix.packed()))
            scales = self.scales(matrix.quantizer.unit(), y_unit, matrix.name)
            for name, tensor in zip(("multiplier", "shift", "bias"), (*scales, bias_integers(bias, y_unit)), strict=True):
                operands[name].append(program.tensor(tensor))
        return self.changed(**{name: tuple(numbers) for name, numbers in operands.items()})


def sums(q: Tensor, whole: Tensor, k_x: int) -> Tensor:
    """sum_j whole[r, j] q[..., j], exactly: int64 (..., n_out) of int8 q, |q| <= 2^(k_x - 1) - 1, and whole numbers in float64.

    No sum of any of the terms exceeds max_r sum_j |whole| * L, which is below 2^31: float64 holds all of them, and where that is
    below 2^24 float32 does too, unless torch was allowed to multiply in fewer bits.
    """
    most = float(whole.abs().sum(1).max()) * largest(k_x)
    plain = most < FLOAT32_WHOLE and torch.get_float32_matmul_precision() == "highest"
    dtype = torch.float32 if plain else torch.float64
    return (q.to(dtype) @ whole.T.to(dtype)).long()


class Product(Function):
    """A value in the place of x w^T + bias, with its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, bias: Tensor | None, value: Tensor) -> Tensor:
        """x (..., n_in), w (n_out, n_in), value (..., n_out)."""
        ctx.save_for_backward(x, w)
        ctx.biased = bias is not None
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Of x, w and the bias."""
        g = gradients[0]
        x, w = ctx.saved_tensors
        flat = g.flatten(0, -2)
        return g @ w, flat.T @ x.flatten(0, -2), flat.sum(0) if ctx.biased else None, None
