"""The bundle: what is in it, that it runs without torch, and that its pictures are those of ``--engine ort``."""

from __future__ import annotations

import json
import os
import runpy
import shlex
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from batches import draw
from pictures import turned
from PIL import Image

from nst_fast import api
from nst_fast.errors import OutputError, UsageError
from nst_fast.images import load_image
from nst_fast.onnx.bundle import COPIED, write_bundle
from nst_fast.onnx.graph.step import OPERATORS
from nst_fast.options.config import ExportConfig, StylizeConfig

OBJECTIVE: dict[str, Any] = {
    "weights": "random:0",
    "content_taps": "relu2_1",
    "style_taps": "relu1_1,relu2_1",
    "style_weight": 1e4,  # what is left at the start must outweigh the content term, or stylize's guard steps in
    "tv_weight": 0.01,
    "chroma_tv_weight": 40.0,
    "style_normalization": "mean",
    "gram_normalization": "chw",
    "content_normalization": "mean",
}
SIZE, STEPS = 65, 10  # the pictures become 65 x 48: an odd side
NEEDS = ("numpy", "pillow", "onnxruntime")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    write_bundle(ExportConfig(graph="step", **OBJECTIVE), folder)
    draw(folder / "content.png", 1, (100, 74))
    draw(folder / "style.png", 2, (100, 74))
    return folder


def run_py(
    bundle: Path, output: Path, *arguments: str, python: str = sys.executable
) -> subprocess.CompletedProcess[str]:
    pictures = [str(bundle / "content.png"), str(bundle / "style.png")]
    command = [python, str(bundle / "run.py"), *pictures, "-o", str(output), "--image-size", str(SIZE), *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def levels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"), np.float32)


def documented_options(bundle: Path) -> dict[str, str]:
    """The options of the stylize command that the bundle's README names, by name."""
    (command,) = [line for line in (bundle / "README.md").read_text().splitlines() if "nst-fast stylize" in line]
    words = iter(shlex.split(command)[6:])  # nst-fast stylize CONTENT STYLE -o OUT
    return {word.removeprefix("--").replace("-", "_"): next(words) for word in words}


def by_stylize(bundle: Path) -> np.ndarray:
    """The picture of the stylize command in the bundle's README, in levels of 255."""
    named = documented_options(bundle)
    assert named.keys() == {"engine", "optimizer", "learning_rate", "init", "image_size", "steps"}
    chosen: dict[str, Any] = {**named, "learning_rate": float(named["learning_rate"])}
    chosen |= {"image_size": SIZE, "steps": STEPS, "device": "cpu", "monitor_every": 0}
    pastiche = api.stylize(bundle / "content.png", bundle / "style.png", StylizeConfig(**OBJECTIVE, **chosen))
    return (pastiche.image[0].permute(1, 2, 0) * 255).round().numpy()


def test_run_py_makes_the_picture_that_stylize_makes(bundle: Path, tmp_path: Path) -> None:
    result = run_py(bundle, tmp_path / "out.png", "--steps", str(STEPS))
    assert result.returncode == 0, result.stderr
    assert f"step {STEPS}/{STEPS}" in result.stderr
    actual, expected = levels(tmp_path / "out.png"), by_stylize(bundle)
    assert actual.shape == expected.shape == (48, 65, 3)
    assert np.abs(actual - expected).mean() < 0.5


@pytest.mark.parametrize("kind", ["plain.png", "transparent.png", "grey.png", "plain.jpg", "plain.tif"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_run_py_brings_a_picture_to_its_size_as_stylize_does(
    kind: str, orientation: int, bundle: Path, tmp_path: Path
) -> None:
    load_picture = runpy.run_path(str(bundle / "run.py"))["load_picture"]
    blocks = np.random.default_rng(0).integers(0, 256, (6, 9, 4), np.uint8).repeat(53, 0).repeat(53, 1)[:307, :453]
    mode = {"transparent": "RGBA", "grey": "L"}.get(kind.partition(".")[0], "RGB")
    Image.fromarray(blocks[..., : 4 if mode == "RGBA" else 3]).convert(mode).save(
        tmp_path / kind, exif=turned(orientation)
    )
    for side in (48, 65, 200, 600):  # reduced and resized, resized, enlarged
        expected = load_image(tmp_path / kind, longest_side=side).tensor.numpy()
        assert load_picture(tmp_path / kind, side).shape == expected.shape
        assert np.abs(load_picture(tmp_path / kind, side) - expected).max() < 0.1 / 255


@pytest.mark.skipif("NST_FAST_BARE_VENV" not in os.environ, reason="downloads 25 MB: set NST_FAST_BARE_VENV=1")
def test_run_py_runs_in_an_environment_of_numpy_pillow_and_onnxruntime_alone(bundle: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", *NEEDS], check=True)
    assert subprocess.run([python, "-c", "import torch"], capture_output=True).returncode != 0
    result = run_py(bundle, tmp_path / "out.png", "--steps", str(STEPS), python=str(python))
    assert result.returncode == 0, result.stderr
    assert np.abs(levels(tmp_path / "out.png") - by_stylize(bundle)).mean() < 0.5


def test_run_py_imports_nothing_but_what_its_readme_installs(bundle: Path, tmp_path: Path) -> None:
    refuse = "import sys; sys.modules.update({name: None for name in ('torch', 'onnx', 'nst_fast', 'scipy')})"
    program = repr(str(bundle / "run.py"))
    script = f"{refuse}; import runpy; sys.argv = ['run.py', '--help']; runpy.run_path({program}, run_name='__main__')"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "Paint CONTENT" in result.stdout
    readme = (bundle / "README.md").read_text()
    assert f"pip install {' '.join(NEEDS)}" in readme


def test_errors_of_run_py_are_one_line(bundle: Path, tmp_path: Path) -> None:
    result = run_py(bundle, tmp_path / "out.png", "--image-size", "4")
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def test_the_bundle_is_complete_and_its_manifest_true(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    for name in (*COPIED, "step.onnx", "targets.onnx"):
        assert (bundle / name).stat().st_size > 0
    assert [f"{term['kind']}/{term['tap']}" for term in manifest["terms"]] == [
        *("content/relu2_1", "style/relu1_1", "style/relu2_1"),
    ]
    for name, described in manifest["models"].items():
        model = onnx.load(bundle / name)
        assert {node.op_type for node in model.graph.node} <= OPERATORS
        assert [value.name for value in model.graph.input] == [value["name"] for value in described["inputs"]]
        assert described["model_bytes"] == (bundle / name).stat().st_size


def test_a_second_bundle_needs_leave_to_overwrite(bundle: Path) -> None:
    with pytest.raises(OutputError, match="exists"):
        write_bundle(ExportConfig(graph="step", **OBJECTIVE), bundle)


@pytest.mark.parametrize(
    "changes",
    [{"graph": "objective"}, {"graph": "gradient"}, {"precision": "fp16"}, {"edge_weight": 1.0}, {"seamless": "x"}],
)
def test_what_cannot_be_a_bundle_is_refused_before_any_work(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="bundle"):
        write_bundle(ExportConfig(**{"graph": "step", **OBJECTIVE, **changes}), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
