"""Large pictures a band at a time: libvips decodes the rows that are asked for, where Pillow would hold all of them.

Only what both read alike is left to libvips: 8 or 16 bits of RGB, RGBA or grey with alpha. It gives pieces as Pillow
would; colours, transparency and orientation are converted by the same code as for all other pictures.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageFile

from nst_fast.images.color import Piece
from nst_fast.images.sources import chunks

Rows = Callable[[int, int], Piece]  # the rows from one to before another, asked for from top to bottom

LARGE_PIXELS = 50_000_000  # Pillow takes 4 bytes for each
HINT = "decoded whole, at 4 bytes per pixel, or 8 of 16 bits; install pyvips[binary] to read it in bands"
_LOADERS = {"PNG": "pngload_source", "JPEG": "jpegload_source", "TIFF": "tiffload_source"}
_CHANNELS = {"RGB": 3, "RGBA": 4, "LA": 2}
_TURNING_TEXTS = (b"Raw profile type", b"XML:com.adobe.xmp")
_DEPTHS: dict[str, Any] = {"uchar": np.uint8, "ushort": np.uint16}


class UnlikePillowError(Exception):
    """libvips cannot read the picture, or reads it differently; Pillow decides what it is."""


def is_large(picture: ImageFile.ImageFile, rawmode: str, stream: BinaryIO) -> bool:
    """Whether a picture, opened but not decoded, should be read in bands, and is of a kind that can be."""
    if picture.width * picture.height < LARGE_PIXELS or picture.mode not in _CHANNELS:
        return False
    if rawmode.partition(";")[0] != picture.mode or not isinstance(getattr(stream, "name", None), str):
        return False  # stored in another way than the mode says (premultiplied, palette), or not a file
    match picture.format:
        case "PNG":
            whole = "interlace" in picture.info or "transparency" in picture.info
            return not (whole or getattr(picture, "is_animated", False) or _is_turned_late(stream))
        case "TIFF":  # Pillow turns it while it decodes
            return bool(getattr(picture, "tag_v2", {}).get(ExifTags.Base.Orientation, 1) == 1)
        case kind:
            return kind == "JPEG" and picture.mode == "RGB"


def _is_turned_late(stream: BinaryIO) -> bool:
    """Whether a PNG may hold its orientation after its pixels, too late for a reader of bands."""
    return any(kind == b"eXIf" or data.startswith(_TURNING_TEXTS) for kind, data in chunks(stream, behind_pixels=True))


def rows_of(picture: ImageFile.ImageFile, stream: BinaryIO) -> Rows | None:
    """The rows of a large picture; None where pyvips is not installed.

    Raises :class:`UnlikePillowError` at once, or when rows are asked for.
    """
    vips = _pyvips()
    if vips is None:
        return None
    mode, (width, height) = picture.mode, picture.size
    with _refusals(vips):
        # Warnings are errors: whether a damaged file is still a picture is decided by Pillow.
        options = {"access": "sequential", "fail_on": "warning"}
        source = vips.Source.new_from_file(stream.name)
        image = getattr(vips.Image, _LOADERS[picture.format or ""])(source, **options)
        region = vips.Region.new(image)
    found = (image.width, image.height, image.bands, image.format)
    if found[:3] != (width, height, _CHANNELS[mode]) or image.format not in _DEPTHS:
        raise UnlikePillowError(f"{found}, to Pillow {picture}")

    def rows(top: int, bottom: int) -> Piece:
        with _refusals(vips):
            data = region.fetch(0, top, width, bottom - top)
        values = np.frombuffer(data, _DEPTHS[image.format]).reshape(bottom - top, width, image.bands)
        return Image.fromarray(values) if values.dtype == np.uint8 else values

    return rows


@contextmanager
def _refusals(vips: Any) -> Iterator[None]:
    """Errors of libvips, and of a name that it cannot take, become :class:`UnlikePillowError`."""
    try:
        yield
    except (vips.Error, UnicodeError) as error:
        raise UnlikePillowError(str(error)) from error


@cache
def _pyvips() -> Any | None:
    """The module; None where it, or the library behind it, is missing."""
    logging.getLogger("pyvips").addHandler(logging.NullHandler())  # else Python prints what it logs
    try:
        import pyvips
    except (ImportError, OSError):
        return None
    pyvips.block_untrusted_set(True)  # loaders that their authors do not call safe
    pyvips.cache_set_max(0)  # it would keep files open that have been read
    return pyvips
