"""The script that makes the pictures of the docs, docs/pictures: run at tiny size; its list holds together."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from in_process import Run, imported
from PIL import Image
from places import ROOT
from typer.testing import CliRunner

from nst_fast.cli import app
from nst_fast.errors import InputError, PartialError
from nst_fast.images import from_uint8, save_image
from nst_fast.jobs.sample_art import draw_content, draw_style
from nst_fast.options.presets import BOLD, PRESETS, SKETCH

DOCS = ROOT / "docs"
FOLDER = DOCS / "pictures"
NAMES = ("entries", "work", "layouts", "make", "page", "bundle_page")
SCREENSHOTS = {"ui.jpg", "ui-dark.jpg"}  # by page.py
TINY = """
[[entry]]
name = "gallery"
show = "pairs"
pairs = [["content.png", "style.png"]]
command = ["--style-taps", "relu1_1", "--content-taps", "relu2_1"]
width = 20

[[entry]]
name = "one"
show = "beside"
command = ["stylize", "{images}/content.png", "{images}/missing.png"]
short = ["--steps", "9"]
width = 300

[[entry]]
name = "texture"
show = "sheet.png"
command = ["texture", "{images}/style.png", "--style-taps", "relu1_1,relu1_2", "--cumulative", "--scales", "1"]
width = 300
"""
SET = ("--set", "image-size=32", "steps=2", "weights=random:0", "monitor-every=0", "precision=fp32", "engine=eager")


@pytest.fixture
def modules() -> Iterator[dict[str, ModuleType]]:
    with imported(FOLDER, NAMES) as found:
        yield found


@pytest.fixture
def main(modules: dict[str, ModuleType], tmp_path: Path, script: Run) -> Run:
    """The script on two drawn pictures and a list of its own: exit code, stdout, stderr."""
    (tmp_path / "images").mkdir()
    save_image(from_uint8(draw_content(48)), tmp_path / "images" / "content.png")
    save_image(from_uint8(draw_style(48)), tmp_path / "images" / "style.png")
    (tmp_path / "tiny.toml").write_text(TINY)
    folders = [part for name in ("images", "work", "output") for part in (f"--{name}", str(tmp_path / name))]
    given = (modules["make"].main, *folders, "--entries", tmp_path / "tiny.toml")
    return lambda *arguments: script(*given, *arguments, *SET)


def test_pictures_are_made_laid_out_and_summed_up_and_kept_until_the_command_differs(main: Run, tmp_path: Path) -> None:
    code, out, err = main("--only", "gallery", "texture")
    assert code == 0, err
    made = sorted(path.name for path in (tmp_path / "output").iterdir())
    assert made == ["gallery-content-style.jpg", "texture.jpg"]
    with Image.open(tmp_path / "output" / "gallery-content-style.jpg") as picture:
        assert (picture.format, picture.width) == ("JPEG", 20)
    with Image.open(tmp_path / "work" / "gallery-content-style" / "gallery-content-style.png") as picture:
        assert picture.width == 32
    head, _, *rows = out.splitlines()
    assert head.startswith("| picture | size | steps | seconds | content | style |")
    assert [row.split(" | ")[0] for row in rows] == [
        "| gallery-content-style",
        "| texture: style-taps=relu1_1",
        "| texture: style-taps=relu1_1,relu1_2",
    ]
    assert {row.split(" | ")[2] for row in rows} == {"2"}

    mark = tmp_path / "work" / "gallery-content-style" / "command.json"
    then = mark.stat().st_mtime_ns
    assert main("--only", "gallery")[:2] == (0, "\n".join(out.splitlines()[:3]) + "\n")
    assert mark.stat().st_mtime_ns == then
    assert json.loads(mark.read_text())["command"][:2] == ["stylize", "{images}/content.png"]


def test_a_failed_run_is_named_and_ends_with_the_code_of_partial_work(main: Run) -> None:
    code, out, err = main("--only", "one")
    assert (code, out) == (10, "")
    assert "one: nst-fast stylize {images}/content.png {images}/missing.png --steps 9 --image-size 32" in err
    assert "error: one: nst-fast ended with 3" in err


def test_what_is_no_entry_or_no_option_is_refused(main: Run) -> None:
    code, _, err = main("--only", "galery")
    assert code == 2
    assert "gallery" in err


def test_a_result_counts_only_for_the_very_command_that_was_finished(
    modules: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = modules["entries"].Entry("one", "beside", ("demo",), 9, short=("--steps", "9"))
    (quick,), (whole,) = entry.runs(long=False, changes=["seed=1"]), entry.runs(long=True, changes=["seed=1"])
    assert (quick.command, whole.command) == (("demo", "--steps", "9", "--seed", "1"), ("demo", "--seed", "1"))
    work = modules["work"].Work(tmp_path, tmp_path)
    monkeypatch.setattr(modules["work"].subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=0))
    work.make(quick)
    (work.of(quick) / "kept").touch()
    assert work.finished(quick)
    assert not work.finished(whole)
    monkeypatch.setattr(modules["work"].subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=130))
    for run, kept in ((quick, True), (whole, False)):
        with pytest.raises(PartialError, match="130"):
            work.make(run)
        assert not work.finished(run)
        assert (work.of(run) / "kept").exists() == kept


def test_files_of_the_docs_are_small(modules: dict[str, ModuleType]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8)
    data = modules["layouts"].jpeg(noise, 640)
    assert len(data) <= modules["layouts"].MOST_BYTES
    with Image.open(BytesIO(data)) as picture:
        assert picture.width == picture.height < 640


def test_looks_stand_in_rows_and_pairs_in_columns(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    pairs, looks = (("a.png", "b.png"), ("c.png", "d.png")), ("bold", "print", "sketch")
    entry = modules["entries"].Entry("looks", "looks", (), 900, pairs=pairs, looks=looks)
    runs, work = entry.runs(long=False, changes=[]), modules["work"].Work(tmp_path, tmp_path)
    for run in runs:
        assert run.command == ("stylize", *(f"{{images}}/{name}" for name in run.pair), "--preset", run.look)
        work.picture(run).parent.mkdir()
        save_image(from_uint8(draw_style(64)), work.picture(run))
    sheet = modules["layouts"].sheet_of_looks(runs, work)
    assert sheet.shape[0] > 3 * 64 * 3 / 4
    assert 2 * 64 < sheet.shape[1] < 600


def test_the_committed_list_is_of_commands_that_nst_fast_knows(modules: dict[str, ModuleType], tmp_path: Path) -> None:
    entries = modules["entries"].read_entries(FOLDER / "pictures.toml")
    for entry in entries:
        if entry.show == "comparison.png" or entry.looks:
            continue  # the demo has no input to miss; of looks below
        run = entry.runs(long=False, changes=[])[0]
        command = [part.replace("{images}", str(tmp_path / "none")) for part in run.command]
        command += ["-o", str(tmp_path / (f"{run.name}.png" if command[0] == "stylize" else run.name))]
        error = CliRunner().invoke(app, command, standalone_mode=False).exception
        # What is missing is the picture: an unknown option or a value out of range is found before.
        assert isinstance(error, InputError | PartialError), f"{run.name}: {error!r}"


def test_looks_are_presets_and_every_picture_that_pages_show_is_on_the_list(modules: dict[str, ModuleType]) -> None:
    entries = modules["entries"].read_entries(FOLDER / "pictures.toml")
    assert {look for entry in entries for look in entry.looks} <= set(PRESETS)
    made = {entry.name for entry in entries if entry.show != "pairs"}
    made |= {run.name for entry in entries if entry.show == "pairs" for run in entry.runs(long=False, changes=[])}
    pages = [DOCS / "gallery.md", DOCS / "seed-systems.md", DOCS / "ui.md", DOCS.parent / "README.md"]
    shown = {name for page in pages for name in re.findall(r"\]\((?:docs/)?images/([^)]+)\)", page.read_text())}
    assert shown == {f"{name}.jpg" for name in made} | SCREENSHOTS
    others = {path.name for path in (DOCS / "images").iterdir()} - shown
    scripts = "".join(path.read_text() for path in [*FOLDER.glob("*.py"), FOLDER / "README.md"])
    assert {name for name in others if name not in scripts} == set()


def test_screenshots_of_the_page_are_made_of_pictures_that_it_paints(
    modules: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("uvicorn", reason="no uvicorn: pip install fastapi uvicorn python-multipart")
    monkeypatch.setattr(modules["page"], "LOOKS", (BOLD, SKETCH))
    tiny = ("image_size=64", "steps=2", "weights=random:0", "monitor_every=0", "engine=eager")
    monkeypatch.setattr(sys, "argv", ["page.py", "--output", str(tmp_path), "--set", *tiny])
    modules["page"].main()
    assert {path.name for path in tmp_path.glob("*.jpg")} == SCREENSHOTS
    light, dark = (np.asarray(Image.open(tmp_path / name)).astype(int) for name in ("ui.jpg", "ui-dark.jpg"))
    assert light.shape == dark.shape == (750, 1200, 3)
    assert light[:20].mean() > 200 > 60 > dark[:20].mean()


def test_the_screenshot_of_a_bundles_page_is_made(
    modules: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (runtime := os.environ.get("NST_FAST_ORT_WEB")) is None:
        pytest.skip("no onnxruntime-web: NST_FAST_ORT_WEB names its folder")
    small = ("--size", "32", "--steps", "2", "--weights", "random:0", "--output", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["bundle_page.py", runtime, *small])
    modules["bundle_page"].main()
    with Image.open(tmp_path / "step-graph-browser.jpg") as picture:
        assert picture.size == (1000, 600)
