"""Pictures through pipes: ``-`` as content, style and output; nothing but the picture on standard output."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from in_process import Run
from pictures import encoded, sample
from PIL import Image
from tiny import TINY, flags

from nst_fast import stylize
from nst_fast.run.record import TEXT_KEY

OPTIONS = TINY | {"init": "noise", "seed": 3}
FLAGS = flags(OPTIONS)
PAIR = ("stylize", "content.png", "style.png", "-o", "-", *FLAGS)


def piped(arguments: Sequence[str], folder: Path, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    call = [sys.executable, "-m", "nst_fast", *arguments]
    return subprocess.run(call, input=given, capture_output=True, cwd=folder, timeout=300)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sample().save(tmp_path / "content.png")
    sample(size=(40, 40)).rotate(90).save(tmp_path / "style.png")
    return tmp_path


def test_a_picture_goes_in_and_out_by_pipes_and_all_text_goes_to_stderr(folder: Path) -> None:
    done = piped(("stylize", "-", "style.png", "-o", "-", *FLAGS), folder, (folder / "content.png").read_bytes())
    assert done.returncode == 0, done.stderr
    assert b"complete: 2 steps" in done.stderr
    picture = Image.open(io.BytesIO(done.stdout))
    assert (picture.format, picture.size) == ("PNG", (24, 16))
    assert '"status": "complete"' in picture.text[TEXT_KEY]  # type: ignore[attr-defined]
    assert sorted(path.name for path in folder.iterdir()) == ["content.png", "style.png"]
    stylize(folder / "content.png", folder / "style.png", OPTIONS, output=folder / "out.png")
    assert picture.tobytes() == Image.open(folder / "out.png").tobytes()


def test_the_style_may_be_piped_and_the_record_left_out(folder: Path) -> None:
    style = encoded(sample(), "WEBP")
    done = piped(("stylize", "content.png", "-", "-o", "-", "--no-metadata", "-q", *FLAGS), folder, style)
    assert (done.returncode, done.stderr) == (0, b"")
    assert TEXT_KEY not in Image.open(io.BytesIO(done.stdout)).info


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--json"], "standard output takes the picture alone, not --json. Name a file"),
        (["--csv", "--film=gif", "--save-every=1"], "not --csv, --film, --save-every"),
    ],
)
def test_what_would_be_written_beside_the_picture_is_refused(given: list[str], words: str, command: Run) -> None:
    code, _, messages = command(*PAIR, *given)
    assert (code, words in messages) == (2, True), messages


@pytest.mark.skipif(os.name == "nt", reason="POSIX only")
def test_a_terminal_is_sent_no_picture_and_a_reader_that_has_gone_is_no_error(folder: Path) -> None:
    call = [sys.executable, "-m", "nst_fast", *PAIR]
    own, terminal = os.openpty()
    done = subprocess.run(call, stdout=terminal, stderr=subprocess.PIPE, cwd=folder, timeout=300)
    os.close(terminal)
    os.close(own)
    assert done.returncode == 2
    assert b"standard output is a terminal" in done.stderr
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(call, stdout=writer, stderr=subprocess.PIPE, cwd=folder, timeout=300)
    os.close(writer)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
