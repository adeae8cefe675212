"""From the bytes of a picture file to an image tensor: limits, frames, orientation, reducing while decoding."""

from __future__ import annotations

import io
import logging
import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

from PIL import ExifTags, Image, ImageFile, TiffImagePlugin, UnidentifiedImageError
from torch import Tensor

from nst_fast.errors import InputError, NstFastError, UsageError
from nst_fast.images.color import Color, ColorReader
from nst_fast.images.extra import kind_of
from nst_fast.images.resizing import Change, read_bands, scaled_size
from nst_fast.images.sixteen import halves, is_deep, is_planar, is_tiff, read_tiff, use_native_order
from nst_fast.images.sources import COLOR_CHUNKS, open_source, with_only_chunks
from nst_fast.images.spaces import stated_space
from nst_fast.images.streaming import HINT, Rows, UnlikePillowError, is_large, rows_of
from nst_fast.system.files import AnyPath, shown

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF")  # MPO comes through JPEG; EPS starts programs: never
SMALLEST_SIDE = 16
HEADROOM = 3  # pixels per pixel wanted that reducing by averages leaves to the better filter
_SCAN_BYTES = 2**24  # counting the frames of a larger GIF or TIFF would take longer than it is worth
_REPAIR_BYTES = 2**28  # a PNG with damaged metadata is rebuilt in memory, if it is no larger
_REMEDY = "Get it again, or open and save it in an image editor"
_RAISE_LIMIT = "If you trust the file, raise `max_megapixels`"
_LOCK = threading.RLock()  # Pillow's limit and Python's warning filters belong to the whole process

# EXIF orientation -> (swap height and width, then flip these dimensions of [1, 3, H, W])
_UPRIGHT = {
    2: (False, (3,)),
    3: (False, (2, 3)),
    4: (False, (2,)),
    5: (True, ()),
    6: (True, (3,)),
    7: (True, (2, 3)),
    8: (True, (2,)),
}
# Without a handler of its own, Python prints what Pillow logs about a damaged TIFF.
logging.getLogger("PIL").addHandler(logging.NullHandler())

_PIXEL_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_COLOR_CHUNKS = _PIXEL_CHUNKS | COLOR_CHUNKS | {b"iCCP", b"eXIf"}


