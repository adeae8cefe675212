"""What the header of a picture file says of the size it will have: enough to sort pictures without decoding them."""

from __future__ import annotations

from pathlib import Path

from PIL import ExifTags, Image, ImageFile

from nst_fast.errors import InputError, UsageError
from nst_fast.images.decoding import FORMATS, pillow_guarded
from nst_fast.images.resizing import scaled_size
from nst_fast.images.sources import open_source
from nst_fast.system.files import AnyPath, shown

_ON_ITS_SIDE = range(5, 9)  # EXIF orientations that swap height and width


def size_at(path: AnyPath, longest_side: int, max_megapixels: float) -> tuple[int, int] | None:
    """Height and width that :func:`nst_fast.images.load_image` gives a file, None where its header does not say.

    It is a hint: the file may be damaged further on, and a PNG can be turned by what stands behind its pixels. Pipes,
    which can be read only once, are left alone.
    """
    if not Path(path).is_file():
        return None
    try:
        with open_source(path) as stream, pillow_guarded(shown(path), max_megapixels):
            picture = Image.open(stream, formats=FORMATS)
            width, height = scaled_size(*picture.size, longest_side)
            return (width, height) if _is_on_its_side(picture) else (height, width)
    except (InputError, UsageError):
        return None


def _is_on_its_side(picture: ImageFile.ImageFile) -> bool:
    if picture.format == "PNG" and "exif" not in picture.info:
        return False  # to look for it further on, Pillow would decode the pixels
    if picture.format == "TIFF":
        return False  # Pillow has turned its size already
    return picture.getexif().get(ExifTags.Base.Orientation, 1) in _ON_ITS_SIDE
