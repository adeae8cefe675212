"""Picture files to image tensors and back. An image tensor is [1, 3, H, W], RGB (sRGB), float32 in [0, 1]."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, PngImagePlugin
from torch import Tensor

from nst_fast.errors import InputError, NumericsError, OutputError, UsageError
from nst_fast.files import AnyPath, shown, write_atomic
from nst_fast.images.colour import SRGB_PROFILE, Colour, parse_colour
from nst_fast.images.decoding import FORMATS, Limits, decode, pillow_guarded
from nst_fast.images.resizing import resize, resize_to, scaled_size
from nst_fast.images.sources import STANDARD_INPUT, open_source

__all__ = [
    "READABLE",
    "LoadedImage",
    "check_output_suffix",
    "encode_image",
    "from_uint8",
    "load_image",
    "read_text",
    "resize",
    "resize_to",
    "save_image",
    "scaled_size",
    "to_uint8",
]

MAX_MEGAPIXELS = 179.0
JPEG_QUALITY = 95
WRITABLE = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
# What a file in a folder must be called to count as a picture; one that is named is read whatever it is called.
READABLE = WRITABLE | {".jfif": "JPEG", ".mpo": "MPO", ".gif": "GIF", ".avif": "AVIF"}

# A JPEG segment holds 65,533 bytes, so long texts are spread over several comments, each with this mark.
_MARK = b"nst-fast:"
_SEGMENT_BYTES = 65_533 - len(_MARK)
_COMPRESS_ABOVE = 4096  # a text chunk of a PNG; shorter ones stay legible in the file


@dataclass(frozen=True)
class LoadedImage:
    """An image read from a file.

    Attributes:
        tensor: [1, 3, H, W], RGB, float32 in [0, 1].
        path: as given.
        format: what the file is, whatever its suffix says: PNG, JPEG, MPO, WEBP, TIFF, BMP, GIF or AVIF.
        original_size: width and height in the file, upright, in pixels.
        sha256: of the file's bytes.
        notes: what a user should know: wrong suffix, first frame used, profile ignored.
    """

    tensor: Tensor
    path: Path
    format: str
    original_size: tuple[int, int]
    sha256: str
    notes: tuple[str, ...]


def load_image(
    path: AnyPath,
    *,
    longest_side: int | None = None,
    background: str | Colour = "white",
    max_megapixels: float = MAX_MEGAPIXELS,
) -> LoadedImage:
    """Read a picture as upright sRGB without transparency.

    Args:
        path: a PNG, JPEG, WebP, TIFF, BMP, GIF or AVIF file, or ``-`` for standard input.
        longest_side: resize, down or up, to this many pixels; ``None`` keeps the size.
        background: the colour behind transparent pixels: a name, ``#rrggbb`` or three numbers in [0, 1].
        max_megapixels: refuse files whose header claims more, before their pixels are decoded.

    Raises:
        InputError: missing, empty, damaged, cut short, of another kind, too large, or under 16 pixels on a side.
        UsageError: a folder; not a colour.
    """
    colour = parse_colour(background)
    name = "standard input" if str(path) == STANDARD_INPUT else shown(path)
    with open_source(path) as stream:
        try:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            decoded = decode(stream, name, Limits(longest_side, max_megapixels), colour)
        except OSError as error:
            raise InputError(f"{name} cannot be read: {error}", "Check the disk or the network it is on") from error
    notes = (*_suffix_note(Path(path), decoded.format), *decoded.notes)
    return LoadedImage(decoded.tensor, Path(path), decoded.format, decoded.size, digest, notes)


def _suffix_note(path: Path, actual: str) -> tuple[str, ...]:
    claimed = READABLE.get(path.suffix.lower())
    jpegs = {"JPEG", "MPO"}
    if claimed is None or claimed == actual or {claimed, actual} == jpegs:
        return ()
    return (f"suffix says {path.suffix[1:]}, content is {actual}",)


def to_uint8(tensor: Tensor) -> NDArray[np.uint8]:
    """Image [1, 3, H, W] in [0, 1] to [H, W, 3] in 0-255, rounded to the nearest; what lies outside is clamped.

    Raises:
        NumericsError: a value is NaN or infinite.
    """
    image = tensor.detach()
    if not bool(torch.isfinite(image).all()):
        raise NumericsError("the picture has values that are NaN or infinite", "Lower the learning rate")
    bytes_ = (image[0].float() * 255).round().clamp(0, 255).to(torch.uint8)
    array: NDArray[np.uint8] = bytes_.permute(1, 2, 0).contiguous().cpu().numpy()
    return array


def from_uint8(array: NDArray[np.uint8]) -> Tensor:
    """[H, W, 3] in 0-255 to an image [1, 3, H, W] in [0, 1]; :func:`to_uint8` undoes it exactly."""
    return (torch.from_numpy(np.array(array)).permute(2, 0, 1)[None].float() / 255).contiguous()


def check_output_suffix(path: AnyPath) -> str:
    """Pillow's name of the format that a file name asks for. Raises :class:`UsageError` if it cannot be written."""
    return _writable_format(Path(path).suffix, shown(path))


