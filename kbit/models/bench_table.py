"""What kbit bench measured, as tables for a terminal, Markdown, CSV or JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from kbit.models.bench import Machine, ModelSpeed, Product, Speed

if TYPE_CHECKING:
    from rich.console import RenderableType

Table = tuple[list[str], list[list[str]]]
WORDS = 1  # the first column of each table holds words, the others numbers
PRODUCT_RATES = ("bandwidth", "share", "macs_per_second")


@dataclass(frozen=True)
class Bench:
    """A machine, its products in several formats, and what it does with a model, where one was named."""

    machine: Machine
    shape: tuple[int, int]
    batch: int
    compute: str
    products: Sequence[Product]
    model: ModelSpeed | None = None

    def about(self) -> list[str]:
        """What was measured where, a line each."""
        m = self.machine
        reads = f"{m.read_1 / 1e9:.1f} GB/s with 1 thread"
        if m.threads > 1:
            reads += f", {m.read_n / 1e9:.1f} GB/s with {m.threads}"
        return [
            m.cpu,
            f"{m.isa} ({m.isa_reason}), {m.threads} thread{'s' * (m.threads > 1)}",
            f"memory reads {reads}",
        ]

    def title(self) -> str:
        """Of the products."""
        tokens = f"{self.batch} token{'s' * (self.batch > 1)}"
        return f"product of a {self.shape[0]}x{self.shape[1]} weight and {tokens}, {self.compute}"

    def product_table(self) -> Table:
        """Head and rows."""
        head = ["format", "k", "bits per weight", "ms", "quartiles", "GB/s", "of read", "GMAC/s"]
        return head, [
            [
                p.format,
                str(p.k),
                f"{p.bits_per_weight:.3f}",
                f"{p.seconds * 1e3:.3f}",
                f"{p.low * 1e3:.3f} .. {p.high * 1e3:.3f}",
                f"{p.bandwidth / 1e9:.2f}",
                f"{p.share:.0%}",
                f"{p.macs_per_second / 1e9:.1f}",
            ]
            for p in self.products
        ]

    def model_table(self, model: ModelSpeed) -> Table:
        """Head and rows, in llama-bench's words."""
        head = ["model", "read per token", "params", "way", "threads", "test", "t/s", "GB/s", "of read"]
        same = [
            model.model,
            f"{model.nbytes / 1e6:.2f} MB",
            f"{model.parameters / 1e6:.2f} M",
            f"{model.way} {model.compute}",
            str(self.machine.threads),
        ]
        return head, [[*same, *self._speed(test)] for test in model.tests]

    def _speed(self, test: Speed) -> list[str]:
        speed = [test.name, f"{test.tokens_per_second:.2f} ± {test.deviation:.2f}"]
        if test.bandwidth is None:
            return [*speed, "", ""]
        return [*speed, f"{test.bandwidth / 1e9:.2f}", f"{test.bandwidth / self.machine.read_n:.0%}"]

    def tables(self) -> list[tuple[str, Table]]:
        """Each with its title."""
        found = [(self.title(), self.product_table())] if self.products else []
        return found + ([("", self.model_table(self.model))] if self.model else [])

    def __rich__(self) -> RenderableType:
        from rich.box import SIMPLE
        from rich.console import Group
        from rich.table import Table as RichTable
        from rich.text import Text

        parts: list[RenderableType] = [Text("\n".join(self.about()))]
        for title, (head, rows) in self.tables():
            table = RichTable(title=title or None, title_justify="left", title_style="", box=SIMPLE, padding=(0, 1))
            for at, name in enumerate(head):
                table.add_column(name, justify="left" if at < WORDS else "right", no_wrap=True)
            for row in rows:
                table.add_row(*row)
            parts.append(table)
        return Group(*parts)

    def to_markdown(self) -> str:
        """The same for a page."""
        lines = ["  \n".join(self.about())]
        for title, (head, rows) in self.tables():
            marks = ["---" if at < WORDS else "---:" for at in range(len(head))]
            lines += ["", *([title, ""] if title else []), *(f"| {' | '.join(row)} |" for row in (head, marks, *rows))]
        return "\n".join(lines)

    def to_csv(self) -> str:
        """A row for each product and each test of the model, in seconds and bytes per second."""
        head = ["test", "format", "k", "batch", "compute", "threads", "bits_per_weight", "seconds", "low", "high"]
        head += ["bandwidth", "read_bandwidth", "macs_per_second", "tokens_per_second", "deviation"]
        text = io.StringIO()
        writer = csv.DictWriter(text, head, lineterminator="\n")
        writer.writeheader()
        same: dict[str, Any] = {"compute": self.compute, "threads": self.machine.threads}
        for p in self.products:
            row = {name: value for name, value in asdict(p).items() if name in head} | same
            row |= {"test": "product", "batch": self.batch, "read_bandwidth": p.read}
            writer.writerow(row | {name: getattr(p, name) for name in PRODUCT_RATES if name in head})
        for test in self.model.tests if self.model else ():
            assert self.model is not None
            row = {"test": test.name, "tokens_per_second": test.tokens_per_second, "deviation": test.deviation}
            row |= {"bandwidth": test.bandwidth, "read_bandwidth": self.machine.read_n}
            writer.writerow(same | row | {"compute": self.model.compute})
        return text.getvalue().rstrip("\n")

    def to_json(self) -> dict[str, Any]:
        """All numbers, in seconds and bytes per second."""
        rates = [asdict(p) | {name: getattr(p, name) for name in PRODUCT_RATES} for p in self.products]
        return asdict(self) | {"products": rates}
