"""What an inspection says to a reader: a table of layers, a table of changes, and the sentences that sum them up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kbit.recipes.advice import Advice
from kbit.recipes.facts import FAR, Facts

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from kbit.recipes.inspection import Inspection, Layer

WORTH_A_WORD = 0.02  # bits; a smaller net worth would change nothing that a reader does
HEAVY_TAILS = 6.0  # kurtosis; 3 is normal
FLAT = 2.2  # kurtosis; 1.8 is even
STRETCHED = 8.0  # largest |w| in standard deviations; a normal layer of 10^7 weights reaches 5.5
THEORY_HOLDS = 1.25  # measured over predicted squared error, either way
NAMED = 3
TINY = 1e-30  # stands for no error at all in a quotient


def tables(inspection: Inspection) -> Group:
    """The layers, the changes, and the sentences, for rich to print."""
    from rich.console import Group
    from rich.text import Text

    words = Text("\n".join(f"- {sentence}" for sentence in sentences(inspection)))
    return Group(_layer_table(inspection), _change_table(inspection.advice), words)


def sentences(inspection: Inspection) -> list[str]:
    """How much the format hurts and whether theory explains it, where it hurts most and why, and what to do about it."""
    return [_how_much(inspection), *_where(inspection), *_what_to_do(inspection.advice)]


def why(facts: Facts) -> str:
    """What about these weights makes them hard to quantize, the most telling first."""
    if facts.outlier_columns:
        some = "input feature stands" if facts.outlier_columns == 1 else "input features stand"
        return f"{facts.outlier_columns} {some} far out from the rest and stretch the range of each block that holds them"
    if facts.max_over_std > STRETCHED:
        return "single weights lie more than 8 standard deviations out and stretch the range of their blocks"
    if facts.kurtosis > HEAVY_TAILS:
        return "heavy tails leave most codes to few weights"
    if facts.kurtosis < FLAT:
        return "the weights are spread almost evenly, which even steps suit best"
    return "the weights are close to a normal curve, so what is lost is what so few levels lose"


def _how_much(inspection: Inspection) -> str:
    errors = [layer.relative_error for layer in inspection.linear]
    predicted = inspection.predicted_error
    measured = inspection.relative_error
    if predicted == measured or 1 / THEORY_HOLDS <= (measured / max(predicted, TINY)) ** 2 <= THEORY_HOLDS:
        verdict = "which explains it"
    elif measured < predicted:
        verdict = "more than there is: the weights lie closer to the levels than spread evenly between them"
    else:
        verdict = "less than there is: within such wide steps the weights are not spread evenly"
    return (
        f"{inspection.format} ({inspection.method}) makes a relative error of {inspection.relative_error:.2%} in "
        f"{len(errors)} linear layers ({min(errors):.2%} to {max(errors):.2%}). Theory predicts {predicted:.2%}, {verdict}."
    )


def _where(inspection: Inspection) -> list[str]:
    """The layers that suffer most, those with one reason in one sentence."""
    by_reason: dict[str, list[str]] = {}
    for layer in sorted(inspection.linear, key=lambda layer: -layer.relative_error)[:NAMED]:
        by_reason.setdefault(why(layer.facts), []).append(f"{layer.name} ({layer.relative_error:.2%})")
    return [
        f"{'Most error' if first else 'Then'} in {', '.join(names)}: {reason}."
        for first, (reason, names) in zip([True, False, False], by_reason.items(), strict=False)
    ]


def _what_to_do(advice: Sequence[Advice]) -> list[str]:
    good = [each for each in advice if each.net > WORTH_A_WORD]
    if not good:
        return ["No change here is worth more bits than it costs. Spend bits as they come: more of them, or a larger model."]
    return [f"Most for its bits: {_advised(good[0])}.", *(f"Or instead: {_advised(each)}." for each in good[1:NAMED])]


def _advised(advice: Advice) -> str:
    price = "costs none" if advice.costs <= 0.005 else f"costs {advice.costs:.2f}"
    return (
        f"{advice.words}{_place(advice)} takes the error from {advice.error_before:.2%} to {advice.error_after:.2%}, "
        f"is worth {advice.worth:.2f} bits per weight and {price}"
    )


def _place(advice: Advice) -> str:
    options = f"--format {advice.format}" + (f" --method {advice.method}" if advice.method != "rtn" else "")
    if advice.everywhere:
        return f" everywhere ({options})"
    more = len(advice.layers) - NAMED
    return f" ({_target(advice)}) in {', '.join(advice.layers[:NAMED])}" + (f" and {more} more" if more > 0 else "")


def _target(advice: Advice) -> str:
    return advice.format if advice.method == "rtn" else f"{advice.format}, {advice.method}"


def _layer_table(inspection: Inspection) -> Table:
    table = _table(f"{inspection.model} in {inspection.format} ({inspection.method})")
    table.add_column("layer", overflow="fold")
    headings = ("shape", "bits", "range", "std", "max\n/std", "kurt-\nosis", f"beyond\n{FAR:g} std", "outlier\ninputs")
    for heading in (*headings, "error", "theory", "ratio\nof mse"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("what helps most")
    for layer in inspection.layers:
        table.add_row(*_cells(layer, inspection.format))
    return table


def _cells(layer: Layer, asked: str) -> tuple[str, ...]:
    facts = layer.facts
    best = layer.advice[0] if layer.advice else None
    if best is None:
        help_ = f"(in {layer.format})" if layer.format != asked else ""
    elif best.net > WORTH_A_WORD:
        help_ = f"{_target(best)}: {best.worth:.2f} for {max(0.0, best.costs):.2f}"
    else:
        help_ = "nothing for its bits"
    return (
        layer.name,
        f"{layer.shape[0]}x{layer.shape[1]}",
        f"{layer.bits_per_weight:.2f}",
        f"{facts.minimum:.3f} {facts.maximum:+.3f}",
        f"{facts.std:.4f}",
        f"{facts.max_over_std:.1f}",
        f"{facts.kurtosis:.1f}",
        f"{facts.far_share:.1e}" if facts.far_share else "0",
        str(facts.outlier_columns),
        f"{layer.relative_error:.2%}",
        f"{layer.predicted_error:.2%}",
        f"{layer.ratio:.2f}",
        help_,
    )


def _change_table(advice: Sequence[Advice]) -> Table:
    table = _table("What to change, most for its bits first (worth and costs in bits per weight of the linear layers)")
    table.add_column("change")
    table.add_column("to")
    for heading in ("layers", "error before", "after", "worth", "costs", "net"):
        table.add_column(heading, justify="right")
    for each in advice:
        table.add_row(
            each.words,
            _target(each),
            "all" if each.everywhere else str(len(each.layers)),
            f"{each.error_before:.2%}",
            f"{each.error_after:.2%}",
            f"{each.worth:.2f}",
            f"{each.costs:.2f}",
            f"{each.net:+.2f}",
        )
    return table


def _table(title: str) -> Table:
    from rich import box
    from rich.table import Table

    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