@dataclass(frozen=True, eq=False)
class Decoded:
    """A picture as decoded: [1, 3, H, W], upright, sRGB, float32 in [0, 1], at the size wanted.

    Without a background it may have alpha: [1, 4, H, W], colours times alpha, and alpha.
    ``size`` is width and height of the whole picture, upright, in pixels; ``format`` Pillow's name of the format.
    """

    tensor: Tensor
    size: tuple[int, int]
    format: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Limits:
    """What a picture may be: its pixels in the file and at the size wanted, its shorter side at both."""

    longest_side: int | None
    max_megapixels: float

    def check(self, width: int, height: int, name: str) -> None:
        """Raise :class:`InputError` for a size that the header claims and that cannot be used."""
        self._check_area(width, height, f"{name} has {width}x{height} pixels")
        scaled = scaled_size(width, height, self.longest_side)
        at_size = f"{name} ({width}x{height}) becomes {scaled[0]}x{scaled[1]} pixels at this size"
        self._check_area(*scaled, at_size)
        if min(width, height) < SMALLEST_SIDE:
            remedy = f"The smallest usable picture is {SMALLEST_SIDE}x{SMALLEST_SIDE}"
            raise InputError(f"{name} has only {width}x{height} pixels", remedy)
        if min(scaled) < SMALLEST_SIDE:
            enough = math.ceil(SMALLEST_SIDE * max(width, height) / min(width, height))
            remedy = f"Both sides need {SMALLEST_SIDE} pixels: use `image_size` {enough} or more, or crop the picture"
            raise InputError(at_size, remedy)

    def _check_area(self, width: int, height: int, claim: str) -> None:
        if width * height > self.max_megapixels * 1e6:
            raise InputError(f"{claim}; the limit is {self.max_megapixels:g} megapixels", _RAISE_LIMIT)

    def reduction(self, width: int, height: int) -> int:
        """The whole number by which a picture can be reduced while it is read without harm to the size wanted."""
        if self.longest_side is None:
            return 1
        return max(1, max(width, height) // (HEADROOM * self.longest_side))


def decode(stream: BinaryIO, name: str, limits: Limits, background: Color | None) -> Decoded:
    """Decode a picture that begins at the start of a stream; ``name`` is for messages.

    Raises :class:`InputError` for one that is damaged, cut short, of no readable kind, too large or too small.
    """
    try:
        return _decode(stream, name, limits, background)
    except InputError as error:
        if error.__cause__ is None or not _is_small_png(stream):  # without a cause it is our own refusal of a size
            raise
        for kept in (_COLOR_CHUNKS, _PIXEL_CHUNKS):
            with suppress(InputError):
                decoded = _decode(with_only_chunks(kept, stream), name, limits, background)
                return replace(decoded, notes=("damaged or oversized metadata ignored", *decoded.notes))
        raise


def size_at(path: AnyPath, longest_side: int, max_megapixels: float) -> tuple[int, int] | None:
    """Height and width that :func:`nst_fast.images.load_image` gives a file, None where its header does not say.

    A hint: the file may be damaged further on, and a PNG can hold its orientation after its pixels. Pipes, which can
    be read only once, are not opened.
    """
    if not Path(path).is_file():
        return None
    try:
        with open_source(path) as stream, pillow_guarded(shown(path), max_megapixels):
            picture = Image.open(stream, formats=FORMATS)
            width, height = scaled_size(*picture.size, longest_side)
            # For a late EXIF of a PNG Pillow would decode the pixels; the size of a TIFF it has turned already.
            early = picture.format != "TIFF" and (picture.format != "PNG" or "exif" in picture.info)
            orientation = picture.getexif().get(ExifTags.Base.Orientation, 1) if early else 1
    except (InputError, UsageError):
        return None
    return (width, height) if _UPRIGHT.get(orientation, (False,))[0] else (height, width)


@contextmanager
def pillow_guarded(name: str, max_megapixels: float) -> Iterator[list[str]]:
    """Pillow with our pixel limit in place of its own, silent, and failing by :class:`InputError` only.

    The list that it gives holds Pillow's warnings once the context has ended.
    """
    notes: list[str] = []
    with _LOCK, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pillows_limit = Image.MAX_IMAGE_PIXELS
        # Pillow warns beyond its limit and refuses beyond twice its limit.
        Image.MAX_IMAGE_PIXELS = math.ceil(max_megapixels * 1e6 / 2)
        try:
            yield notes
        except NstFastError:
            raise
        except Image.DecompressionBombError as error:
            raise InputError(f"{name} has more than {max_megapixels:g} megapixels", _RAISE_LIMIT) from error
        except UnidentifiedImageError as error:
            raise InputError(f"{name} is damaged, or of a kind that cannot be read", _REMEDY) from error
        except MemoryError as error:
            raise InputError(f"{name} needs more memory than there is", "Make it smaller first") from error
        # Broad because Pillow's decoders promise nothing: hostile bytes raise a dozen types, AttributeError included.
        except Exception as error:  # of any type, see above
            detail = " ".join(str(error).split()) or type(error).__name__
            message = f"{name} is damaged, cut short or of a kind that cannot be read ({detail})"
            raise InputError(message, _REMEDY) from error
        finally:
            Image.MAX_IMAGE_PIXELS = pillows_limit
            ours = [w for w in caught if not issubclass(w.category, Image.DecompressionBombWarning)]
            notes.extend(dict.fromkeys(str(warning.message).strip() for warning in ours))


def _decode(stream: BinaryIO, name: str, limits: Limits, background: Color | None) -> Decoded:
    stream.seek(0)
    with pillow_guarded(name, limits.max_megapixels) as warned:
        picture, rows, notes = _opened(stream, name, limits)
        width, height = picture.size
        limits.check(width, height, name)
        rawmode = _rawmode(picture)
        extent = _draft(picture, limits.reduction(width, height))
        wanted = scaled_size(width, height, limits.longest_side)
        change = Change(picture.size, extent, limits.reduction(*picture.size), wanted)
        tensor, orientation, noted = _pixels(picture, rawmode, rows, stream, background, change)
        notes = [*_frames(picture, stream), *notes, *noted]
    swap, flips = _UPRIGHT.get(orientation, (False, ()))
    if swap:
        tensor, width, height = tensor.transpose(2, 3), height, width
    if swap or flips:
        tensor = tensor.flip(flips).contiguous()
    return Decoded(tensor, (width, height), picture.format or "", (*notes, *warned))


def _opened(stream: BinaryIO, name: str, limits: Limits) -> tuple[Image.Image, Rows | None, list[str]]:
    """A picture before decoding; or, of a TIFF for tifffile, its facts, rows and notes."""
    if (kind := kind_of(stream)) is not None:
        kind.check_installed(name)
        return kind.open(stream, name, limits.check)
    if stream.read(4) == b"MM\0+":  # Pillow takes it for another kind
        return read_tiff(stream, name, limits.check)
    try:
        picture = Image.open(stream, formats=FORMATS)
    except UnidentifiedImageError:
        if is_tiff(stream):
            return read_tiff(stream, name, limits.check)
        raise
    if is_planar(picture):
        limits.check(*picture.size, name)
        bands = len(picture.getbands())
        if bands == 2 or (bands > 2 and is_deep(picture) and picture.mode != "CMYK"):
            try:
                return read_tiff(stream, name, limits.check)
            except InputError:  # Pillow, through libtiff, knows more kinds of packing
                if bands == 2:  # but takes all from the first plane
                    raise
        # Without libtiff Pillow takes each byte of each plane for a pixel, whatever its depth.
        given, TiffImagePlugin.READ_LIBTIFF = TiffImagePlugin.READ_LIBTIFF, True
        try:
            picture = Image.open(stream, formats=FORMATS)
        finally:
            TiffImagePlugin.READ_LIBTIFF = given
    use_native_order(picture)
    return picture, None, []


def _draft(picture: Image.Image, reduction: int) -> tuple[float, float]:
    """Let a JPEG leave out detail while decoding; other kinds cannot. Width and height that the picture then has.

    They may end within the last pixel: 1003 pixels at one eighth are 125.375, decoded as 126.
    """
    width, height = picture.size
    drafts = picture.format in ("JPEG", "MPO") and reduction > 1  # a HEIC would give a thumbnail
    drafted = picture.draft(None, (width // reduction, height // reduction)) if drafts else None
    return drafted[1][2:] if drafted else (float(width), float(height))


def _pixels(
    picture: Image.Image, rawmode: str, rows: Rows | None, stream: BinaryIO, background: Color | None, change: Change
) -> tuple[Tensor, int, list[str]]:
    """The picture at the size wanted but not yet turned, its EXIF orientation, and notes."""
    notes: list[str] = []

    def read(rows: Rows, *, sixteen: bool) -> tuple[Tensor, int, list[str]]:
        stated, orientation = partial(stated_space, picture, stream), _orientation(picture)
        reader = ColorReader(picture, rawmode, background, stated, sixteen=sixteen)
        tensor = read_bands(lambda top, bottom: reader.read(rows(top, bottom)), change)
        return tensor, orientation, [*notes, *reader.notes]

    if isinstance(picture, ImageFile.ImageFile) and is_large(picture, rawmode, stream):
        with suppress(UnlikePillowError):
            if (banded := rows_of(picture, stream)) is not None:
                return read(banded, sixteen=";16" in rawmode)
            notes.append(HINT)
    rows = rows or halves(picture, rawmode, lambda: Image.open(stream, formats=FORMATS))
    if rows is not None:
        return read(rows, sixteen=True)
    picture.load()
    return read(lambda top, bottom: picture.crop((0, top, picture.width, bottom)), sixteen=False)


def _rawmode(picture: Image.Image) -> str:
    """How the file stores pixels, in Pillow's words (``RGB;16B``); empty where the decoder does not say."""
    tiles = getattr(picture, "tile", None)
    arguments = tiles[0].args if tiles else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _orientation(picture: Image.Image) -> int:
    """EXIF orientation of a decoded picture, 1 to 8; 1 for a TIFF, which Pillow has turned already."""
    try:
        # Not a PNG's own getexif, which decodes the picture to see what comes after it.
        orientation = Image.Image.getexif(picture).get(ExifTags.Base.Orientation, 1)
    except Exception as error:  # as broad as the damage that metadata can have; the pixels are good
        warnings.warn(f"damaged EXIF ignored ({error})", stacklevel=2)
        return 1
    return orientation if orientation in _UPRIGHT else 1


def _frames(picture: Image.Image, stream: BinaryIO) -> list[str]:
    """A note if the file has more frames or pages than the first."""
    try:
        if not getattr(picture, "is_animated", False):
            return []
        if picture.format in {"GIF", "TIFF"} and stream.seek(0, io.SEEK_END) > _SCAN_BYTES:
            return ["first of several frames used"]
        return [f"first of {getattr(picture, 'n_frames', 1)} frames used"]
    except Exception:  # later frames may be damaged in any way; the first is good
        return ["first frame used; later ones are damaged"]


def _is_small_png(stream: BinaryIO) -> bool:
    size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    return size <= _REPAIR_BYTES and stream.read(4) == b"\x89PNG"
