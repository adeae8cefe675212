"""The page of `nst-fast ui` in a headless Chromium, as a person uses it."""

from __future__ import annotations

import importlib.util
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from batches import draw
from pictures import png_chunks
from PIL import Image
from processes import python, wait_until
from webdriver import Browser, chromium

import nst_fast
from nst_fast.api import read_record
from nst_fast.options.presets import LOOKS

PAGE = Path(nst_fast.__file__).parent / "server" / "page"
BUNDLE = Path(nst_fast.__file__).parent / "onnx" / "bundle_files"
WIDTHS = (375, 768, 1440)
TINY = {"weights": "random:0", "content_taps": "relu2_2", "style_taps": "relu1_1,relu2_1", "image_size": 128}
TINY |= {"steps": 10}
LONG = {**TINY, "steps": 4000}


# --- a server, a browser ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for seed, name in enumerate(("harbour.png", "starry.png")):
        draw(folder / name, seed, (160, 120))
    return folder


@contextmanager
def served(folder: Path, log: Path, port: str = "0") -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`nst-fast ui` on a folder, while the block lasts: its address and its process."""
    if importlib.util.find_spec("uvicorn") is None:
        pytest.skip("no uvicorn: pip install fastapi uvicorn python-multipart")
    command = [sys.executable, "-m", "nst_fast", "ui", "--no-browser", "--port", port, "--folder", str(folder)]
    with log.open("a") as sink, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=sink, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        try:
            yield address, process
        finally:
            process.terminate()
            process.communicate(timeout=60)
    assert "Traceback" not in log.read_text(), log.read_text()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where `nst-fast ui` serves its page."""
    folder = tmp_path_factory.mktemp("runs")
    with served(folder, tmp_path_factory.mktemp("log") / "stderr") as (address, _):
        yield address


@pytest.fixture
def browser(address: str, tmp_path: Path) -> Iterator[Browser]:
    """A window with the page in it, ready; every run that the test leaves unfinished is stopped."""
    with chromium(tmp_path) as browser:
        browser.open(address)
        ready(browser)
        yield browser
        browser.evaluate(
            "fetch('api/runs').then(a => a.json()).then(runs => Promise.all(runs"
            ".filter(r => ['running', 'queued'].includes(r.state))"
            ".map(r => fetch(`api/runs/${r.id}/stop`, {method: 'POST'}))))"
        )


def ready(browser: Browser) -> None:
    browser.wait("return document.querySelectorAll('#groups .option').length > 50", 300)


def choose(browser: Browser, pictures: Path, **options: Any) -> None:
    """Both pictures, and options in the panel. A second tab may have the style already, from the first's set-up."""
    for kind, name in (("content", "harbour.png"), ("styles", "starry.png")):
        browser.type(f"#{kind}-file", str(pictures / name))
        browser.wait(f"return document.querySelectorAll('#{kind} li').length > 0", 60)
    for name, value in options.items():
        enter(browser, name, value)


def enter(browser: Browser, name: str, value: Any) -> None:
    browser.run(
        f"const input = document.getElementById('option-{name}'); input.value = {json.dumps(value)};"
        "input.dispatchEvent(new Event('change'))"
    )


def shown(browser: Browser) -> dict[str, Any]:
    """The run in view, as the server tells it."""
    name = browser.run("return location.hash.slice(1)")
    run: dict[str, Any] = browser.evaluate(f"fetch('api/runs/{name}').then(answer => answer.json())")
    return run


def wait_for(browser: Browser, words: str, seconds: float = 300) -> None:
    pattern = f"return /{words}/.test(document.getElementById('run-state').textContent)"
    browser.wait(pattern, seconds)


def visible(browser: Browser, selector: str) -> bool:
    return bool(browser.run(f"return document.querySelector('{selector}').checkVisibility()"))


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def saved(browser: Browser, folder: Path) -> Path:
    """Click download; the file, once it is whole."""
    before = set(folder.glob("*.png"))
    browser.click("#download")
    return wait_until(lambda: set(folder.glob("*.png")) - before, 30).pop()


