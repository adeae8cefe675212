"""Rows of docs/reliability.md that no other file proves: full disks at the end of a run, signals, clocks, odd pairs."""

from __future__ import annotations

import ast
import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from batches import draw
from tiny import TINY

import nst_fast
from nst_fast.api import resume, stylize
from nst_fast.cli.signals import graceful_stop
from nst_fast.errors import OutputError
from nst_fast.images import load_image
from nst_fast.options.config import StylizeConfig
from nst_fast.run.outputs import OutputFiles

CONFIG = StylizeConfig(**TINY | {"steps": 6})
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX only")


def test_a_disk_that_is_full_at_the_end_costs_neither_the_old_picture_nor_the_run(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = stylize(*pair, CONFIG).image
    out = tmp_path / "out" / "out.png"
    out.parent.mkdir()
    out.write_bytes(b"the old picture")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full_for("out.png"))
        with pytest.raises(OutputError, match="no space left"):
            stylize(*pair, CONFIG, output=out, overwrite=True, checkpoint_every="4")
    assert out.read_bytes() == b"the old picture"
    assert [path.suffix for path in OutputFiles(out).checkpoints()] == [".safetensors"]
    assert torch.equal(resume(out, overwrite=True).image, expected)
    assert out.read_bytes() != b"the old picture"
    assert OutputFiles(out).checkpoints() == []


def full_for(name: str) -> Callable[[Path, Path], None]:
    """A disk that has no room for the file of this name."""
    replace = os.replace

    def fail_or_replace(temp: Path, target: Path) -> None:
        if target.name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(temp, target)

    return fail_or_replace


def test_one_file_can_be_content_and_style_and_sizes_may_differ_as_they_like(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    content, large, tall = (
        pair[0],
        draw(tmp_path / "large.png", 1, (900, 700)),
        draw(tmp_path / "tall.png", 2, (40, 60)),
    )
    for one, other in [(content, content), (tall, content), (content, large)]:
        expected = load_image(one, longest_side=24).tensor.shape
        assert stylize(one, other, CONFIG, steps=1).image.shape == expected


@posix
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_the_first_signal_asks_to_stop_and_the_second_ends_at_once(
    number: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    inherited = signal.signal(number, signal.SIG_DFL)  # whoever started the tests may have ignored it
    try:
        with graceful_stop(said.append) as stop:
            assert not stop()
            os.kill(os.getpid(), number)
            assert stop()
            assert (stop.exit_code, len(said), ended) == (code, 1, [])
            os.kill(os.getpid(), number)
            assert ended == [code]
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, inherited)


@posix
def test_a_signal_that_was_ignored_from_the_start_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with graceful_stop(lambda text: None) as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert not stop()
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.exit_code == 143
    finally:
        signal.signal(signal.SIGINT, before)


# The clock that people see can jump; only where the age of a file is meant, or a date, is there no other.
WALL_CLOCK = {"nst_fast/system/files.py", "nst_fast/server/uploads.py", "nst_fast/run/trackers.py"}


def wall_clock_calls(source: str) -> list[str]:
    """Calls of clocks that jump."""
    names = {"time.time", "time.time_ns", "datetime.utcnow"}
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [ast.unparse(called) for called in calls if ast.unparse(called) in names]


def test_durations_are_told_by_a_clock_that_does_not_jump() -> None:
    package = Path(nst_fast.__file__).parent
    found = {
        f"nst_fast/{path.relative_to(package).as_posix()}"
        for path in package.rglob("*.py")
        if wall_clock_calls(path.read_text("utf-8"))
    }
    assert found == WALL_CLOCK
    assert wall_clock_calls("a = time.time() - b")
