"""What a start of a study did: runs done, skipped and failed, model by model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kbit.study.specs import RunSpec
from kbit.study.store import Outcome

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class StudyResult:
    """Of all runs that the grid asks (`specs`): those the store had (`finished`), and what became of the others (`outcomes`)."""

    store: str
    specs: list[RunSpec] = field(repr=False)
    finished: set[str] = field(repr=False)
    outcomes: dict[str, Outcome] = field(repr=False)
    seconds: float

    @property
    def done(self) -> int:
        """Runs that this start finished."""
        return sum(outcome.error is None for outcome in self.outcomes.values())

    @property
    def skipped(self) -> int:
        """Runs that the store had already."""
        return sum(spec.hash in self.finished for spec in self.specs)

    @property
    def failures(self) -> list[tuple[str, str]]:
        """Name and reason of each run that failed."""
        names = {spec.hash: spec.name for spec in self.specs}
        return [(names[hash], outcome.error) for hash, outcome in self.outcomes.items() if outcome.error is not None]

    @property
    def to_do(self) -> int:
        """Runs that are still to be done: all that the store lacks after a dry run, else those that failed."""
        return len(self.specs) - self.skipped - self.done

    @property
    def runs_per_hour(self) -> float:
        """Of this start, from its first model to its last run."""
        return 3600 * self.done / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, Any]:
        """Counts, speed, failures, and the counts of each model."""
        return {
            "store": self.store,
            "runs": len(self.specs),
            "done": self.done,
            "skipped": self.skipped,
            "failed": len(self.failures),
            "to_do": self.to_do,
            "seconds": self.seconds,
            "runs_per_hour": self.runs_per_hour,
            "models": self._models(),
            "failures": [{"run": name, "error": error} for name, error in self.failures],
        }

    def __rich__(self) -> RenderableType:
        """A row for each model, the sum, and the reason of each failure."""
        from rich.console import Group
        from rich.table import Table

        table = Table("model", box=None, header_style="bold", pad_edge=False)
        for column in ("runs", "done", "skipped", "failed", "to do", "seconds", "peak MB"):
            table.add_column(column, justify="right")
        rows = self._models()
        for row in rows:
            table.add_row(*_cells(row))
        if len(rows) > 1:
            total = {key: sum(row[key] for row in rows) for key in rows[0] if key not in ("model", "peak_bytes")}
            table.add_row(*_cells({"model": "all", "peak_bytes": max(row["peak_bytes"] for row in rows), **total}), style="bold")
        speed = f"{self.done} runs in {self.seconds:.0f} s: {self.runs_per_hour:.0f} runs per hour. " if self.done else ""
        lines = [f"{name}: {error}" for name, error in self.failures]
        return Group(table, "", f"{speed}Store: {self.store}", *lines)

    def _models(self) -> list[dict[str, Any]]:
        rows: dict[str, dict[str, Any]] = {}
        for spec in self.specs:
            row = rows.setdefault(
                spec.source,
                {
                    "model": spec.about["model"],
                    "runs": 0,
                    "done": 0,
                    "skipped": 0,
                    "failed": 0,
                    "to_do": 0,
                    "seconds": 0.0,
                    "peak_bytes": 0,
                },
            )
            row["runs"] += 1
            outcome = self.outcomes.get(spec.hash)
            row["skipped"] += spec.hash in self.finished
            row["done"] += outcome is not None and outcome.error is None
            row["failed"] += outcome is not None and outcome.error is not None
            row["to_do"] += spec.hash not in self.finished and (outcome is None or outcome.error is not None)
            row["seconds"] += outcome.seconds if outcome else 0.0
            row["peak_bytes"] = max(row["peak_bytes"], outcome.peak_bytes if outcome else 0)
        return list(rows.values())


def _cells(row: dict[str, Any]) -> list[str]:
    counts = [f"{row[key]}" for key in ("runs", "done", "skipped", "failed", "to_do")]
    return [row["model"], *counts, f"{row['seconds']:.1f}", f"{row['peak_bytes'] / 1e6:.0f}"]
