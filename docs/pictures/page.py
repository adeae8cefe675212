"""The screenshots of docs/ui.md: ``python docs/pictures/page.py``, in Chromium, from the program's own samples.

Five runs, one of each look; the picture of ``bold`` is shown, light, and dark with the divider over it.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from layouts import jpeg, write
from PIL import Image

from nst_fast.options.presets import LOOKS

HERE = Path(__file__).parent
sys.path.append(str(HERE.parents[1] / "tests" / "support"))

from webdriver import Browser, chromium  # noqa: E402  # the tests' driver of Chromium

SHOWN = "bold"
OPTIONS = ("image_size=256", "steps=60")
UI = ("nst_fast", "ui", "--no-browser", "--port", "0", "--folder")


@contextmanager
def served(*command: str) -> Iterator[str]:
    """The address that a server prints first, in a ``with`` block."""
    with subprocess.Popen([sys.executable, "-u", "-m", *command], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield re.findall(r"http://[^\s)]+", server.stdout.readline())[0]
        finally:
            server.terminate()


def paint(browser: Browser, look: str, options: list[str]) -> None:
    """Make a picture of a look."""
    choose(browser, look)
    for option in options:
        name, _, value = option.partition("=")
        browser.run(
            f"const input = document.getElementById('option-{name}'); input.value = {json.dumps(value)};"
            "input.dispatchEvent(new Event('change'))"
        )
    before = browser.run("return location.hash")
    browser.click("#start")
    browser.wait(f"return location.hash !== '{before}'", 60)
    browser.wait("return /^Done/.test(document.getElementById('run-state').textContent)", 600)


def choose(browser: Browser, look: str) -> None:
    browser.run(f"document.querySelector('input[name=look][value={look}]').click()")


def show(browser: Browser, *, dark: bool, width: int = 1440, height: int = 900) -> None:
    """Set the window's size and colours, without transitions between them."""
    browser.devtools(
        "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
    )
    wanted = {"prefers-color-scheme": "dark" if dark else "light", "prefers-reduced-motion": "reduce"}
    features = [{"name": name, "value": value} for name, value in wanted.items()]
    browser.devtools("Emulation.setEmulatedMedia", features=features)


def screenshot(browser: Browser) -> bytes:
    """The window as JPEG."""
    browser.wait("return [...document.images].every((image) => image.complete)", 60)
    return jpeg(np.asarray(Image.open(io.BytesIO(browser.screenshot())).convert("RGB")), 1200)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="options of the runs")
    parser.add_argument("--output", type=Path, default=HERE.parent / "images", help="by default docs/images")
    given = parser.parse_args()
    names = [look.name for look in LOOKS]
    with tempfile.TemporaryDirectory() as name, chromium(Path(name)) as browser, served(*UI, f"{name}/runs") as address:
        show(browser, dark=False)
        browser.open(address)
        browser.wait("return document.querySelectorAll('#groups .option').length > 50", 300)
        browser.click("#try-samples")
        browser.wait("return document.querySelectorAll('.pictures li').length === 2", 60)
        for look in names:
            paint(browser, look, [*OPTIONS, *given.set])
        choose(browser, SHOWN)
        browser.click(f"#runs li:nth-child({len(names) - names.index(SHOWN)}) button")
        browser.wait(f"return /{SHOWN}/.test(document.querySelector('#runs [aria-current]').innerText)", 60)
        light = screenshot(browser)
        show(browser, dark=True)
        browser.click("#slide")
        write({"ui.jpg": light, "ui-dark.jpg": screenshot(browser)}, given.output)


if __name__ == "__main__":
    main()
