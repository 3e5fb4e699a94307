"""Numbers, sizes and tables as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

UNITS = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))


def as_text(renderable: RenderableType, width: int = 120) -> str:
    """What rich would print, without colour."""
    from rich.console import Console

    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get().rstrip()


def number(value: float) -> str:
    """Three significant digits, in plain notation between 0.001 and a million."""
    return f"{value:.3g}" if not 1e3 <= abs(value) < 1e6 else f"{value:.0f}"


def size(total_bytes: float) -> str:
    """Bytes with a decimal unit and three digits: 1.25 MB."""
    for unit, scale in UNITS:
        if total_bytes >= 0.9995 * scale:
            return f"{total_bytes / scale:#.3g}".rstrip(".") + f" {unit}"
    return f"{total_bytes:.0f} B"
