"""What is let through to a decoder: files and bounded pipes that begin like a picture."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pictures import encoded, sample

from nst_fast.errors import InputError, UsageError
from nst_fast.images import load_image, sources

PICTURE = encoded(sample(), "PNG")
needs_posix = pytest.mark.skipif(os.name == "nt", reason="POSIX only")


def test_a_missing_file_gets_the_nearest_names_and_an_empty_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for name in ("tubingen.png", "tubingen.jpg", "other.txt"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"does not exist\. Did you mean tubingen.png, tubingen.jpg\?"):
        sources.open_source(tmp_path / "tubigen.png")
    with pytest.raises(InputError, match=r"does not exist\. There is no folder .*/none"):
        sources.open_source(tmp_path / "none" / "a.png")
    with pytest.raises(InputError, match="is empty"):
        sources.open_source(tmp_path / "other.txt")
    with pytest.raises(UsageError, match="is a folder"):
        sources.open_source(tmp_path)


@pytest.mark.parametrize("path", ["file/a.png", "a\0b.png", "n" * 300])
def test_impossible_paths_are_input_errors(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError):
        sources.open_source(tmp_path / path)


@pytest.mark.parametrize(
    "content",
    [
        b"just some text",
        b"%!PS-Adobe-3.0 EPSF-3.0",
        b"%PDF-1.7",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"PK\x03\x04 a .pth is a zip",
        b"8BPS photoshop",
        b"P6 16 16 255 ",
        bytes(100),
    ],
)
def test_what_does_not_begin_like_a_picture_is_refused_with_its_first_bytes(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match="not an image") as caught:
        sources.open_source(tmp_path / "a.png")
    assert repr(content[:16]) in str(caught.value)


@needs_posix
@pytest.mark.parametrize(
    "name", ["a b.png", "-a.png", "a\nb.png", "[red].png", "日本.png", os.fsdecode(b"caf\xe9.png")]
)
def test_odd_names_are_read_and_shown_on_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(PICTURE)
    assert load_image(tmp_path / name).format == "PNG"
    (tmp_path / name).write_bytes(b"text")
    with pytest.raises(InputError) as caught:
        load_image(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert str(caught.value).encode()  # can be printed: no lone surrogates


@pytest.fixture
def standard_input() -> Iterator[int]:
    """The writing end of a pipe that stands in for standard input."""
    saved = os.dup(0)
    reader, writer = os.pipe()
    os.dup2(reader, 0)
    os.close(reader)
    with os.fdopen(writer, "wb"):
        yield writer
    os.dup2(saved, 0)
    os.close(saved)


@needs_posix
def test_a_dash_reads_standard_input(standard_input: int) -> None:
    def write() -> None:
        os.write(standard_input, PICTURE[:5])  # the first piece is too short to recognise
        os.write(standard_input, PICTURE[5:])
        os.dup2(os.open(os.devnull, os.O_WRONLY), standard_input)  # end of the pipe

    writer = threading.Thread(target=write)
    writer.start()
    image = load_image("-")
    writer.join()
    assert image.format == "PNG"
    assert image.original_size == (48, 32)


@needs_posix
def test_a_named_pipe_is_read_and_a_silent_one_given_up(
    standard_input: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(PICTURE))
    writer.start()
    assert load_image(tmp_path / "pipe").original_size == (48, 32)
    writer.join()
    monkeypatch.setattr(sources, "SILENCE_SECONDS", 0.05)
    with pytest.raises(InputError, match="gave nothing"):
        load_image(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"standard input gave nothing for 0\.05 seconds"):
        load_image("-")


@needs_posix
def test_an_endless_device_is_left_after_its_first_bytes() -> None:
    with pytest.raises(InputError, match="not an image"):
        load_image("/dev/zero")
    with pytest.raises(InputError, match="is empty"):
        load_image(os.devnull)


@needs_posix
def test_a_pipe_that_does_not_end_is_left_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_PIPED_BYTES", 2**20)
    os.mkfifo(tmp_path / "pipe")

    def write() -> None:
        with (tmp_path / "pipe").open("wb", buffering=0) as pipe:
            pipe.write(PICTURE[:16])
            try:
                while True:
                    pipe.write(bytes(65536))
            except BrokenPipeError:
                return

    writer = threading.Thread(target=write)
    writer.start()
    with pytest.raises(InputError, match="gave more than 1 MiB"):
        load_image(tmp_path / "pipe")
    writer.join(timeout=10)
    assert not writer.is_alive()
