"""What is published: wheel and sdist, built from this tree, checked, installed elsewhere and run without a network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from places import ROOT

import nst_fast
from nst_fast import __version__

BUILD = [sys.executable, "-m", "build", "--no-isolation", "--outdir"]  # hatchling is in the extra `test`


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run([*BUILD, folder, ROOT], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (found,) = dist.glob("*.whl")
    return found


def files_below(*folders: str) -> set[str]:
    found = {path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()}
    return {path.relative_to(ROOT).as_posix() for path in found if "__pycache__" not in path.parts}


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    about = f"nst_fast-{__version__}.dist-info"
    own = {f"{about}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")}
    assert names == files_below("nst_fast") | own
    kinds = {Path(name).suffix for name in names}
    assert {".html", ".js", ".css", ".svg", ".webp", ".typed", ".md"} <= kinds


def test_the_sdist_holds_what_builds_tests_and_documents(dist: Path) -> None:
    (found,) = dist.glob("*.tar.gz")
    with tarfile.open(found) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert files_below("nst_fast", "tests", "docs", "examples", "integrations") <= names
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "PKG-INFO"} <= names


def test_names_and_metadata_have_the_one_version(dist: Path, wheel: Path) -> None:
    assert sorted(path.name for path in dist.iterdir()) == [
        f"nst_fast-{__version__}-py3-none-any.whl",
        f"nst_fast-{__version__}.tar.gz",
    ]
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"nst_fast-{__version__}.dist-info/METADATA").decode()
    assert f"\nVersion: {__version__}\n" in metadata
    assert "\nLicense-Expression: MIT\n" in metadata


@pytest.mark.parametrize(
    "check", [["twine", "check", "--strict"], ["check_wheel_contents"]], ids=lambda check: check[0]
)
def test_the_index_would_take_it(check: list[str], dist: Path, wheel: Path) -> None:
    given = sorted(dist.iterdir()) if check[0] == "twine" else [wheel]
    done = subprocess.run([sys.executable, "-m", *check, *given], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def cut_off() -> list[str]:
    """How a command is started without a network; skips where the system lets nobody do that."""
    command = ["unshare", "--map-root-user", "--net"]
    if sys.platform != "linux" or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("no namespaces here: the network cannot be cut")
    return command


def test_the_wheel_makes_the_demos_picture_in_a_bare_environment_without_a_network(wheel: Path, tmp_path: Path) -> None:
    """The environment has the wheel alone; its dependencies are read where those of the tests are."""
    environment = tmp_path / "environment"
    venv.create(environment)
    bin, python = environment / "bin", environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    alone = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "NST_FAST"))}
    alone |= {"HOME": str(tmp_path / "home"), "PATH": f"{bin}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    subprocess.run([*cut_off(), *pip], check=True, env=alone, timeout=120)
    own = Path(sysconfig.get_path("purelib", vars={"base": str(environment)}))
    (own / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")

    def run(*arguments: str) -> str:
        command = [*cut_off(), *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=alone, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert Path(run("python", "-c", "import nst_fast; print(nst_fast.__file__)").strip()).is_relative_to(own)
    assert run("nst-fast", "--version") == f"nst-fast {__version__}\n"
    run("nst-fast", "demo", "-o", "demo", "--image-size", "64", "--steps", "3")
    assert (tmp_path / "demo" / "pastiche.png").stat().st_size > 0


def test_the_page_of_what_is_public_names_what_the_package_offers() -> None:
    assert set(nst_fast.__all__) <= set(dir(nst_fast))
    page = (ROOT / "docs" / "api-stability.md").read_text("utf-8")
    (row,) = [line for line in page.splitlines() if line.startswith("| the names of `nst_fast` itself")]
    assert re.findall(r"`(\w+)`", row.split("itself:")[1].split("|")[0]) == nst_fast.__all__
