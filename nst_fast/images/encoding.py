"""Image tensors to picture files, written a strip of rows at a time: 8 or 16 bits, sRGB profile, text inside.

PNG is framed here (Pillow writes no 16-bit colour, and libvips would make it an extra), TIFF and BigTIFF by tifffile,
the rest by Pillow, which holds the whole picture at 4 bytes per pixel.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, features
from torch import Tensor

from nst_fast.errors import NumericsError, OutputError, UsageError
from nst_fast.images.color import SRGB_PROFILE
from nst_fast.images.text import description, exif_description, jpeg_comments, png_text
from nst_fast.system.files import AnyPath, shown

Pixels = NDArray[np.uint8] | NDArray[np.uint16]

QUALITY = 95  # of the formats that lose detail
WRITABLE = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".avif": "AVIF",
}
BIT_DEPTHS = (8, 16)
DEEP = ("PNG", "TIFF")  # the formats that hold 16 bits per channel
TRANSPARENT = ("PNG", "TIFF", "WEBP", "AVIF")  # the formats that hold alpha
LONGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383, "AVIF": 32_768}  # of AVIF what libavif reads
# Where offsets of 32 bits no longer suffice, less what tags and incompressible strips may add.
BIGTIFF_BYTES = 2**32 - 2**25
STRIP_PIXELS = 2**19
_DEFLATE = 6  # zlib's own balance; 9 takes three times as long for 1 %
_HORIZONTAL = 2  # TIFF's predictor: differences between neighbours
_SUB, _UP, _AVERAGE = 1, 2, 3  # PNG's filters; Paeth gains 1 % and takes as long as the rest together


def check_output_suffix(path: AnyPath, bit_depth: int = 8, side: int = 0) -> str:
    """Pillow's name of the format that a file's suffix asks for.

    Raises :class:`UsageError` for one that cannot be written, or not with this bit depth or a side of so many pixels.
    """
    name, suffix = shown(path), Path(path).suffix
    if suffix.lower() not in WRITABLE:
        raise UsageError(f"{name}: cannot write {suffix or 'a name without suffix'}", f"Use {', '.join(WRITABLE)}")
    kind = WRITABLE[suffix.lower()]
    if kind == "AVIF" and not features.check("avif"):
        raise UsageError(f"{name}: this Pillow was built without AVIF", "Use .png, or install Pillow's own wheel")
    if bit_depth not in BIT_DEPTHS:
        raise UsageError(f"{bit_depth} bits per channel", "Use 8 or 16")
    if bit_depth > 8 and kind not in DEEP:
        deep = ", ".join(known for known, format_ in WRITABLE.items() if format_ in DEEP)
        raise UsageError(f"{name}: {kind} holds 8 bits per channel, not {bit_depth}", f"Use {deep}, or `bit_depth` 8")
    if side > (longest := LONGEST_SIDE.get(kind, side)):
        raise UsageError(f"{name}: {kind} holds no side of {side} pixels, the most are {longest}", "Use .png or .tif")
    return kind


def quantised(image: Tensor, bit_depth: int) -> Pixels:
    """Image [1, C, H, W] in [0, 1] to [H, W, C] in whole numbers, clamped and rounded to the nearest.

    Raises :class:`NumericsError` for a value that is NaN or infinite.
    """
    image = image.detach()
    if not bool(torch.isfinite(image).all()):
        raise NumericsError("the picture has values that are NaN or infinite", "Lower the learning rate")
    white = 2**bit_depth - 1
    values = (image[0].float() * white).round().clamp(0, white).to(torch.uint8 if bit_depth == 8 else torch.int32)
    array = values.permute(1, 2, 0).contiguous().cpu().numpy()
    return cast(NDArray[np.uint8], array) if bit_depth == 8 else array.astype(np.uint16)


def strips(image: Tensor, bit_depth: int) -> Iterator[Pixels]:
    rows = rows_per_strip(image)
    for top in range(0, image.shape[2], rows):
        yield quantised(image[:, :, top : top + rows], bit_depth)


def rows_per_strip(image: Tensor) -> int:
    return max(1, STRIP_PIXELS // image.shape[3])


def write_image(
    stream: BinaryIO, image: Tensor, kind: str, text: Mapping[str, str], bit_depth: int, quality: int = QUALITY
) -> None:
    """Write an image [1, 3, H, W], of :data:`TRANSPARENT` also [1, 4, H, W] with alpha, as a file of a kind that
    :func:`check_output_suffix` gave. ``quality``, to 100, is of the formats that lose detail.

    Raises:
        OutputError: the format cannot hold an image of this size.
        NumericsError: a value is NaN or infinite.
        OSError: the stream cannot be written.
    """
    try:
        if kind == "PNG":
            _write_png(stream, image, text, bit_depth)
        elif kind == "TIFF":
            _write_tiff(stream, image, text, bit_depth)
        else:
            _write_by_pillow(stream, image, kind, text, quality)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        # An encoder that refuses a picture gives an error without a number.
        message = f"an image of {image.shape[3]}x{image.shape[2]} cannot be stored as {kind} ({error})"
        raise OutputError(message, "Use .png") from error


def _write_png(stream: BinaryIO, image: Tensor, text: Mapping[str, str], bit_depth: int) -> None:
    channels = image.shape[1]
    color = {3: 2, 4: 6}[channels]  # RGB, RGB with alpha
    size = struct.pack(">IIBBBBB", image.shape[3], image.shape[2], bit_depth, color, 0, 0, 0)
    stream.write(b"\x89PNG\r\n\x1a\n")
    PngImagePlugin.putchunk(stream, b"IHDR", size)
    PngImagePlugin.putchunk(stream, b"iCCP", b"sRGB\0\0" + zlib.compress(SRGB_PROFILE))
    for name, data, *_ in png_text(text).chunks:
        PngImagePlugin.putchunk(stream, name, data)
    packer = zlib.compressobj(_DEFLATE)
    above = np.zeros(image.shape[3] * channels * bit_depth // 8, np.uint8)
    for strip in strips(image, bit_depth):
        rows = (strip.byteswap() if bit_depth > 8 else strip).reshape(len(strip), -1).view(np.uint8)
        if data := packer.compress(_filtered(rows, above, bit_depth * channels // 8)):  # it may hold its input back
            PngImagePlugin.putchunk(stream, b"IDAT", data)
        above = rows[-1]
    PngImagePlugin.putchunk(stream, b"IDAT", packer.flush())
    PngImagePlugin.putchunk(stream, b"IEND")


def _filtered(rows: NDArray[np.uint8], above: NDArray[np.uint8], pixel: int) -> bytes:
    """Rows [h, bytes], each behind the filter that leaves the smallest sum of differences (PNG specification, 12.7).

    ``above`` is the row before the first; ``pixel`` the bytes per pixel.
    """
    up = np.concatenate([above[None], rows[:-1]])
    left = np.zeros_like(rows)
    left[:, pixel:] = rows[:, :-pixel]
    best = np.full(len(rows), np.iinfo(np.int64).max)
    out = np.empty((len(rows), 1 + rows.shape[1]), np.uint8)
    for kind, guess in ((_SUB, left), (_UP, up), (_AVERAGE, (left >> 1) + (up >> 1) + (left & up & 1))):
        difference = rows - guess
        cost = np.abs(difference.view(np.int8).astype(np.int16)).sum(1, dtype=np.int64)
        better = cost < best
        best[better] = cost[better]
        out[better, 0] = kind
        out[better, 1:] = difference[better]
    return out.tobytes()


def _write_tiff(stream: BinaryIO, image: Tensor, text: Mapping[str, str], bit_depth: int) -> None:
    from tifffile import imwrite  # a quarter of a second to import

    channels, height, width = image.shape[1:]
    imwrite(
        stream,
        (_packed(strip) for strip in strips(image, bit_depth)),
        shape=(height, width, channels),
        extrasamples=["unassalpha"] if channels == 4 else None,
        dtype=f"u{bit_depth // 8}",
        byteorder="<",
        bigtiff=height * width * channels * bit_depth // 8 > BIGTIFF_BYTES,
        photometric="rgb",
        planarconfig="contig",
        rowsperstrip=rows_per_strip(image),
        compression="adobe_deflate",
        predictor=_HORIZONTAL,
        iccprofile=SRGB_PROFILE,
        description=description(text),
        software=False,
        metadata=None,  # no description of its own
    )


def _packed(strip: Pixels) -> bytes:
    """A strip of a TIFF: differences between neighbours, deflated."""
    differences = strip.copy()
    differences[:, 1:] -= strip[:, :-1]
    return zlib.compress(differences.astype(differences.dtype.newbyteorder("<")).tobytes(), _DEFLATE)


def _write_by_pillow(stream: BinaryIO, image: Tensor, kind: str, text: Mapping[str, str], quality: int) -> None:
    height, width = image.shape[2:]
    picture, top = Image.new("RGBA" if image.shape[1] == 4 else "RGB", (width, height)), 0
    for strip in strips(image, 8):
        picture.paste(Image.fromarray(strip), (0, top))
        top += len(strip)
    options: dict[str, Any] = {"quality": quality, "icc_profile": SRGB_PROFILE}  # a BMP holds neither
    if kind in ("JPEG", "AVIF"):
        options |= {"subsampling": "4:4:4"}
    if kind == "JPEG":
        options |= {"extra": jpeg_comments(text)}
    elif kind in ("WEBP", "AVIF"):
        options |= {"exif": exif_description(text)}
    sink = cast(BinaryIO, _Sink(stream))
    try:
        picture.save(sink, kind, **options)
    except RuntimeError as error:  # of the encoder of AVIF
        raise ValueError(str(error)) from error


class _Sink:
    """A stream without a descriptor: with one, Pillow writes past Python and reports no reason when a disk refuses."""

    def __init__(self, stream: BinaryIO) -> None:
        self.write = stream.write
