"""Picture files to image tensors and back. An image tensor is [1, 3, H, W], RGB (sRGB), float32 in [0, 1].

May import: errors, options, system.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nst_fast.errors import InputError
from nst_fast.images.borders import NO_BORDERS, Borders, Crop, decode_cropped
from nst_fast.images.color import SRGB_PROFILE, Color, parse_color
from nst_fast.images.decoding import Limits, decode
from nst_fast.images.encoding import QUALITY, WRITABLE, check_output_suffix, quantised, write_image
from nst_fast.images.extra import KINDS
from nst_fast.images.given import GivenPicture
from nst_fast.images.resizing import resize, resize_to, scaled_size
from nst_fast.images.sources import STANDARD_INPUT, open_source
from nst_fast.images.text import MAX_MEGAPIXELS, read_text
from nst_fast.images.transparency import straight
from nst_fast.system.files import AnyPath, shown, write_atomic

__all__ = [
    "NO_BORDERS",
    "READABLE",
    "SRGB_PROFILE",
    "WRITABLE",
    "Borders",
    "Crop",
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

# The suffixes of pictures in a folder; a file that is named is read whatever its suffix.
READABLE = WRITABLE | {".jfif": "JPEG", ".mpo": "MPO", ".gif": "GIF"}
READABLE |= {suffix: kind.format for kind in KINDS if kind.installed for suffix in kind.suffixes}


@dataclass(frozen=True, eq=False)
class LoadedImage:
    """An image read from a file, or from memory."""

    tensor: Tensor  # [1, 3, H, W], RGB, float32 in [0, 1]
    path: Path  # as given; of a picture in memory its kind, as ``format``
    format: str  # of the content, not the suffix: PNG, JPEG, MPO, WEBP, TIFF, BMP, GIF, AVIF, HEIF, JXL or RAW
    original_size: tuple[int, int]  # width and height in the file, upright, in pixels
    sha256: str  # of the file's bytes
    notes: tuple[str, ...]  # what a user should know: wrong suffix, first frame used, profile ignored
    alpha: Tensor | None = None  # [1, 1, H, W] in [0, 1]; None where all is opaque or a background was asked for


def load_image(
    picture: AnyPath | GivenPicture,
    *,
    longest_side: int | None = None,
    background: str | Color | None = "white",
    max_megapixels: float = MAX_MEGAPIXELS,
    crop: Crop = NO_BORDERS,
) -> LoadedImage:
    """Read a picture as upright sRGB.

    Args:
        picture: a PNG, JPEG, WebP, TIFF, BMP, GIF or AVIF file, one of :mod:`nst_fast.images.extra`, ``-`` for standard
            input, or a picture in memory, whose ``path`` and ``format`` are then its kind.
        longest_side: resize, down or up, to this many pixels; ``None`` keeps the size.
        background: the colour behind transparent pixels: a name, ``#rrggbb`` or three numbers in [0, 1]. None keeps
            their alpha apart, and gives what is invisible the colours around it.
        max_megapixels: refuse files whose header claims more, before their pixels are decoded.
        crop: borders to be left out before resizing; ``auto`` finds them and adds a note.

    Raises:
        InputError: missing, empty, damaged, cut short, of another kind, too large, or under 16 pixels on a side.
        UsageError: a folder; not a colour.
    """
    color = parse_color(background) if background is not None else None
    limits = Limits(longest_side, max_megapixels)
    if isinstance(picture, GivenPicture):
        path, name, digest = Path(picture.kind), picture.name, picture.sha256
        decoded = decode_cropped(partial(picture.decoded, background=color), name, limits, crop)
    else:
        path, name = Path(picture), "standard input" if str(picture) == STANDARD_INPUT else shown(picture)
        with open_source(picture) as stream:
            try:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
                decoded = decode_cropped(partial(decode, stream, name, background=color), name, limits, crop)
            except OSError as error:
                raise InputError(f"{name} cannot be read: {error}", "Check the disk or the network it is on") from error
    tensor, alpha = straight(decoded.tensor, name)
    notes = (*_suffix_note(path, decoded.format), *decoded.notes)
    return LoadedImage(tensor, path, decoded.format, decoded.size, digest, notes, alpha)


def _suffix_note(path: Path, actual: str) -> tuple[str, ...]:
    claimed = READABLE.get(path.suffix.lower())
    jpegs = {"JPEG", "MPO"}
    if claimed is None or claimed == actual or {claimed, actual} == jpegs:
        return ()
    return (f"suffix says {path.suffix[1:]}, content is {actual}",)


def to_uint8(tensor: Tensor) -> NDArray[np.uint8]:
    """Image [1, 3, H, W] in [0, 1] to [H, W, 3] in 0-255; see :func:`nst_fast.images.encoding.quantised`."""
    return cast(NDArray[np.uint8], quantised(tensor, 8))


def from_uint8(array: NDArray[np.uint8]) -> Tensor:
    """[H, W, 3] in 0-255 to an image [1, 3, H, W] in [0, 1]; :func:`to_uint8` undoes it exactly."""
    return (torch.from_numpy(np.array(array)).permute(2, 0, 1)[None].float() / 255).contiguous()


def save_image(
    tensor: Tensor,
    path: AnyPath,
    *,
    text: Mapping[str, str] | None = None,
    bit_depth: int = 8,
    quality: int = QUALITY,
) -> None:
    """Write an image [1, 3, H, W], or [1, 4, H, W] with alpha; the suffix chooses the format.

    The old file stays until the new one is complete. Beyond the image itself this takes a strip of rows in memory; for
    JPEG, WebP, AVIF and BMP also 4 bytes per pixel.

    Args:
        tensor: the image.
        path: ends in ``.png``, ``.jpg`` or ``.avif`` (both 4:4:4), ``.webp``, ``.tif`` (BigTIFF where needed) or
            ``.bmp``; all carry an sRGB profile but BMP.
        text: name -> text, carried by all formats but BMP; :func:`read_text` gives it back.
        bit_depth: bits per channel, 8 or, for PNG and TIFF, 16.
        quality: of JPEG, WebP and AVIF, 1 to 100.

    Raises:
        UsageError: a suffix that cannot be written, or not with so many bits.
        OutputError: the file cannot be written, or the format cannot hold an image of this size.
        NumericsError: a value is NaN or infinite.
    """
    kind = check_output_suffix(path, bit_depth)
    write_atomic(path, lambda stream: write_image(stream, tensor, kind, text or {}, bit_depth, quality))


def encode_image(tensor: Tensor, suffix: str, *, text: Mapping[str, str] | None = None, bit_depth: int = 8) -> bytes:
    """The bytes of the file that :func:`save_image` would write under a name with this suffix; the same errors."""
    sink = io.BytesIO()
    write_image(sink, tensor, check_output_suffix(f"*{suffix}", bit_depth), text or {}, bit_depth)
    return sink.getvalue()
