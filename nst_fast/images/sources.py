"""Picture files before they are decoded: paths, pipes and standard input as bounded streams; the chunks of a PNG."""

from __future__ import annotations

import io
import os
import re
import select
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from nst_fast.errors import InputError, UsageError, nearest
from nst_fast.images.extra import kind_beginning
from nst_fast.system.files import AnyPath, check_local, shown

Source = io.BufferedReader | io.BytesIO

STANDARD_INPUT = "-"
MAX_PIPED_BYTES = 256 * 2**20  # what a pipe may deliver; for regular files the limit of their pixels is enough
SILENCE_SECONDS = 60.0  # the longest pause of a pipe
KINDS = "PNG, JPEG, WebP, TIFF, BMP, GIF or AVIF"

# The kinds above (TIFF also as BigTIFF) in that order; a file that begins otherwise never reaches a decoder.
_SIGNATURE = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|RIFF.{4}WEBP|II[*+]\0|MM\0[*+]|BM|GIF8[79]a|.{4}ftyp(?:avi[fs]|m[is]f1)",
    re.DOTALL,
)
COLOR_CHUNKS = frozenset({b"cICP", b"sRGB", b"gAMA", b"cHRM"})
# Kinds that people have, and that are named in the refusal.
_FOREIGN = {
    "a JPEG 2000 picture": re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
    "a video": re.compile(rb".{4}ftyp(?:isom|mp4|qt  |M4V)|\x1a\x45\xdf\xa3", re.DOTALL),
    "a Photoshop file": re.compile(rb"8BPS"),
    "a PDF": re.compile(rb"%PDF"),
    "a drawing (SVG, XML) or a web page": re.compile(rb"\s*<(?:\?xml|svg|!doctype|html)", re.IGNORECASE),
}
_HEAD = 16
_PIECE = 2**16
_LONGEST_NAME = 79  # of a PNG's text


def open_source(path: AnyPath) -> Source:
    """A stream, at its start, of something that begins like a picture. ``-`` is standard input. The caller closes it.

    Raises:
        InputError: missing, unreadable, empty, not a picture, or a pipe or device that is silent or does not end.
        UsageError: a folder.
    """
    try:
        return _opened(path)
    except FileNotFoundError as error:
        check_local(path)
        if Path(path).is_symlink():
            target = shown(os.readlink(path))  # noqa: PTH115 - the name as it is written
            raise InputError(f"{shown(path)} is a link to {target}, which does not exist", "Mend the link") from error
        raise InputError(f"{shown(path)} does not exist", _suggestion(Path(path))) from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        message = f"{shown(path)} cannot be read: {reason.lower()}"
        raise InputError(message, "Check the path and its permissions") from error


def check_signature(head: bytes, name: str) -> None:
    """Raise :class:`InputError` unless the first 16 bytes are those of a readable kind of picture."""
    if not head:
        raise InputError(f"{name} is empty", f"Give a {KINDS} picture")
    if (other := kind_beginning(head)) is not None:
        other.check_installed(name)
    elif not _SIGNATURE.match(head):
        kind = next((f", as {kind} does" for kind, signature in _FOREIGN.items() if signature.match(head)), "")
        message = f"{name} is not an image that can be read: it begins with {head!r}{kind}"
        raise InputError(message, "Convert it to PNG or JPEG" if kind else f"Give a {KINDS} picture")


def _opened(path: AnyPath) -> Source:
    if os.fspath(path) == STANDARD_INPUT:
        return _read_pipe(0, "standard input")
    mode = Path(path).stat().st_mode
    if stat.S_ISDIR(mode):
        raise UsageError(f"{shown(path)} is a folder", "Give one picture in it, or all of them to `nst-fast batch`")
    if not stat.S_ISREG(mode):  # a named pipe or a device; O_NONBLOCK opens a pipe that has no writer
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            return _read_pipe(handle, shown(path))
        finally:
            os.close(handle)
    stream = Path(path).open("rb")  # noqa: SIM115 - the caller closes it
    try:
        check_signature(stream.read(_HEAD), shown(path))
        stream.seek(0)
    except BaseException:
        stream.close()
        raise
    return stream


def _read_pipe(handle: int, name: str) -> Source:
    """All of a pipe, in memory; refused early if it does not begin like a picture, pauses too long or does not end."""
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
    # On Windows select takes no pipes; a silent one blocks there.
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


def with_only_chunks(kept: set[bytes], stream: BinaryIO) -> BinaryIO:
    """A PNG without its other chunks."""
    stream.seek(0)
    data = stream.read()
    parts = [data[at : at + length] for kind, at, length in _png_chunks(stream) if kind in kept]
    return io.BytesIO(data[:8] + b"".join(parts))


def chunks(stream: BinaryIO, *, behind_pixels: bool) -> Iterator[tuple[bytes, bytes]]:
    """Kind and beginning of the data of each chunk of a PNG before its pixels, or behind the first of them.

    The stream is left where it was. A file that is cut short or no PNG gives those that can be found.
    """
    start, pixels = stream.tell(), False
    try:
        for kind, at, length in _png_chunks(stream):
            pixels = pixels or kind == b"IDAT"
            if pixels and not behind_pixels:
                break
            if pixels == behind_pixels and kind != b"IDAT":
                stream.seek(at + 8)
                yield kind, stream.read(min(length - 12, _LONGEST_NAME))
    finally:
        stream.seek(start)


def _png_chunks(stream: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Kind, place in the file and length, with head and checksum, of each chunk of a PNG."""
    at = stream.seek(8)
    while len(head := stream.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        yield kind, at, length + 12
        at = stream.seek(at + length + 12)
