"""Colours of more than 8 bits: each half of 16 by Pillow, which keeps one; TIFFs beyond Pillow by tifffile."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, TiffImagePlugin

from nst_fast.errors import InputError
from nst_fast.images.color import INFINITE, value_range
from nst_fast.images.streaming import Rows

if TYPE_CHECKING:
    import tifffile

_BITS = TiffImagePlugin.BITSPERSAMPLE
_NATIVE = {"I;16BS": "I;16NS", "I;32BS": "I;32NS", "F;32BF": "F;32NF"}
_PLANAR, _SEPARATE = TiffImagePlugin.PLANAR_CONFIGURATION, 2
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_PREMULTIPLIED, _ALPHA = 1, 2
_BEST_RATIO = 1100  # deflate packs no better
_NUMBERS = {1: "unsigned", 2: "signed", 3: "floating point"}
_ICC_PROFILE = 34675
_REMEDY = "Save it as RGB or grey with 8 or 16 bits per channel, uncompressed or with deflate"

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # else Python prints what it logs


def halves(picture: Image.Image, rawmode: str, reopen: Callable[[], ImageFile.ImageFile]) -> Rows | None:
    """The rows of a picture of 16-bit colour, open but not decoded, with all their bits; None for others.

    The picture is decoded, as if the file had 8 bits. ``reopen`` opens it once more.
    """
    base, _, order = rawmode.partition(";16")
    if not isinstance(picture, ImageFile.ImageFile) or base not in {"RGB", "RGBA", "RGBX", "RGBa", "LA"}:
        return None
    if order not in {"B", "L", "N"} or is_planar(picture):
        return None
    if base == "LA":  # all four bytes of a pixel are the bytes of one RGBA
        _load_as(picture, "RGBA")
        return lambda top, bottom: _joined(
            _rows(picture, top, bottom)[..., 0::2], _rows(picture, top, bottom)[..., 1::2]
        )
    base = base.replace("RGBa", "RGBA")
    # Of the bytes b"hl", read as 16 bits, "B" keeps h and "L" keeps l, whichever is the upper half.
    first, second = reopen(), picture
    _load_as(first, f"{base};16B")
    _load_as(second, f"{base};16L")
    big = order == "B" or (order == "N" and sys.byteorder == "big")
    upper, lower = (first, second) if big else (second, first)
    return lambda top, bottom: _joined(_rows(upper, top, bottom), _rows(lower, top, bottom))


def is_planar(picture: Image.Image) -> bool:
    """Whether a TIFF stores its channels one after the other."""
    return isinstance(picture, TiffImagePlugin.TiffImageFile) and picture.tag_v2.get(_PLANAR) == _SEPARATE


def is_deep(picture: Image.Image) -> bool:
    """Whether a TIFF has more than 8 bits per channel."""
    return isinstance(picture, TiffImagePlugin.TiffImageFile) and max(picture.tag_v2.get(_BITS, (1,))) > 8


def use_native_order(picture: Image.Image) -> None:
    """Let Pillow read signed integers and floats of a TIFF as libtiff gives them, not in the file's order."""
    for tile in getattr(picture, "tile", ()):
        if tile.codec_name == "libtiff" and tile.args[0] in _NATIVE and isinstance(picture, ImageFile.ImageFile):
            _rename(picture, _NATIVE[tile.args[0]])
            break


def _rename(picture: ImageFile.ImageFile, rawmode: str) -> None:
    """Have the pixels unpacked in another way."""

    def renamed(arguments: Any) -> Any:
        return (rawmode, *arguments[1:]) if isinstance(arguments, tuple) else rawmode

    picture.tile = [tile._replace(args=renamed(tile.args)) for tile in picture.tile]


def _load_as(picture: ImageFile.ImageFile, rawmode: str) -> None:
    _rename(picture, rawmode)
    picture.load()


def _rows(picture: Image.Image, top: int, bottom: int) -> NDArray[np.uint8]:
    return np.asarray(picture.crop((0, top, picture.width, bottom)))


def _joined(upper: NDArray[np.uint8], lower: NDArray[np.uint8]) -> NDArray[np.uint16]:
    joined: NDArray[np.uint16] = upper.astype(np.uint16) << np.uint16(8) | lower
    return joined


def is_tiff(stream: BinaryIO) -> bool:
    stream.seek(0)
    return stream.read(4).startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"))


