"""Pictures that a program gives in place of files: PIL images, arrays and tensors, read as files are."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from nst_fast.errors import InputError
from nst_fast.images.color import Color, ColorReader, composited
from nst_fast.images.decoding import Decoded, Limits, decode, pillow_guarded
from nst_fast.images.resizing import Change, read_bands, scaled_size
from nst_fast.images.sources import check_signature
from nst_fast.images.spaces import FloatArray
from nst_fast.images.text import MAX_MEGAPIXELS
from nst_fast.system.files import AnyPath, user_path

KINDS = IMAGE, ARRAY, FILE = "image", "array", "bytes"  # what records call them, in place of a file's name
REMEDY = (
    "Give a path, a PIL image, an array [H, W, 3 or 4] of uint8, uint16 or floats in [0, 1], a tensor [3, H, W] or "
    "[1, 3, H, W] of floats in [0, 1], or the bytes of a picture file"
)

Encoded = bytes | bytearray | memoryview


class GivenPicture:
    """A picture in memory, copied.

    Attributes:
        kind: ``image`` (PIL), ``array`` (NumPy, PyTorch) or ``bytes`` (of a file).
        pixels: a PIL image, upright; [H, W, 3 or 4] float32 in [0, 1], with straight alpha; or the bytes.
        size: width and height in pixels; not known of bytes.
        sha256: of the pixels and of what else decides their colours, or of the bytes.

    Raises:
        InputError: another type or shape; values that are not in [0, 1]; bytes that are not those of a picture.
    """

    def __init__(self, picture: Image.Image | NDArray[Any] | Tensor | Encoded) -> None:
        self.kind = IMAGE if isinstance(picture, Image.Image) else FILE if isinstance(picture, Encoded) else ARRAY
        self.pixels: Image.Image | FloatArray | bytes
        if isinstance(picture, Encoded):
            self.pixels, self.size = bytes(picture), (0, 0)
            check_signature(self.pixels[:16], self.name)
            self.sha256 = hashlib.sha256(self.pixels).hexdigest()
            return
        self.pixels = _upright(picture) if isinstance(picture, Image.Image) else _checked(picture)
        if isinstance(self.pixels, Image.Image):
            image = self.pixels
            self.size = image.size
            info = [image.info.get(name) for name in ("transparency", "icc_profile")]
            facts, data = repr((image.mode, image.size, info)), image.tobytes()
        else:
            self.size = self.pixels.shape[1], self.pixels.shape[0]
            facts, data = repr(self.pixels.shape), self.pixels.tobytes()
        self.sha256 = hashlib.sha256(facts.encode() + data).hexdigest()

    def decoded(self, limits: Limits, background: Color | None) -> Decoded:
        """The picture on a background at the size of the limits. Raises :class:`InputError` for one beyond them."""
        if isinstance(self.pixels, bytes):
            return replace(decode(io.BytesIO(self.pixels), self.name, limits, background), format=self.kind)
        limits.check(*self.size, self.name)
        with pillow_guarded(self.name, limits.max_megapixels):
            if isinstance(self.pixels, Image.Image):
                reader = ColorReader(self.pixels, "", background)
                colors, notes = reader.read(self.pixels), reader.notes
            elif self.pixels.shape[2] == 3:
                colors, notes = self.pixels, []
            else:
                colors, notes = composited(self.pixels[..., :3], self.pixels[..., 3:], background)
        wanted = scaled_size(*self.size, limits.longest_side)
        change = Change(self.size, self.size, limits.reduction(*self.size), wanted)
        tensor = read_bands(lambda top, bottom: colors[top:bottom], change)
        return Decoded(tensor, self.size, self.kind, tuple(notes))

    @property
    def name(self) -> str:
        return f"the given {self.kind}"


Picture = AnyPath | Image.Image | NDArray[Any] | Tensor | Encoded  # what programs may give
Source = Path | GivenPicture  # what it becomes


def source_of(picture: Picture | Source) -> Source:
    """The path, or the pixels. Raises :class:`InputError` for what is no picture."""
    if isinstance(picture, GivenPicture):
        return picture
    return user_path(picture) if isinstance(picture, str | os.PathLike) else GivenPicture(picture)


def sources_of(pictures: Picture | Sequence[Picture]) -> list[Source]:
    """One picture or several."""
    if isinstance(pictures, Sequence | Iterator) and not isinstance(pictures, str | Encoded):
        return [source_of(picture) for picture in pictures]
    return [source_of(pictures)]


def _upright(picture: Image.Image) -> Image.Image:
    """A copy, turned as its EXIF orientation says, without a palette."""
    with pillow_guarded("the given image", MAX_MEGAPIXELS):
        upright = ImageOps.exif_transpose(picture)
        return upright.convert("RGBA" if upright.has_transparency_data else "RGB") if upright.mode == "P" else upright


def _checked(given: NDArray[Any] | Tensor) -> Image.Image | FloatArray:
    """A copy of an array or a tensor: as a PIL image where it has 8 bits, else as float32."""
    if isinstance(given, Tensor):
        tensor = given.detach()[0] if given.ndim == 4 and len(given) == 1 else given.detach()
        usable = tensor.layout == torch.strided and tensor.is_floating_point() and not tensor.is_meta
        if tensor.ndim != 3 or len(tensor) != 3 or not usable:
            raise InputError(f"a tensor {list(given.shape)} of {given.dtype} is no picture", REMEDY)
        array: NDArray[Any] = tensor.permute(1, 2, 0).float().cpu().numpy()
    elif isinstance(given, np.ndarray):
        array = given
    else:
        raise InputError(f"{type(given).__name__} is no picture", REMEDY)
    usable = array.size > 0 and (array.dtype in (np.uint8, np.uint16) or np.issubdtype(array.dtype, np.floating))
    if array.ndim != 3 or array.shape[2] not in (3, 4) or not usable:
        raise InputError(f"an array {list(array.shape)} of {array.dtype} is no picture", REMEDY)
    if array.dtype == np.uint8:
        return Image.fromarray(array)
    floats = np.array(array, np.float32, order="C") / np.float32(65535 if array.dtype == np.uint16 else 1)
    if not (floats.min() >= 0 and floats.max() <= 1):  # NaN is not
        raise InputError("the given array has values that are not from 0 to 1", "Divide it by its largest value")
    return floats
