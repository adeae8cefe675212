"""The bundle's page in a headless Chromium: the same picture as run.py's, from the same models."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from webdriver import Browser, chromium

from nst_fast.images import load_image, to_uint8
from nst_fast.onnx.bundle import write_bundle
from nst_fast.options.config import ExportConfig

SIZE, STEPS = 128, 20
COMMAND = "npm install --no-save --prefix ort onnxruntime-web"
# Two libraries, two resizing codes, 20 steps of a random network: mean difference in levels of 255.
TOLERANCE = 4.0


class Handler(http.server.SimpleHTTPRequestHandler):
    extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}  # noqa: RUF012

    def log_message(self, *arguments: object) -> None:
        """Silent: pytest owns stderr."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a static file server on a folder."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    options = ExportConfig(
        graph="step",
        weights="random:0",
        content_taps="relu2_2",
        style_taps="relu1_1,relu2_1",
        style_weight=10.0,
        chroma_tv_weight=10.0,
    )
    write_bundle(options, folder)
    for name, seed in (("content", 1), ("style", 2)):
        coarse = torch.rand(1, 3, 9, 12, generator=torch.Generator().manual_seed(seed))
        smooth = torch.nn.functional.interpolate(coarse, (150, 200), mode="bicubic").clamp(0, 1)
        Image.fromarray((smooth[0].permute(1, 2, 0) * 255).byte().numpy()).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def runtime() -> Path:
    """The folder ort/ as the README's command makes it; NST_FAST_ORT_WEB names one that exists."""
    folder = Path(os.environ.get("NST_FAST_ORT_WEB", "/nowhere"))
    if not (folder / "node_modules" / "onnxruntime-web" / "dist").is_dir():
        pytest.skip(f"no onnxruntime-web: set NST_FAST_ORT_WEB to the folder ort after `{COMMAND}`")
    return folder


def levels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"), np.float32)


def paint(
    browser: Browser, address: str, bundle: Path, content: str = "content.png", steps: int = STEPS, rate: float = 0.05
) -> list[float]:
    """Drive the page as a user would; the losses of every step."""
    browser.open(f"{address}?provider=wasm")
    browser.wait("return document.getElementById('status').textContent.startsWith('ready')", 60)
    for name, file in (("content", content), ("style", "style.png")):
        browser.type(f"#{name}", str(bundle / file))
    for name, value in (("size", SIZE), ("steps", steps), ("rate", rate)):
        browser.run(f"document.getElementById('{name}').value = {value}")
    browser.click("#start")
    browser.wait("return /^(done|failed)/.test(document.getElementById('status').textContent)", 240)
    assert browser.run("return document.getElementById('message').textContent") == ""
    losses: list[float] = json.loads(browser.run("return document.getElementById('curve').dataset.losses"))
    return losses


def saved(browser: Browser, folder: Path) -> Path:
    """Click save; the picture's file, once it is whole."""
    browser.click("#save")
    path = folder / "pastiche.png"
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, "nothing was saved"
        time.sleep(0.1)
    return path


def test_the_page_paints_the_picture_that_run_py_paints(bundle: Path, runtime: Path, tmp_path: Path) -> None:
    if not (bundle / "ort").exists():
        (bundle / "ort").symlink_to(runtime)
    with served(bundle) as address, chromium(tmp_path) as browser:
        losses = paint(browser, address, bundle)
        actual = levels(saved(browser, tmp_path))
        addresses = browser.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert len(losses) == STEPS
    assert losses[-1] < 0.7 * losses[0]
    outside = [name for name in addresses if not name.startswith((address, "blob:", "data:"))]
    assert not outside
    output = tmp_path / "run.png"
    arguments = [bundle / "content.png", bundle / "style.png", "-o", output]
    subprocess.run(
        [sys.executable, bundle / "run.py", *arguments, "--steps", str(STEPS), "--image-size", str(SIZE)],
        check=True,
        capture_output=True,
    )
    expected = levels(output)
    assert actual.shape == expected.shape == (96, 128, 3)
    assert np.abs(actual - expected).mean() < TOLERANCE
    assert np.abs(expected - levels(bundle / "content.png").mean((0, 1))).mean() > TOLERANCE, "nothing was painted"


# A browser decodes a JPEG whole, where nst-fast and run.py let the decoder leave out detail.
@pytest.mark.parametrize(("suffix", "mean", "most"), [("png", 0.05, 1), ("jpg", 0.4, 10)])
def test_the_page_brings_a_picture_to_its_size_as_stylize_does(
    suffix: str, mean: float, most: float, bundle: Path, runtime: Path, tmp_path: Path
) -> None:
    if not (bundle / "ort").exists():
        (bundle / "ort").symlink_to(runtime)
    blocks = np.random.default_rng(0).integers(0, 256, (10, 13, 3), np.uint8).repeat(79, 0).repeat(79, 1)
    Image.fromarray(blocks[:747, :997]).save(bundle / f"blocks.{suffix}", quality=95)
    with served(bundle) as address, chromium(tmp_path) as browser:
        paint(browser, address, bundle, f"blocks.{suffix}", steps=1, rate=0.0001)
        difference = np.abs(
            levels(saved(browser, tmp_path))
            - to_uint8(load_image(bundle / f"blocks.{suffix}", longest_side=SIZE).tensor)
        )
    assert difference.mean() < mean
    assert difference.max() <= most


def test_a_missing_runtime_is_said_with_the_command_that_brings_it(bundle: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("index.html", "app.js", "manifest.json"):
        shutil.copy(bundle / name, bare / name)
    with served(bare) as address, chromium(tmp_path) as browser:
        browser.open(address)
        browser.wait("return document.getElementById('status').textContent === 'not ready'", 60)
        assert COMMAND in browser.run("return document.getElementById('message').textContent")
        assert browser.run("return document.getElementById('start').disabled")


def test_the_page_names_no_outside_address(bundle: Path) -> None:
    for name in ("index.html", "app.js"):
        text = (bundle / name).read_text()
        assert "http://" not in text
        assert "https://" not in text


def test_page_and_readme_name_the_same_command(bundle: Path) -> None:
    for name in ("app.js", "README.md"):
        assert COMMAND in (bundle / name).read_text()
