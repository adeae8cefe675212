"""The examples, each run as a user runs it, at tiny size."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import pytest
import yaml
from PIL import Image
from places import ROOT
from processes import python

from nst_fast import __version__
from nst_fast.jobs.sample_art import draw_content, draw_style

EXAMPLES = ROOT / "examples"
TINY = ("--image-size", "64", "--steps", "2", "--weights", "random:0")
TINY_CELL = 'SIZE, STEPS, WEIGHTS, OUTPUT = 64, 2, "random:0", {output!r}'


SETTINGS = {"MPLBACKEND": "agg", "GRADIO_ANALYTICS_ENABLED": "False", "PYTHONDONTWRITEBYTECODE": "1"}


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return python(*command, cwd=cwd, **SETTINGS)


def test_every_example_is_run_here_and_described() -> None:
    names = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}
    assert names == {"demo_pair.py", "stylize_folder.py", "compare_looks.py", "first_picture.ipynb"}
    described = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in described for name in names)


def test_the_folder_example_paints_the_demos_scene_when_it_is_given_nothing(tmp_path: Path) -> None:
    done = run(EXAMPLES / "stylize_folder.py", *TINY, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "nst-fast-examples" / "content-painted.json").read_text())
    assert (record["status"], record["steps"], record["weights"]["source"]) == ("complete", 2, "random, seed 0")
    assert "content.png: step 2 of 2, loss " in done.stdout


def test_the_folder_example_names_what_it_cannot_read_and_paints_the_rest(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.fromarray(draw_content(64)).save(tmp_path / "photos" / "lake.jpg")
    Image.fromarray(draw_style(64)).save(tmp_path / "style.png")
    (tmp_path / "photos" / "a.png").write_text("no picture")
    (tmp_path / "photos" / "notes.txt").write_text("not looked at")
    done = run(EXAMPLES / "stylize_folder.py", "photos", "style.png", "-o", "painted", *TINY, cwd=tmp_path)
    assert done.returncode == 10
    assert done.stderr.startswith("a.png: error: ")
    assert [path.name for path in (tmp_path / "painted").glob("*.png") if "losses" not in path.name] == [
        "lake-painted.png"
    ]


def test_the_looks_example_scores_each_look(tmp_path: Path) -> None:
    done = run(EXAMPLES / "compare_looks.py", *TINY, "--looks", "faithful", "bold", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    heading, *rows = [line.split() for line in done.stdout.split("\n\n")[0].splitlines()]
    assert [row[0] for row in rows] == ["look-faithful.png", "look-bold.png"]
    assert all(len(row) == len(heading) and all(float(score) >= 0 for score in row[1:]) for row in rows)
    assert rows[0][1:] != rows[1][1:]


def test_the_looks_example_ends_with_the_code_of_what_is_wrong(tmp_path: Path) -> None:
    done = run(EXAMPLES / "compare_looks.py", *TINY, "--looks", "blod", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "bold" in done.stderr


def test_the_notebook_runs_in_a_kernel_and_shows_its_pictures_and_a_bar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    for name, value in {"IPYTHONDIR": str(tmp_path / "ipython"), "JUPYTER_PLATFORM_DIRS": "1"}.items():
        monkeypatch.setenv(name, value)
    made = nbformat.read(EXAMPLES / "first_picture.ipynb", as_version=4)
    (parameters,) = [cell for cell in made.cells if "parameters" in cell.metadata.get("tags", [])]
    parameters.source = TINY_CELL.format(output=str(tmp_path / "made"))
    nbclient.NotebookClient(made, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = {cell.id: cell.outputs for cell in made.cells if cell.cell_type == "code"}
    bar, picture = outputs["stylize"]
    assert bar.data["text/plain"].startswith("complete: 2 steps in ")
    assert base64.b64decode(picture.data["image/png"]) == (tmp_path / "made" / "painterly.png").read_bytes()
    assert outputs["record"][0].text.startswith("complete: 2 steps")
    assert "bold " in outputs["scores"][0].text
    assert {"painterly.png", "painterly.json", "bold.png"} <= {path.name for path in (tmp_path / "made").iterdir()}


def test_the_notebook_is_stored_without_outputs() -> None:
    data = json.loads((EXAMPLES / "first_picture.ipynb").read_text("utf-8"))
    code = [cell for cell in data["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert len({cell["id"] for cell in data["cells"]}) == len(data["cells"])
    assert (data["nbformat"], data["nbformat_minor"]) == (4, 5)


def test_a_space_has_the_header_and_the_files_that_it_needs() -> None:
    folder = EXAMPLES / "gradio"
    header = yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    assert (header["sdk"], header["app_file"], header["license"]) == ("gradio", "app.py", "mit")
    assert header["sdk_version"].startswith("6.")
    assert (folder / header["app_file"]).exists()
    assert (folder / "requirements.txt").read_text().split() == [f"nst-fast[cpu]>={__version__.rpartition('.')[0]}"]


# Gradio leaves sockets and event loops open: it has a process of its own.
SPACE = """
import json, sys, threading
import app
from PIL import Image

pair = Image.fromarray(app.draw_content(48)), Image.fromarray(app.draw_style(48))
options = {"preset": "bold", "image_size": 32, "steps": 3, "weights": "random:0", "engine": "eager", "monitor_every": 0}
config = app.page().get_config_file()
first = None
for shown, state in app.paint(*pair, **options):
    first = first or shown
    record = Image.open(shown).info["nst-fast"] if isinstance(shown, str) else "null"
errors = []
for given in ({"image_size": 2}, {"content": None}):
    try:
        list(app.paint(**{"content": pair[0], "style": pair[1], **options, **given}))
    except app.gr.Error as error:
        errors.append(error.message)
endless = app.paint(*pair, **{**options, "steps": 1_000_000})
next(endless)
(painting,) = [thread for thread in threading.enumerate() if "(run)" in thread.name]
endless.close()
painting.join(60)
print(json.dumps({
    "labels": [each["props"].get("label") for each in config["components"]],
    "first": first.size, "state": state, "record": json.loads(record),
    "errors": errors, "still painting": painting.is_alive(),
}))
"""


def test_the_page_of_the_space_shows_the_picture_as_it_grows_and_stops_when_its_visitor_leaves(tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="gradio is not installed: its packages are in no extra")
    (tmp_path / "app.py").write_text((EXAMPLES / "gradio" / "app.py").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "probe.py").write_text(SPACE)
    done = run("probe.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {"Content", "Style", "Pastiche", "Look", "Steps", "Strength", "Seed"} <= set(found["labels"])
    assert found["first"] == [32, 24]
    assert found["state"].startswith("complete: 3 steps in ")
    assert (found["record"]["options"]["steps"], found["record"]["options"]["style_weight"]) == (3, 20.0)
    assert "from 16 to 32768" in found["errors"][0]
    assert found["errors"][1] == "Give a content and a style picture"
    assert not found["still painting"]
