"""The picture of docs/step-graph.md: ``python docs/pictures/bundle_page.py ORT``, in Chromium, from the samples.

ORT is the folder that ``npm install --no-save --prefix ORT onnxruntime-web`` has made.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from layouts import write
from page import HERE, screenshot, served, show  # which finds the next but one
from PIL import Image
from webdriver import chromium

from nst_fast.jobs.sample_art import draw_content, draw_style
from nst_fast.onnx.bundle import write_bundle
from nst_fast.options.config import ExportConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ort", type=Path, help="the folder of onnxruntime-web")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--weights", default=ExportConfig.weights)
    parser.add_argument("--output", type=Path, default=HERE.parent / "images", help="by default docs/images")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, chromium(Path(name)) as browser:
        bundle = Path(name) / "bundle"
        write_bundle(ExportConfig(graph="step", weights=given.weights), bundle)
        (bundle / "ort").symlink_to(given.ort.resolve())
        Image.fromarray(draw_content(512)).save(Path(name) / "content.png")
        Image.fromarray(draw_style(512)).save(Path(name) / "style.png")
        with served("http.server", "0", "--bind", "127.0.0.1", "--directory", str(bundle)) as address:
            show(browser, dark=False, width=1000, height=600)
            browser.open(f"{address}?provider=wasm")
            browser.wait("return document.getElementById('status').textContent.startsWith('ready')", 60)
            for kind in ("content", "style"):
                browser.type(f"#{kind}", f"{name}/{kind}.png")
            for field, value in {"size": given.size, "steps": given.steps, "rate": 0.02}.items():
                browser.run(f"document.getElementById('{field}').value = {value}")
            browser.click("#start")
            browser.wait("return /^done/.test(document.getElementById('status').textContent)", 600)
            write({"step-graph-browser.jpg": screenshot(browser)}, given.output)


if __name__ == "__main__":
    main()
