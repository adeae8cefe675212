"""The chunks of a PNG file: some of them kept, and those that stand behind the pixels."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import BinaryIO

_LONGEST_NAME = 79  # of a text


def with_only(kept: set[bytes], stream: BinaryIO) -> BinaryIO:
    """A PNG without its other chunks."""
    stream.seek(0)
    data = stream.read()
    parts, at = [data[:8]], 8
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if kind in kept:
            parts.append(data[at:end])
        at = end
    return io.BytesIO(b"".join(parts))


def behind_pixels(stream: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Kind, and the beginning of the data, of every chunk after the first of the pixels, but for those of pixels.

    The stream is left where it was. A file that is cut short or no PNG has as many as can be found.
    """
    start, pixels = stream.tell(), False
    stream.seek(8)
    try:
        while len(head := stream.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            data = stream.read(min(length, _LONGEST_NAME)) if pixels and kind != b"IDAT" else b""
            if pixels and kind != b"IDAT":
                yield kind, data
            pixels = pixels or kind == b"IDAT"
            stream.seek(length + 4 - len(data), io.SEEK_CUR)
    finally:
        stream.seek(start)
