"""Text inside a picture: chunks of a PNG, comments of a JPEG, the description of a TIFF or WebP."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import BinaryIO

from PIL import ExifTags, Image, PngImagePlugin

from nst_fast.images.decoding import FORMATS, pillow_guarded
from nst_fast.images.sources import chunks, open_source
from nst_fast.system.files import AnyPath, shown

# A JPEG segment holds 65,533 bytes, so long texts are spread over several comments, each with this mark.
_MARK = b"nst-fast:"
_SEGMENT_BYTES = 65_533 - len(_MARK)
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
MAX_MEGAPIXELS = 179.0
_ANY_MEGAPIXELS = 2.0**40
_COMPRESS_ABOVE = 4096  # a text chunk of a PNG; shorter ones stay legible in the file


def png_text(text: Mapping[str, str]) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    for name, given in text.items():
        value = given.encode("utf-8", "backslashreplace").decode()  # for file names that are not UTF-8
        # Pillow refuses to read what unpacks to more than its limit; what is not packed may be longer.
        packed = _COMPRESS_ABOVE < len(value.encode()) < PngImagePlugin.MAX_TEXT_CHUNK
        info.add_itxt(name, value, zip=packed)
    return info


def jpeg_comments(text: Mapping[str, str]) -> bytes:
    """The text as JSON in as many JPEG comment segments as it takes."""
    data = json.dumps(dict(text)).encode("ascii") if text else b""
    parts = [_MARK + data[at : at + _SEGMENT_BYTES] for at in range(0, len(data), _SEGMENT_BYTES)]
    return b"".join(b"\xff\xfe" + (len(part) + 2).to_bytes(2, "big") + part for part in parts)


def description(text: Mapping[str, str]) -> str | None:
    """The text as the description (tag 270) of a TIFF, ASCII; None if there is none."""
    return _MARK.decode() + json.dumps(dict(text)) if text else None


def exif_description(text: Mapping[str, str]) -> Image.Exif:
    """The text as EXIF, for a WebP."""
    exif = Image.Exif()
    if text:
        exif[ExifTags.Base.ImageDescription] = description(text)
    return exif


def read_text(path: AnyPath) -> dict[str, str]:
    """The text inside a picture: all of a PNG's, and what ``save_image`` put into another; empty if there is none.

    Only text behind a PNG's pixels makes Pillow decode them. There, and for formats whose decoder starts at once,
    :data:`MAX_MEGAPIXELS` holds.

    Raises:
        InputError: not a readable picture, or text that is damaged or larger than Pillow allows.
        UsageError: a folder.
    """
    name = shown(path)
    with open_source(path) as stream:
        with pillow_guarded(name, MAX_MEGAPIXELS):
            limit = MAX_MEGAPIXELS if _must_be_decoded(stream) else _ANY_MEGAPIXELS
        with pillow_guarded(name, limit):
            picture = Image.open(stream, formats=FORMATS)
            if isinstance(picture, PngImagePlugin.PngImageFile):
                text = picture.text if limit == MAX_MEGAPIXELS or picture.png is None else picture.png.im_text
                return {key: str(value) for key, value in text.items()}
            data = _in_comments(picture) if picture.format in {"JPEG", "MPO"} else _in_description(picture)
            return {str(key): str(value) for key, value in json.loads(data).items()} if data else {}


def _must_be_decoded(stream: BinaryIO) -> bool:
    head = stream.read(8)
    stream.seek(0)
    if head.startswith(b"\x89PNG"):
        return any(kind in _TEXTS for kind, _ in chunks(stream, behind_pixels=True))
    return not head.startswith((b"\xff\xd8", b"II", b"MM"))


def _in_comments(picture: Image.Image) -> bytes:
    segments = getattr(picture, "applist", [])
    comments = [data for kind, data in segments if kind == "COM" and data.startswith(_MARK)]
    return b"".join(comment.removeprefix(_MARK) for comment in comments)


def _in_description(picture: Image.Image) -> bytes:
    described = str(picture.getexif().get(ExifTags.Base.ImageDescription, "")).encode()
    return described.removeprefix(_MARK) if described.startswith(_MARK) else b""
