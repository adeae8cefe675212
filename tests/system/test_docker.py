"""The Dockerfiles, which nothing builds here: what hadolint looks for, and that what they name is there."""

from __future__ import annotations

import fnmatch
import re
import tomllib
from pathlib import Path

import pytest
from places import ROOT

from nst_fast.cli.commands import made

FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
IGNORED = (ROOT / ".dockerignore").read_text().split()


def instructions(path: Path) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, continued lines joined, without comments."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], " ".join(line.split()[1:])) for line in text.splitlines() if line.strip()]


def found(path: Path, name: str) -> list[str]:
    return [rest for kind, rest in instructions(path) if kind == name]


def test_there_is_one_for_cpus_and_one_for_gpus() -> None:
    assert [path.name for path in FILES] == ["cpu.Dockerfile", "cuda.Dockerfile"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_image_runs_without_rights_on_a_root_that_is_not_written(path: Path) -> None:
    assert found(path, "USER") == ["10001"]
    assert [kind for kind, _ in instructions(path)].index("USER") > max(
        place for place, (kind, _) in enumerate(instructions(path)) if kind == "RUN"
    )
    assert found(path, "VOLUME") == ['["/data", "/cache"]']
    assert "NST_FAST_CACHE=/cache" in " ".join(found(path, "ENV"))
    assert "--owner=nst-fast /data /cache" in found(path, "RUN")[-1]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_rules_of_hadolint(path: Path) -> None:
    assert all(
        re.search(r":\d[\w.-]+", image) for image in found(path, "FROM")
    )  # DL3006, DL3007: a version, not latest
    assert not found(path, "ADD") and not found(path, "MAINTAINER")  # DL3020, DL4000
    assert all(each.startswith("[") for name in ("CMD", "ENTRYPOINT") for each in found(path, name))  # DL3025
    for each in found(path, "RUN"):
        assert "sudo" not in each and "cd " not in each  # DL3004, DL3003
        assert each.count("pip install") == each.count("pip install --no-cache-dir")  # DL3042
        if "apt-get" in each:  # DL3009, DL3014, DL3015
            assert "apt-get install --yes --no-install-recommends" in each and "rm -rf /var/lib/apt/lists/*" in each


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_is_copied_is_there_and_not_ignored(path: Path) -> None:
    for copied in found(path, "COPY"):
        if not copied.startswith("--from="):
            for name in copied.split()[:-1]:
                assert (ROOT / name).exists() and f"!{name}" in IGNORED
    assert IGNORED[0] == "*" and any(fnmatch.fnmatch("nst_fast/__pycache__", each) for each in IGNORED[1:])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_command_is_one_that_the_program_has(path: Path) -> None:
    (entry,), (command,) = found(path, "ENTRYPOINT"), found(path, "CMD")
    words = re.findall(r'"([^"]+)"', command)
    flags = {flag for parameter in made(words[0]).params for flag in parameter.opts}
    assert entry == '["nst-fast"]' and {word for word in words if word.startswith("--")} <= flags
    assert found(path, "EXPOSE") == [words[words.index("--port") + 1]]


def test_the_change_to_the_dependencies_finds_what_it_changes() -> None:
    """The CPU image installs ONNX Runtime's package for CPUs by editing pyproject.toml."""
    project = (ROOT / "pyproject.toml").read_text()
    lines = [line for line in project.splitlines() if '"onnxruntime-gpu[' not in line]
    assert len(lines) == len(project.splitlines()) - 1
    changed = re.sub(r'"onnxruntime>=([0-9.]*);[^"]*"', r'"onnxruntime>=\1"', "\n".join(lines))
    wanted = tomllib.loads(changed)["project"]["dependencies"]
    assert [each for each in wanted if each.startswith("onnxruntime")] == ["onnxruntime>=1.24"]
    assert r"""'/"onnxruntime-gpu\[/d; s/"onnxruntime>=\([0-9.]*\);[^"]*"/"onnxruntime>=\1"/'""" in FILES[0].read_text()
