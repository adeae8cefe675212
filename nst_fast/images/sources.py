"""Where pictures are read from: a path, a pipe or standard input becomes a bounded stream that can be rewound."""

from __future__ import annotations

import io
import os
import re
import select
import stat
from pathlib import Path

from nst_fast.errors import InputError, UsageError, nearest
from nst_fast.system.files import AnyPath, shown

Source = io.BufferedReader | io.BytesIO

STANDARD_INPUT = "-"
MAX_PIPED_BYTES = 256 * 2**20  # what a pipe may deliver; for regular files the limit of their pixels is enough
SILENCE_SECONDS = 60.0  # a pipe that gives nothing for so long has nobody at its other end
KINDS = "PNG, JPEG, WebP, TIFF, BMP, GIF or AVIF"

# The kinds above (TIFF also as BigTIFF) in that order. Whatever begins otherwise never reaches a decoder.
_SIGNATURE = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|RIFF.{4}WEBP|II[*+]\0|MM\0[*+]|BM|GIF8[79]a|.{4}ftyp(?:avi[fs]|m[is]f1)",
    re.DOTALL,
)
_HEAD = 16
_PIECE = 2**16


def open_source(path: AnyPath) -> Source:
    """A stream, at its start, of something that begins like a picture. ``-`` is standard input. The caller closes it.

    Raises:
        InputError: missing, unreadable, empty, not a picture, or a pipe or device that is silent or does not end.
        UsageError: a folder.
    """
    try:
        return _opened(path)
    except FileNotFoundError as error:
        raise InputError(f"{shown(path)} does not exist", _suggestion(Path(path))) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(
            f"{shown(path)} cannot be read: {reason.lower()}", "Check the path and its permissions"
        ) from error


def check_signature(head: bytes, name: str) -> None:
    """Raise :class:`InputError` unless the first 16 bytes are those of a kind of picture that nst-fast reads."""
    if not head:
        raise InputError(f"{name} is empty", f"Give a {KINDS} picture")
    if not _SIGNATURE.match(head):
        raise InputError(f"{name} is not an image that can be read: it begins with {head!r}", f"Give a {KINDS} picture")


def _opened(path: AnyPath) -> Source:
    if os.fspath(path) == STANDARD_INPUT:
        return _read_pipe(0, "standard input")
    mode = Path(path).stat().st_mode
    if stat.S_ISDIR(mode):
        raise UsageError(f"{shown(path)} is a folder", "Give one picture in it, or all of them to `nst-fast batch`")
    if not stat.S_ISREG(mode):
        return _read_special(path)
    stream = Path(path).open("rb")  # noqa: SIM115 - the caller closes it
    try:
        check_signature(stream.read(_HEAD), shown(path))
        stream.seek(0)
    except BaseException:
        stream.close()
        raise
    return stream


def _read_special(path: AnyPath) -> Source:
    """A named pipe or a device. Opening a pipe that nobody writes to would wait for ever without O_NONBLOCK."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        return _read_pipe(handle, shown(path))
    finally:
        os.close(handle)


def _read_pipe(handle: int, name: str) -> Source:
    """All of a pipe, in memory. Stops early when it does not begin like a picture, falls silent or does not end."""
    data = bytearray()
    while piece := _next_piece(handle, name):
        if len(data) < _HEAD <= len(data) + len(piece):
            check_signature(bytes(data + piece[:_HEAD])[:_HEAD], name)
        data += piece
        if len(data) > MAX_PIPED_BYTES:
            raise InputError(f"{name} gave more than {MAX_PIPED_BYTES >> 20} MiB", "Save it to a file and give that")
    check_signature(bytes(data[:_HEAD]), name)
    return io.BytesIO(data)


def _next_piece(handle: int, name: str) -> bytes:
    # select knows no pipes on Windows; there a silent one is waited for.
    if os.name != "nt" and not select.select([handle], [], [], SILENCE_SECONDS)[0]:
        raise InputError(f"{name} gave nothing for {SILENCE_SECONDS:g} seconds", "Check what writes to it")
    return os.read(handle, _PIECE)


def _suggestion(path: Path) -> str:
    """The nearest names in the folder of a file that is missing."""
    try:
        names = [shown(entry.name) for entry in path.parent.iterdir()]
    except OSError:
        return f"There is no folder {shown(path.parent)}"
    return nearest(shown(path.name), names)
