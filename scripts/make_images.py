"""Take the pictures of the documents from a report: its top, and its first figure in light and dark, into docs/images.

Needs selenium (kbit[dev]), Chromium and its driver. The pictures hold what the report says, nothing is touched up.
"""

from __future__ import annotations

import argparse
import base64
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 1360  # pixels of the page
TOP = 1120  # pixels of its top: the verdict, the key numbers and the start of the curves
EDGE = 16  # pixels of paper around the curve
CURVE = """
    const box = document.querySelector('#curve .shown').getBoundingClientRect();
    const end = document.querySelector('#curve figure').getBoundingClientRect().bottom;
    return [box.x, box.y + scrollY, box.width, end - box.y];
"""
SCALE = 1.25  # device pixels a pixel, so that the pictures stay sharp


def open_page(page: Path, width: int, dark: bool) -> Any:
    """Headless Chromium with the report drawn."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars", f"--user-data-dir={tempfile.mkdtemp()}"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    screen = {"width": width, "height": TOP, "deviceScaleFactor": SCALE, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [theme]})
    browser.get(page.resolve().as_uri())
    while not browser.execute_script("return document.documentElement.dataset.drawn"):
        time.sleep(0.1)
    time.sleep(0.3)  # the last figure is painted
    return browser


def shoot(browser: Any, out: Path, x: float, y: float, width: float, height: float) -> None:
    """A part of the page as PNG."""
    clip = {"x": x, "y": y, "width": width, "height": height, "scale": 1}
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True, "clip": clip})
    out.write_bytes(base64.b64decode(shot["data"]))
    print(out, f"{out.stat().st_size / 1e3:.0f} kB")


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", type=Path, default=ROOT / "report" / "index.html", help="the report (kbit report)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images", help="folder of the pictures")
    arguments = parser.parse_args()
    for theme in ("light", "dark"):
        browser = open_page(arguments.page, WIDTH, dark=theme == "dark")
        if theme == "light":
            shoot(browser, arguments.out / "report.png", 0, 0, WIDTH, TOP)
        suffix = "-dark" if theme == "dark" else ""
        x, y, width, height = browser.execute_script(CURVE)
        shoot(browser, arguments.out / f"curve{suffix}.png", x - EDGE, y - EDGE, width + 2 * EDGE, height + 2 * EDGE)
        browser.quit()


if __name__ == "__main__":
    main()
