"""What is written survives: killed at every point, failing at every call; and only files.py writes."""

from __future__ import annotations

import ast
import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from faulty_disk import points, watched
from killed_writers import halves, save_run
from places import SUPPORT

import nst_fast
from nst_fast.api import stylize
from nst_fast.errors import OutputError
from nst_fast.options.config import StylizeConfig
from nst_fast.run.record import read_record
from nst_fast.system import files

PACKAGE = Path(nst_fast.__file__).parent
needs_fork = pytest.mark.skipif(os.name == "nt", reason="Windows knows no fork")

# --- killed


@pytest.fixture(scope="module")
def deaths(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    root = tmp_path_factory.mktemp("deaths")
    script = SUPPORT / "killed_writers.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NST_FAST_CACHE": str(root / "cache")}
    done = subprocess.run(
        [sys.executable, script, root / "work"], capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@needs_fork
def test_a_kill_at_any_point_leaves_the_old_or_the_new_and_a_run_after_it_completes(
    deaths: list[dict[str, Any]],
) -> None:
    works = {"one file", "picture and record", "weights and note", "checkpoint"}
    assert {death["work"] for death in deaths} == works
    assert [death for death in deaths if death["died"] != 9] == []
    assert [death for death in deaths if death["state"] not in {"old", "new"}] == []
    assert {death["state"] for death in deaths} == {"old", "new"}
    assert [death for death in deaths if death["again"] != "new"] == []


@needs_fork
def test_the_kills_reach_every_step_of_a_write(deaths: list[dict[str, Any]]) -> None:
    reached = {death["point"] for death in deaths if death["work"] == "one file"}
    assert {
        f"{call} {when}" for call in ("open", "write", "fsync", "chmod", "replace") for when in ("before", "after")
    } <= reached


@needs_fork
def test_a_kill_leaves_at_most_one_temporary_file_of_a_known_name(deaths: list[dict[str, Any]]) -> None:
    assert max(len(death["litter"]) for death in deaths) == 1  # swept later: test_files.py
    assert all(name.endswith(".tmp") for death in deaths for name in death["litter"])


# --- failing


def write_continued(folder: Path) -> None:
    with files.continued(folder / "a") as stream:
        stream.write(b"new content")


WORKS: dict[str, Callable[[Path], None]] = {
    "one file": lambda folder: files.write_atomic(folder / "a", halves),
    "picture and record": lambda folder: save_run(folder, 1.0),
    "continued": write_continued,
    "check": lambda folder: files.check_writable(folder / "a", overwrite=True),
}
FAULTS = [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EDQUOT]


def failures(work: Callable[[], None], code: int) -> Iterator[tuple[str, OutputError | None]]:
    """Do the work once for every call that it makes, with that call failing: the call, and what was raised."""
    for index, point in enumerate(points(work)):
        # A call that fails has not happened, but for a write, of which half is there, and a close, which always closes.
        if point.endswith("after") != (point in {"write after", "close after"}) or point == "close before":
            continue
        passed = -1

        def act(name: str, when: str, index: int = index) -> None:
            nonlocal passed
            passed += 1
            if passed == index:
                raise OSError(code, os.strerror(code))

        with watched(act):
            try:
                work()
            except OutputError as error:
                yield point, error
            else:
                yield point, None


@pytest.mark.parametrize("code", FAULTS, ids=errno.errorcode.get)
@pytest.mark.parametrize("name", WORKS)
def test_a_failure_of_any_call_is_an_output_error_or_harmless_and_leaves_the_old_or_the_new(
    name: str, code: int, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(b"old")
    save_run(tmp_path, 0.0)
    raised = 0
    for point, error in failures(lambda: WORKS[name](tmp_path), code):
        left = {path.name for path in tmp_path.iterdir()}
        # Where the disk refuses even to delete, the file stays until it is swept.
        if not point.startswith("unlink"):
            assert left == {"a", "a.png", "a.json"}, point
        for path in tmp_path.glob(f"{files.TEMP_PREFIX}*"):
            path.unlink()
        assert (tmp_path / "a").read_bytes() in {b"old", b"new content"}, point
        assert all(read_record(tmp_path / file)["options"]["gray"] in {0, 1} for file in ("a.png", "a.json")), point
        if error is not None:
            raised += 1
            assert "\n" not in str(error)
            assert (error.exit_code, os.strerror(code).lower() in str(error)) == (4, True)
        elif name == "one file":
            assert (tmp_path / "a").read_bytes() == b"new content", point
    assert raised > 3


# --- nothing else writes

WRITERS = {"write_text", "write_bytes", "unlink", "rename", "touch", "symlink_to", "hardlink_to", "rmdir", "savefig"}
MODULES = {  # module -> its functions that write
    "os": {"replace", "rename", "renames", "remove", "unlink", "link", "symlink", "truncate", "mkfifo", "removedirs"},
    "shutil": {"copy", "copy2", "copyfile", "copytree", "move", "rmtree", "make_archive"},
    "torch": {"save"},
    "onnx": {"save", "save_model", "convert_model_to_external_data"},
    "np": {"save", "savez", "savetxt"},
}
ALLOWED = {
    "nst_fast/jobs/storage.py: rmtree": "a batch's own attempts, and copies of what is at addresses",
    "nst_fast/server/receiving.py: open": "an upload on its way in; one that does not end is removed",
    "nst_fast/server/uploads.py: replace": "an upload that has come in whole and could be read gets its name",
    "nst_fast/server/queue.py: rmtree": "a run that its user deletes",
    "nst_fast/jobs/manifest.py: open": "appends one line under a lock; a line that was cut is found by its end",
    "nst_fast/images/film/writing.py: open": "PyAV, on a stream that files.py gives",
    "nst_fast/cli/console.py: open": "the null device, for a stream that is closed",
    "nst_fast/system/machine.py: write_text": "a switch of the kernel, no file",
    "nst_fast/onnx/bundle_files/run.py: save": "a program of its own, which replaces its picture by itself",
    "nst_fast/onnx/bundle_files/run.py: replace": "as above",
    "nst_fast/onnx/bundle_files/run.py: unlink": "as above",
}


def writes(node: ast.Call) -> str:
    """The name of a call that writes or removes a file; empty for any other."""
    called = node.func
    name = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
    owner = called.value.id if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name) else ""
    first = node.args[0] if node.args else None
    into_memory = isinstance(first, ast.Name) and first.id in {"sink", "buffer", "stream"}
    if owner in MODULES:
        return name if name in MODULES[owner] and not into_memory else ""
    if name == "open":
        texts = [argument.value for argument in node.args[:2] if isinstance(argument, ast.Constant)]
        texts += [keyword.value.value for keyword in node.keywords if isinstance(keyword.value, ast.Constant)]
        return "open" if any(isinstance(t, str) and len(t) < 4 and set(t) & set("wax+") for t in texts) else ""
    if name == "replace" and len(node.args) == 1 and not node.keywords:  # Path.replace; that of a text takes two
        return "" if isinstance(first, ast.Starred) else name
    pictures = {"picture", "image", "Image", "figure", "img"}
    made = isinstance(called, ast.Attribute) and isinstance(called.value, ast.Call)
    if name == "save" and (owner in pictures or made) and not into_memory:
        return name
    return name if name in WRITERS and not into_memory else ("save_file" if name == "save_file" else "")


def written_in(source: str) -> list[str]:
    return [found for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and (found := writes(node))]


def test_only_files_py_writes() -> None:
    found = [
        f"nst_fast/{path.relative_to(PACKAGE).as_posix()}: {name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name != "files.py"
        for name in written_in(path.read_text("utf-8"))
    ]
    assert [one for one in found if one not in ALLOWED] == []


@dataclass
class Watch:
    """While it is open, notes every file that Python opens to write, and the module of the package that asked."""

    is_open: bool = False
    writers: dict[str, set[str]] = field(default_factory=dict)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_open or event not in {"open", "os.rename", "os.remove", "shutil.move", "shutil.rmtree"}:
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and not frame.f_code.co_filename.startswith(str(PACKAGE)):
            frame = frame.f_back
        if frame is not None:
            writer = Path(frame.f_code.co_filename).relative_to(PACKAGE).as_posix()
            self.writers.setdefault(writer, set()).add(str(arguments[0]))


def test_what_a_run_really_opens_to_write_is_opened_by_files_py(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Names of calls can mislead; the audit hook sees what the system is asked for."""
    config = StylizeConfig(
        weights="random:0", content_taps="relu1_2", style_taps="relu1_1", image_size=24, steps=4, monitor_every=2
    )
    watch = Watch()
    sys.addaudithook(watch)  # cannot be removed
    watch.is_open = True
    try:
        stylize(*pair, config, output=tmp_path / "out.png", save_every=2, checkpoint_every="2")
    finally:
        watch.is_open = False
    assert len(watch.writers.pop("system/files.py")) > 5
    assert watch.writers.pop("system/machine.py", set()) <= {"/proc/self/clear_refs"}
    assert watch.writers == {}


PLANTED = """
open('a', 'w')
path.open(mode='ab')
path.write_bytes(b'')
os.replace(a, b)
torch.save(a, path)
picture.save(path)
Image.fromarray(a).save(path)
figure.savefig(path)
temp.replace(path)
save_file(tensors, path)
onnx.save(model, path)
path.open('r+b')
"""
HARMLESS = "path.open('rb'), picture.save(sink, kind), text.replace('a', 'b'), config.replace(**a), open(path)"


def test_a_planted_writer_is_caught_and_a_reader_is_none() -> None:
    assert [line for line in PLANTED.split("\n")[1:-1] if not written_in(line)] == []
    assert written_in(HARMLESS) == []