def look(browser: Browser, width: int, height: int = 900, *, dark: bool = False) -> None:
    browser.devtools(
        "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
    )
    wanted = {"prefers-color-scheme": "dark" if dark else "light", "prefers-reduced-motion": "reduce"}
    features = [{"name": name, "value": value} for name, value in wanted.items()]
    browser.devtools("Emulation.setEmulatedMedia", features=features)


# --- a picture --------------------------------------------------------------------------------------------------------


def test_two_pictures_become_one_with_previews_a_curve_and_the_bytes_of_its_command(
    address: str, browser: Browser, pictures: Path, tmp_path: Path
) -> None:
    choose(browser, pictures, **TINY)
    browser.wait("return /128 × 96/.test(document.getElementById('plan').textContent)", 60)
    browser.click("#start")
    wait_for(browser, "^Done: 10 steps, 128 × 96")
    asked = browser.requests()
    previews = {name for name in asked if "/preview" in name}
    assert len(previews) >= 3
    assert int(browser.run("return document.getElementById('curve').dataset.points")) >= 3
    assert browser.run("return document.querySelector('#curve .total').getAttribute('d')").count("L") >= 2
    downloaded = saved(browser, tmp_path)
    foreign = [name for name in asked if not name.startswith((address, "blob:", "data:", "chrome"))]
    assert not foreign

    browser.run("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    browser.click("#copy-command")
    program, *arguments = shlex.split(browser.wait("return window.copied", 10))
    assert program == "nst-fast"
    work = tmp_path / "work"
    work.mkdir()
    done = python("-m", "nst_fast", *arguments, cwd=work)
    assert done.returncode == 0, done.stderr
    made = work / arguments[arguments.index("-o") + 1]
    first, second = (
        [chunk for chunk in png_chunks(path) if not chunk[0].endswith(b"Xt")] for path in (made, downloaded)
    )
    assert first == second  # but for the record, which says when the run was and how long it took
    assert timeless(made) == timeless(downloaded)


def timeless(picture: Path) -> dict[str, Any]:
    """The record in a picture without what differs between two runs of a command: times and memory."""
    record = read_record(picture)
    differing = ("created", "seconds", "steps_per_second", "phases", "peak_memory_mib", "plan", "monitor")
    return {name: value for name, value in record.items() if name not in differing}


def test_stop_keeps_the_picture_and_go_on_ends_with_the_pixels_of_an_undisturbed_run(
    browser: Browser, pictures: Path, tmp_path: Path
) -> None:
    choose(browser, pictures, **{**TINY, "image_size": 64, "steps": 300})
    browser.click("#start")
    wait_for(browser, "^Step [1-9]")
    browser.click("#stop")
    wait_for(browser, "^Stopped after")
    stopped = shown(browser)
    assert 0 < stopped["step"] < 300
    assert f"Stopped after {stopped['step']} of 300" in browser.run("return document.body.innerText")
    kept = saved(browser, tmp_path)
    assert read_record(kept)["steps"] == stopped["step"]
    browser.click("#continue")
    wait_for(browser, "^Done: 300 steps")
    continued = pixels(saved(browser, tmp_path))
    browser.click("#reuse")
    browser.wait("return document.getElementById('option-steps').value === '300'", 20)
    browser.click("#start")
    browser.wait(f"return location.hash.slice(1) !== '{stopped['id']}'", 20)
    wait_for(browser, "^Done: 300 steps")
    np.testing.assert_array_equal(pixels(saved(browser, tmp_path)), continued)


def test_a_reload_rejoins_and_a_second_tab_is_queued_and_sees_its_place(
    address: str, browser: Browser, pictures: Path
) -> None:
    choose(browser, pictures, **LONG)
    browser.click("#start")
    wait_for(browser, "^Step [1-9]")
    running = shown(browser)["id"]
    browser.devtools("Page.reload")
    ready(browser)
    wait_for(browser, "^Step [1-9]")
    assert shown(browser)["id"] == running
    assert browser.run("return document.querySelectorAll('.pictures li').length") == 2, "the set-up is lost"
    assert browser.run("return document.getElementById('option-steps').value") == "4000"

    first = browser.tab()
    for place in ("next in line", "place 2"):
        browser.open(address)
        ready(browser)
        choose(browser, pictures, **TINY)
        browser.click("#start")
        wait_for(browser, f"^Queued, {place}")
    browser.click("#delete") if visible(browser, "#delete") else None
    browser.go_to(first)
    browser.click("#stop")
    wait_for(browser, "^Stopped after")


def test_a_page_that_is_open_sees_its_run_go_on_after_the_server_was_killed(pictures: Path, tmp_path: Path) -> None:
    folder, log = tmp_path / "runs", tmp_path / "stderr"
    with chromium(tmp_path) as browser:
        with served(folder, log) as (address, process):
            browser.open(address)
            ready(browser)
            choose(browser, pictures, **{**LONG, "image_size": 64, "steps": 400}, checkpoint_every=10, optimizer="adam")
            browser.click("#start")
            wait_for(browser, "^Step [2-9][0-9]")
            process.kill()
        with served(folder, log, str(urlsplit(address).port)):
            wait_for(browser, "^Done: 400 steps")
            assert "going on after step" in shown(browser)["notes"][0]
            assert "going on after step" in browser.run("return document.getElementById('run-notes').innerText")


def test_an_error_is_said_where_its_option_is_set(browser: Browser, pictures: Path, tmp_path: Path) -> None:
    choose(browser, pictures, style_taps="relu1_1:much")
    browser.wait("return document.getElementById('fault-style_taps')?.textContent.includes('much')", 30)
    assert visible(browser, "#fault-style_taps"), "the panel is not opened"
    assert browser.run("return document.getElementById('option-style_taps').getAttribute('aria-invalid')") == "true"
    enter(browser, "style_taps", "relu1_1")
    browser.wait("return !document.getElementById('fault-style_taps')", 30)
    (tmp_path / "torn.png").write_bytes((pictures / "starry.png").read_bytes()[:200])
    browser.type("#styles-file", str(tmp_path / "torn.png"))
    browser.wait("return document.querySelector('#styles .fault')?.textContent.includes('torn.png')", 30)


def test_a_picture_made_here_brings_its_settings_back(browser: Browser, pictures: Path) -> None:
    choose(browser, pictures, **TINY, seed=17, tv_weight=3)
    browser.click("#start")
    wait_for(browser, "^Done")
    name = shown(browser)["picture"]
    for option in ("seed", "tv_weight"):
        browser.run(f"document.querySelector('[data-option={option}] .reset').click()")
    browser.evaluate(
        f"fetch('{name}').then(answer => answer.blob()).then(blob => {{"
        "const files = new DataTransfer(); files.items.add(new File([blob], 'back.png', {type: 'image/png'}));"
        "document.getElementById('frame').dispatchEvent(new DragEvent('drop', {dataTransfer: files, bubbles: true}))})"
    )
    browser.wait("return document.getElementById('option-seed').value === '17'", 30)
    assert browser.run("return document.getElementById('option-tv_weight').value") == "3"
    assert browser.run("return document.querySelectorAll('#styles li').length") == 1


def test_two_pictures_of_the_history_stand_side_by_side_with_what_differs(browser: Browser, pictures: Path) -> None:
    choose(browser, pictures, **{**TINY, "steps": 2})
    for seed in (41, 42):
        enter(browser, "seed", seed)
        before = browser.run("return location.hash")
        browser.click("#start")
        browser.wait(f"return location.hash !== '{before}'", 60)
        wait_for(browser, "^Done")
    browser.click("#compare")
    browser.click("#runs li:nth-child(2) button")
    pair = "return [...document.querySelectorAll('#pair img')].filter((image) => image.naturalWidth === 128).length"
    browser.wait(f"{pair} === 2", 60)
    rows = "return [...document.querySelectorAll('.differences tbody tr')].map((row) => row.innerText.split('\\t'))"
    assert browser.run(rows) == [["seed", "42", "41"]]


# --- by keyboard alone ------------------------------------------------------------------------------------------------


def tab_to(browser: Browser, identity: str, most: int = 150) -> None:
    """Press Tab until an element has the focus."""
    for _ in range(most):
        if browser.run("return document.activeElement.id") == identity:
            return
        browser.keys("Tab")
    raise AssertionError(f"#{identity} is not reached by {most} times Tab")


def test_the_keyboard_alone_makes_stops_compares_and_deletes(browser: Browser) -> None:
    tab_to(browser, "try-samples")
    browser.keys("Enter")
    browser.wait("return document.activeElement.id === 'start'", 60)
    set_by_keys(browser, "size", "128")
    tab_to(browser, "strength")
    browser.keys("Left", "Left")
    assert browser.run("return document.getElementById('strength-shown').textContent") == "90 %"
    browser.run("document.querySelector('#panel > summary').id = 'panel-summary'")
    tab_to(browser, "panel-summary")
    browser.keys("Enter")
    for name, value in (
        ("weights", "random:0"),
        ("style_taps", "relu1_1"),
        ("content_taps", "relu1_2"),
        ("steps", "3000"),
    ):
        browser.run("document.getElementById('find').value = ''")
        tab_to(browser, "find")
        browser.keys(*name)
        set_by_keys(browser, f"option-{name}", value)
    tab_to(browser, "start")
    browser.keys("Enter")
    wait_for(browser, "^Step [1-9]")
    tab_to(browser, "stop")
    browser.keys("Enter")
    wait_for(browser, "^Stopped")
    assert browser.run("return document.activeElement.id") == "continue"
    tab_to(browser, "slide")
    browser.keys("Enter")
    assert browser.run("return document.activeElement.id") == "cut"
    before = browser.run("return document.getElementById('slider').style.getPropertyValue('--part')")
    browser.keys("Right", "Right")
    assert browser.run("return document.getElementById('slider').style.getPropertyValue('--part')") > before
    tab_to(browser, "delete")
    browser.run("window.confirm = () => true")
    name = shown(browser)["id"]
    browser.keys("Enter")
    browser.wait(f"return location.hash !== '#{name}'", 20)


def set_by_keys(browser: Browser, identity: str, value: str) -> None:
    tab_to(browser, identity)
    browser.run("document.activeElement.select()")
    browser.keys(*value, "Tab")


def test_a_mask_is_painted_by_keyboard_and_the_run_has_it(browser: Browser, pictures: Path) -> None:
    choose(browser, pictures, **TINY)
    browser.run("document.getElementById('masks').open = true")
    browser.wait("return document.getElementById('mask-content-paint')", 20)
    browser.run("document.getElementById('mask-content-paint').focus()")
    browser.keys("Enter")
    browser.wait("return document.activeElement.id === 'brush-canvas'", 20)
    browser.keys(" ", "Right", "Right", " ", "Down", " ")
    painted = browser.run(
        "const canvas = document.getElementById('brush-canvas');"
        "const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);"
        "return data.filter((value, index) => index % 4 === 3 && value > 0).length / (canvas.width * canvas.height)"
    )
    assert 0.01 < painted < 0.2
    browser.run("document.querySelector('#brush menu .primary').focus()")
    browser.keys("Enter")
    browser.wait("return document.getElementById('mask-content-clear')", 20)
    browser.click("#start")
    wait_for(browser, "^Done")
    run = shown(browser)
    mask = browser.evaluate(
        f"fetch('api/uploads/{run['options']['content_mask']}/about').then(answer => answer.json())"
    )
    assert (mask["width"], mask["height"]) == (160, 120)


def test_a_pasted_picture_and_masks_drawn_with_the_mouse_are_what_the_run_has(browser: Browser, pictures: Path) -> None:
    choose(browser, pictures, **TINY)
    browser.evaluate(
        "fetch(document.querySelector('#styles li img').src).then(answer => answer.blob()).then(blob => {"
        "const files = new DataTransfer(); files.items.add(new File([blob], 'pasted.webp', {type: 'image/webp'}));"
        "document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: files}))})"
    )
    browser.wait("return document.querySelectorAll('#styles li').length === 2", 60)
    browser.run("document.getElementById('masks').open = true")
    drawn(browser, "mask-region")
    browser.wait("return document.getElementById('mask-region-style')", 20)
    browser.run(
        "const choice = document.getElementById('mask-region-style'); choice.selectedIndex = 2;"
        "choice.dispatchEvent(new Event('change'))"
    )
    drawn(browser, "mask-style-0")
    browser.wait("return document.getElementById('mask-style-0-clear')", 20)
    browser.click("#start")
    wait_for(browser, "^Done")
    options = shown(browser)["options"]
    assert len(options["style_mask"].split(";")) == 2
    region = browser.evaluate(f"fetch('api/uploads/{options['region'].split('=')[0]}').then(a => a.status)")
    assert region == 200


def drawn(browser: Browser, mask: str) -> None:
    """Draw a stroke across the picture of a mask, and take it."""
    browser.run(f"document.getElementById('{mask}-paint').click()")
    there = "document.activeElement.id === 'brush-canvas' && document.getElementById('brush-picture').naturalWidth"
    browser.wait(f"return {there}", 20)
    browser.drag("#brush-canvas", (0.2, 0.3), (0.5, 0.3), (0.8, 0.3))
    rows = browser.run(
        "const canvas = document.getElementById('brush-canvas'), { width, height } = canvas;"
        "const alpha = (x, y) => canvas.getContext('2d').getImageData(x * width, y * height, 1, 1).data[3];"
        "return [alpha(0.35, 0.3), alpha(0.7, 0.3), alpha(0.5, 0.9)]"
    )
    assert rows == [255, 255, 0]
    browser.run("document.querySelector('#brush menu .primary').click()")


# --- how it looks, and to whom ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """axe-core's source, from the npm registry."""
    if shutil.which("npm") is None:
        pytest.skip("no npm, which brings axe-core")
    folder = tmp_path_factory.mktemp("axe")
    done = subprocess.run(["npm", "install", "--no-save", "--silent", "--prefix", str(folder), "axe-core"])
    if done.returncode != 0:
        pytest.skip("npm install axe-core does not work here")
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text()


def serious(browser: Browser) -> list[str]:
    """What axe-core finds serious or worse in the page as it is."""
    found = browser.evaluate("axe.run(document, {resultTypes: ['violations']}).then((result) => result.violations)")
    return [
        f"{each['id']}: {node['html'][:120]}"
        for each in found
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


def test_axe_finds_nothing_serious(browser: Browser, pictures: Path, axe: str) -> None:
    browser.evaluate(axe + "; undefined")
    look(browser, 1440)
    assert serious(browser) == []
    choose(browser, pictures, **TINY, noise=7)  # noise: out of range
    browser.run("document.querySelectorAll('#setup details').forEach((fold) => { fold.open = true })")
    browser.wait("return document.querySelector('.option .fault')", 30)
    assert serious(browser) == []
    enter(browser, "noise", 0.5)
    browser.wait("return !document.querySelector('.option .fault')", 30)
    browser.click("#start")
    wait_for(browser, "^Done")
    for dark in (False, True):
        look(browser, 1440, dark=dark)
        assert serious(browser) == []
    browser.run("document.getElementById('mask-content-paint').click()")
    browser.wait("return document.getElementById('brush').open", 20)
    assert serious(browser) == []


def test_nothing_is_wider_than_the_window(browser: Browser, pictures: Path) -> None:
    choose(browser, pictures, **TINY)
    browser.run("document.querySelectorAll('#setup details').forEach((fold) => { fold.open = true })")
    browser.click("#start")
    wait_for(browser, "^Done")
    for width in WIDTHS:
        look(browser, width)
        assert browser.run("return document.scrollingElement.scrollWidth") <= width
        wide = browser.run(
            "return [...document.querySelectorAll('#setup *, #stage *')].filter((each) => each.checkVisibility() &&"
            "each.getBoundingClientRect().right > innerWidth + 1).map((each) => each.outerHTML.slice(0, 100))"
        )
        assert wide == []


def test_every_look_has_its_thumbnail() -> None:
    assert sorted(PAGE.glob("look-*.webp")) == sorted(PAGE / f"look-{look.name}.webp" for look in LOOKS)


def test_the_page_names_no_outside_address() -> None:
    for path in [
        *PAGE.glob("*.html"),
        *PAGE.glob("*.js"),
        *PAGE.glob("*.css"),
        *BUNDLE.glob("*.html"),
        *BUNDLE.glob("*.js"),
    ]:
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text, path.name
        assert "https://" not in text, path.name