def read_tiff(
    stream: BinaryIO, name: str, check: Callable[[int, int, str], None]
) -> tuple[Image.Image, Rows, list[str]]:
    """A TIFF by tifffile: its facts as a picture without pixels, its rows in 16 bits, and notes.

    ``check(width, height, name)`` refuses sizes before anything is decoded.

    Raises:
        InputError: of a kind that is not read, or not finite; damage raises tifffile's errors.
    """
    from tifffile import TiffFile  # a quarter of a second to import

    stream.seek(0)
    with TiffFile(stream, name="") as file:
        page = file.pages.first
        check(page.imagewidth, page.imagelength, name)
        values, notes = _sixteen(_decoded(page, name))
        with suppress(IndexError):
            notes = ["first of several frames used", *notes] if file.pages[1] else notes
        tags = {code: page.tags[code].value for code in (ExifTags.Base.Orientation, _ICC_PROFILE) if code in page.tags}
    facts = Image.new(_MODES[values.shape[2]], values.shape[1::-1], None)
    facts.format = "TIFF"
    if page.photometric == _WHITE_IS_ZERO:
        values[..., 0] = 65535 - values[..., 0]
    facts.info = {"icc_profile": tags.get(_ICC_PROFILE), "premultiplied": page.extrasamples[:1] == (_PREMULTIPLIED,)}
    facts.getexif()[ExifTags.Base.Orientation] = tags.get(ExifTags.Base.Orientation, 1)
    return facts, lambda top, bottom: values[top:bottom], notes


def _decoded(page: tifffile.TiffPage, name: str) -> NDArray[Any]:
    """The values of a page as stored, [H, W, grey or RGB, alpha if there is one]. Raises InputError."""
    colors = 3 if page.photometric == _RGB else 1
    extra = page.samplesperpixel - colors
    kind = "" if page.dtype is None else page.dtype.kind
    if page.photometric not in {_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB} or extra < 0 or kind not in {"u", "f"}:
        raise _refusal(page, name)
    counts, segments = page.databytecounts, math.prod(page.chunked)
    if len(counts) < segments or 0 in counts or page.nbytes > _BEST_RATIO * sum(counts) or page.imagedepth != 1:
        raise ValueError("fewer pixels than its size asks for")
    try:
        values = page.asarray(squeeze=False, maxworkers=1)
    except (ImportError, NotImplementedError) as error:  # tifffile lacks the codec
        raise _refusal(page, name) from error
    except ValueError as error:
        if "imagecodecs" in str(error):
            raise _refusal(page, name) from error
        raise
    values = np.moveaxis(values[:, 0], 0, -2).reshape(page.imagelength, page.imagewidth, page.samplesperpixel)
    has_alpha = extra > 0 and page.extrasamples[:1] in {(), (_PREMULTIPLIED,), (_ALPHA,)}
    kept: NDArray[Any] = values[..., : colors + has_alpha]
    return kept


def _refusal(page: tifffile.TiffPage, name: str) -> InputError:
    numbers = _NUMBERS.get(page.sampleformat, f"sample format {page.sampleformat}")
    kind, packing = (getattr(code, "name", str(code)).lower() for code in (page.photometric, page.compression))
    layout = f"{page.samplesperpixel} channels of {page.bitspersample} bits ({numbers}, {kind}, packing {packing})"
    return InputError(f"{name} is a TIFF of a kind that is not read: {layout}", _REMEDY)


def _sixteen(values: NDArray[Any]) -> tuple[NDArray[np.uint16], list[str]]:
    """Values of any depth to 16 bits, and a note if there is no agreed range. Raises InputError if not finite."""
    if values.dtype.kind == "u":
        size = 8 * values.dtype.itemsize
        scaled = values * np.uint16(257) if size == 8 else values >> values.dtype.type(size - 16)
        return scaled.astype(np.uint16), []
    colors = values[..., : values.shape[2] - 1 + values.shape[2] % 2]
    black, white, notes = value_range(float(colors.min()), float(colors.max()), (1.0,))
    if not np.isfinite(values).all():
        raise InputError(*INFINITE)
    sixteen = np.empty(values.shape, np.uint16)
    for row, source in zip(sixteen, values, strict=True):  # a row at a time: a copy of it all would be large
        scaled = source.astype(np.float64)
        scaled[:, : colors.shape[2]] = (scaled[:, : colors.shape[2]] - black) / (white - black)
        row[:] = np.rint(scaled.clip(0, 1) * 65535)
    return sixteen, notes
