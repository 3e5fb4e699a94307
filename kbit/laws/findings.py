"""All that a store says about bits and quality: the curves, the best k at each budget, and the law."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Unpack

from kbit.errors import LawError
from kbit.laws.budgets import BestK, best_k
from kbit.laws.curves import Curve, curves
from kbit.laws.fit import fit
from kbit.laws.law import Law
from kbit.laws.runs import Slice, Table, choose_slice, prepare
from kbit.laws.text import as_text, size

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class Findings:
    """The curves of one slice of a store, its best k at each budget, and its law, or why it has none."""

    chosen: Slice
    axis: str
    curves: tuple[Curve, ...]
    best: BestK
    law: Law | None
    no_law: str

    def to_json(self) -> dict[str, object]:
        """Curves, budgets and law as plain values."""
        return {
            "chosen": self.chosen,
            "axis": self.axis,
            "curves": [
                {
                    "format": curve.format,
                    "k": curve.k,
                    "points": [
                        {"model": model, "parameters_linear": float(N), f"{self.axis}_bits": float(bits), "loss": float(loss)}
                        for model, N, bits, loss in zip(curve.models, curve.N, curve.bits, curve.loss, strict=True)
                    ],
                }
                for curve in self.curves
            ],
            "best_k": self.best.to_json(),
            "law": self.law.to_json() if self.law else None,
            "no_law": self.no_law or None,
        }

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table

        title = ", ".join(f"{name} {value}" for name, value in self.chosen.items())
        heading = f"Loss in nats per token, and {self.axis} memory ({title})"
        table = Table("model", title=heading, title_justify="left", show_lines=True)
        cells: dict[str, dict[str, str]] = {}
        for curve in sorted(self.curves, key=lambda curve: -curve.k):
            table.add_column(curve.format, justify="right")
            for model, bits, loss in zip(curve.models, curve.bits, curve.loss, strict=True):
                cells.setdefault(model, {})[curve.format] = f"{loss:.4f}\n[dim]{size(bits / 8)}[/dim]"
        for model, row in cells.items():
            table.add_row(model, *(row.get(curve.format, "") for curve in sorted(self.curves, key=lambda curve: -curve.k)))
        return Group(table, "", self.best, "", self.law or f"No law: {self.no_law}")

    def __str__(self) -> str:
        return as_text(self)


def study_law(
    table: Table,
    form: str = "best",
    *,
    axis: str = "total",
    kind: str | None = None,
    bootstrap: int = 200,
    seed: int = 0,
    **slice_: Unpack[Slice],
) -> Findings:
    """Curves, best k and law of one family, protocol, embeddings and method of a table (`slice_`, as in `fit`).

    A form named by the user must fit: its LawError is raised. With "best", too few runs for any law still give the curves.
    """
    part, chosen = choose_slice(table, **slice_)
    law, no_law = None, ""
    try:
        law = fit(part, form, bootstrap=bootstrap, seed=seed, **chosen)
    except LawError as error:
        if form != "best":
            raise
        no_law = str(error)
    best = best_k(part, axis=axis, kind=kind, law=law, seed=seed, **chosen)
    shown = curves(prepare(part), axis, None if best.kind == "any" else best.kind)
    return Findings(chosen=chosen, axis=axis, curves=tuple(shown), best=best, law=law, no_law=no_law)
