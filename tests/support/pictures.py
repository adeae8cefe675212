"""Pictures and colour profiles made by code, byte by byte where Pillow would not write them."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from nst_fast.images import LoadedImage, load_image

D50 = (0.9642, 1.0, 0.8249)


def sample(mode: str = "RGB", size: tuple[int, int] = (48, 32)) -> Image.Image:
    """A smooth colourful picture that is symmetric in no way."""
    coarse = np.random.default_rng(5).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    return picture if mode == "RGB" else picture.convert(mode)


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, kind, **options)
    return sink.getvalue()


def load(folder: Path, data: bytes, name: str = "picture", **options: Any) -> LoadedImage:
    """The image of a file with these bytes."""
    (folder / name).write_bytes(data)
    return load_image(folder / name, **options)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_chunks(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """Kind and data of each chunk of a file."""
    with path.open("rb") as file:
        file.seek(8)
        while head := file.read(8):
            yield head[4:], file.read(int.from_bytes(head[:4]))
            file.seek(4, os.SEEK_CUR)


def image_data(path: Path) -> bytes:
    """The pixels of a PNG as its IDAT chunks have them."""
    return b"".join(data for kind, data in png_chunks(path) if kind == b"IDAT")


def png(width: int, height: int, depth: int, color: int, rows: bytes, *chunks: bytes) -> bytes:
    """A PNG of any depth and colour type; ``rows`` holds the unfiltered rows one after the other."""
    stride = len(rows) // height
    filtered = b"".join(b"\0" + rows[at : at + stride] for at in range(0, len(rows), stride))
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    body = png_chunk(b"IDAT", zlib.compress(filtered)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + body


def with_chunk(data: bytes, chunk: bytes) -> bytes:
    """A PNG with one more chunk after its header."""
    return data[:33] + chunk + data[33:]


def tiff(pixels: np.ndarray[Any, Any], *, planar: bool = False, kind: str = "", **options: Any) -> bytes:
    """A TIFF of [H, W] or [H, W, C] pixels of any type; the last of 2 or 4 channels is alpha, but in ``separated``."""
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    channels = pixels.shape[2]
    if channels == 1:
        pixels = pixels[..., 0]
    elif planar:
        pixels, options["planarconfig"] = np.moveaxis(pixels, 2, 0), "separate"
    else:
        options["planarconfig"] = "contig"
    if channels in {2, 4} and kind != "separated":
        options.setdefault("extrasamples", ["unassalpha"])
    sink = io.BytesIO()
    photometric = kind or ("minisblack" if channels < 3 else "rgb")
    tifffile.imwrite(sink, pixels, photometric=photometric, metadata=None, **options)
    return sink.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = orientation
    return exif


def _profile(
    space: bytes, tags: list[tuple[bytes, bytes]], kind: bytes = b"mntr", connection: bytes = b"XYZ "
) -> bytes:
    text = b"none\0"
    described = b"desc" + bytes(4) + struct.pack(">I", len(text)) + text + bytes(78)
    tags = [(b"desc", described), (b"cprt", b"text" + bytes(4) + text), (b"wtpt", _xyz(*D50)), *tags]
    start = 132 + 12 * len(tags)
    table, body = b"", b""
    for name, data in tags:
        padded = data + bytes(-len(data) % 4)
        table += name + struct.pack(">II", start + len(body), len(padded))
        body += padded
    head = struct.pack(">I", start + len(body)) + bytes(4) + b"\x02\x40\0\0" + kind + space + connection
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    head += struct.pack(">3I", *(round(value * 65536) for value in D50))
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + body


def _xyz(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))


def _gamma(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


def gray_profile(gamma: float) -> bytes:
    return _profile(b"GRAY", [(b"kTRC", _gamma(gamma))])


def rgb_profile(gamma: float, *, red_is_blue: bool = False) -> bytes:
    """sRGB's primaries with another gamma; exchanging two of them makes a profile that cannot be overlooked."""
    red, green, blue = (0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)
    if red_is_blue:
        red, blue = blue, red
    primaries = [(b"rXYZ", _xyz(*red)), (b"gXYZ", _xyz(*green)), (b"bXYZ", _xyz(*blue))]
    return _profile(b"RGB ", primaries + [(name, _gamma(gamma)) for name in (b"rTRC", b"gTRC", b"bTRC")])


def cmyk_profile(lab: Callable[[int, int, int, int], tuple[int, int, int]]) -> bytes:
    """A printing profile from the 8-bit Lab colours of the sixteen corners of (c, m, y, k)."""
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    line = bytes(range(256))
    corners = b"".join(bytes(lab(c, m, y, k)) for c in (0, 1) for m in (0, 1) for y in (0, 1) for k in (0, 1))
    table = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + identity + line * 4 + corners + line * 3
    return _profile(b"CMYK", [(b"A2B0", table)], kind=b"prtr", connection=b"Lab ")