def _writable_format(suffix: str, name: str) -> str:
    if suffix.lower() not in WRITABLE:
        raise UsageError(f"{name}: cannot write {suffix or 'a name without suffix'}", f"Use {', '.join(WRITABLE)}")
    return WRITABLE[suffix.lower()]


def save_image(tensor: Tensor, path: AnyPath, *, text: Mapping[str, str] | None = None) -> None:
    """Write an image [1, 3, H, W]; the suffix chooses the format. The old file stays until the new one is complete.

    Raises:
        UsageError: a suffix that cannot be written.
        OutputError: the file cannot be written, or the format cannot hold an image of this size.
        NumericsError: a value is NaN or infinite.
    """
    check_output_suffix(path)
    write_atomic(path, encode_image(tensor, Path(path).suffix, text=text))


def encode_image(tensor: Tensor, suffix: str, *, text: Mapping[str, str] | None = None) -> bytes:
    """An image [1, 3, H, W] as the bytes of a file, 8 bits per channel, with an sRGB profile (but for BMP).

    Args:
        tensor: the image.
        suffix: ``.png``, ``.jpg`` (quality 95, 4:4:4), ``.webp``, ``.tif`` or ``.bmp``.
        text: name -> text, carried by all formats but BMP; :func:`read_text` gives it back.

    Raises:
        UsageError, OutputError, NumericsError: as :func:`save_image`.
    """
    kind = _writable_format(suffix, f"*{suffix}")
    picture = Image.fromarray(to_uint8(tensor))
    sink = io.BytesIO()
    try:
        picture.save(sink, kind, **_save_options(kind, text or {}))
    except (OSError, ValueError) as error:
        message = f"an image of {picture.width}x{picture.height} cannot be stored as {kind} ({error})"
        raise OutputError(message, "Use .png") from error
    return sink.getvalue()


def _save_options(kind: str, text: Mapping[str, str]) -> dict[str, Any]:
    profile = {"icc_profile": SRGB_PROFILE}
    match kind:
        case "PNG":
            return profile | {"pnginfo": _text_chunks(text)}
        case "JPEG":
            return profile | {"quality": JPEG_QUALITY, "subsampling": "4:4:4", "extra": _comments(text)}
        case "WEBP":
            return profile | {"quality": JPEG_QUALITY, "exif": _description(text)}
        case "TIFF":
            return profile | {"compression": "tiff_deflate", "exif": _description(text)}
        case _:
            return {}


def _text_chunks(text: Mapping[str, str]) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    for name, given in text.items():
        value = given.encode("utf-8", "backslashreplace").decode()  # a file name that is not UTF-8 has no other form
        # Pillow refuses to read what unpacks to more than its limit; what is not packed may be longer.
        packed = _COMPRESS_ABOVE < len(value.encode()) < PngImagePlugin.MAX_TEXT_CHUNK
        info.add_itxt(name, value, zip=packed)
    return info


def _comments(text: Mapping[str, str]) -> bytes:
    """The text as JSON in as many JPEG comment segments as it takes."""
    data = _to_json(text) if text else b""
    parts = [_MARK + data[at : at + _SEGMENT_BYTES] for at in range(0, len(data), _SEGMENT_BYTES)]
    return b"".join(b"\xff\xfe" + (len(part) + 2).to_bytes(2, "big") + part for part in parts)


def _description(text: Mapping[str, str]) -> Image.Exif:
    exif = Image.Exif()
    if text:
        exif[ExifTags.Base.ImageDescription] = (_MARK + _to_json(text)).decode("ascii")
    return exif


def _to_json(text: Mapping[str, str]) -> bytes:
    return json.dumps(dict(text)).encode("ascii")


def read_text(path: AnyPath) -> dict[str, str]:
    """The text inside a picture: all of a PNG's, and what :func:`save_image` put into another; empty if there is none.

    Raises:
        InputError: not a readable picture, or text that is damaged or larger than Pillow allows.
        UsageError: a folder.
    """
    with open_source(path) as stream, pillow_guarded(shown(path), MAX_MEGAPIXELS):
        picture = Image.open(stream, formats=FORMATS)
        if isinstance(picture, PngImagePlugin.PngImageFile):
            return {name: str(value) for name, value in picture.text.items()}
        if picture.format in {"JPEG", "MPO"}:
            segments = getattr(picture, "applist", [])
            comments = [data for kind, data in segments if kind == "COM" and data.startswith(_MARK)]
            data = b"".join(comment.removeprefix(_MARK) for comment in comments)
        else:
            described = str(picture.getexif().get(ExifTags.Base.ImageDescription, "")).encode()
            data = described.removeprefix(_MARK) if described.startswith(_MARK) else b""
        return {str(name): str(value) for name, value in json.loads(data).items()} if data else {}
