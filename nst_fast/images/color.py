"""Any picture that Pillow opens, of any mode, depth, profile and transparency, to sRGB as float32 in [0, 1]."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageColor, TiffImagePlugin

from nst_fast.errors import InputError, UsageError
from nst_fast.images.spaces import FloatArray, Space, profile_space

Piece = Image.Image | NDArray[np.uint16]
# profile=whether there is a usable one -> the space stated, whether it goes before the profile, notes
Stated = Callable[..., tuple[Space | None, bool, list[str]]]
Color = tuple[float, float, float]

MAX_PROFILE_BYTES = 8 * 2**20  # the largest profiles of printing presses have 3 MB
_GRAY_MODES = {"1", "L", "LA", "La", "I;16", "I;16B"}
_DEEP_MODES = {"I;16", "I;16B", "I", "F"}
_WHITE_IS_ZERO = 0  # of TIFF's tag 262; Pillow inverts 8 bits for us, but not 16 or 32
_PHOTOMETRIC = 262
INFINITE = ("the picture has pixels that are NaN or infinite", "Repair it in the program that made it")


_littlecms = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
# LittleCMS's, with a fixed date of creation (bytes 24 to 35) so that equal pictures are equal files.
SRGB_PROFILE = _littlecms[:24] + bytes((7, 0xEA, 0, 1, 0, 1)) + bytes(6) + _littlecms[36:]


def parse_color(color: str | Color) -> Color:
    """``white``, ``#rrggbb``, ``rgb(...)`` or three numbers in [0, 1] to three numbers. Raises :class:`UsageError`."""
    remedy = "Give a name such as white, or #rrggbb"
    if isinstance(color, str):
        try:
            channels = ImageColor.getrgb(color)
        except ValueError as error:
            raise UsageError(f"not a colour: {color!r}", remedy) from error
        if len(channels) != 3:
            raise UsageError(f"a background cannot be transparent: {color!r}", remedy)
        return channels[0] / 255, channels[1] / 255, channels[2] / 255
    if len(color) != 3 or not all(0 <= channel <= 1 for channel in color):
        raise UsageError(f"not a colour: {color!r}", "Give three numbers from 0 to 1")
    return color


class ColorReader:
    """Reads pieces of one picture as [h, w, 3] float32 sRGB in [0, 1].

    Profiles of 8 bits are converted by LittleCMS (relative colorimetric with black point compensation), transparent
    pixels are composited on the background, pictures of more than 8 bits are scaled, never clipped.

    Args:
        picture: decoded by Pillow, or its facts.
        rawmode: how the file stores its pixels, in Pillow's words (``RGB;16B``); known before decoding only.
        background: the colour behind transparent pixels; None keeps them transparent.
        stated: the colours that the file states otherwise than by a profile, given whether it has one.
        sixteen: pieces of colour come as arrays of 16 bits.

    ``notes`` for the user grow while pieces are read. Raises :class:`InputError` for pixels that are not finite.
    """

    def __init__(
        self,
        picture: Image.Image,
        rawmode: str,
        background: Color | None,
        stated: Stated | None = None,
        *,
        sixteen: bool = False,
    ) -> None:
        self.notes: list[str] = []
        self._background = background
        self._has_alpha = picture.has_transparency_data
        self._key = picture.info.get("transparency") if sixteen else None
        self._premultiplied = rawmode.startswith("RGBa") or bool(picture.info.get("premultiplied"))
        self._unsigned = rawmode == "I;32N"
        self._inverted = (
            isinstance(picture, TiffImagePlugin.TiffImageFile)
            and picture.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
            and picture.mode in _DEEP_MODES
        )
        _scale_transparency(picture.info, rawmode)
        self._black, self._white = self._range(picture, rawmode)
        mode = "LA" if rawmode.startswith("LA;16") else picture.mode
        deep = sixteen or mode in _DEEP_MODES
        self._profile_mode, self._transform, self._space = self._profile(picture.info, mode, stated, deep=deep)
        if (";16" in rawmode and picture.mode not in _DEEP_MODES and not sixteen) or (sixteen and self._transform):
            self.notes.append("16 bits per channel read as 8")

    def read(self, piece: Piece) -> FloatArray:
        """A crop of the picture, as Pillow's or, of 16-bit colour, [h, w, grey or RGB, alpha]: [h, w, 3].

        Of a picture that may be transparent and has no background, colours times alpha, and alpha: [h, w, 4].
        """
        if isinstance(piece, np.ndarray):
            colors, alpha = self._sixteen(piece)
        else:
            piece = piece.convert("LA") if piece.mode == "La" else piece
            colors = self._deep(piece) if piece.mode in _DEEP_MODES else self._shallow(piece)
            alpha = self._alpha(piece)[..., None] if self._has_alpha else None
        if self._space is not None:
            colors = self._space.to_srgb(colors)
        if alpha is None:
            return colors
        pixels, notes = composited(colors, alpha, self._background)
        self.notes += [note for note in notes if note not in self.notes]
        return pixels

    def _sixteen(self, values: NDArray[np.uint16]) -> tuple[FloatArray, FloatArray | None]:
        unit = values.astype(np.float32) / np.float32(65535)
        alpha = unit[..., -1:] if values.shape[2] in {2, 4} else None
        colors = unit[..., :3] if values.shape[2] > 2 else np.repeat(unit[..., :1], 3, axis=2)
        if self._key is not None:
            alpha = np.asarray((values != np.array(self._key)).any(2, keepdims=True), np.float32)
        if self._premultiplied and alpha is not None:
            colors = np.where(alpha > 0, colors / np.maximum(alpha, 1e-6), 0).clip(0, 1)
        if self._transform is not None:
            eight = Image.fromarray(np.round(colors * 255).astype(np.uint8)).convert(self._profile_mode)
            colors = _unit(_applied(self._transform, eight).convert("RGB"))
        return colors, alpha

    def _shallow(self, piece: Image.Image) -> FloatArray:
        if self._has_alpha and piece.mode not in _GRAY_MODES:
            piece = piece.convert("RGBA")
        if self._transform is not None:
            piece = _applied(self._transform, piece.convert(self._profile_mode))
        return _unit(piece.convert("RGB"))

    def _deep(self, piece: Image.Image) -> FloatArray:
        gray = (self._values(piece) - self._black) / (self._white - self._black)
        if self._inverted:
            gray = 1 - gray
        if self._transform is not None:
            sixteen = Image.fromarray(np.round(gray * 65535).astype(np.uint16))
            return _unit(_applied(self._transform, sixteen))
        return np.repeat(gray.astype(np.float32)[..., None], 3, axis=2)

    def _alpha(self, piece: Image.Image) -> FloatArray:
        if piece.mode in _DEEP_MODES:
            return np.asarray(self._values(piece) != piece.info["transparency"], np.float32)
        return _unit(piece.convert("RGBA").getchannel("A"))

    def _values(self, piece: Image.Image) -> NDArray[np.float64]:
        values = np.asarray(piece)
        return (values.view(np.uint32) if self._unsigned else values).astype(np.float64)

    def _range(self, picture: Image.Image, rawmode: str) -> tuple[float, float]:
        """The values that become black and white. Only 12 and 16 bits have an agreed white; else the values decide."""
        if picture.mode not in {"I", "F"}:
            return 0.0, 4095.0 if rawmode == "I;12" else 65535.0
        values = np.asarray(picture)
        values = values.view(np.uint32) if self._unsigned else values
        full = (1.0,) if picture.mode == "F" else (255.0, 65535.0, 2.0**31 - 1, 2.0**32 - 1)
        black, white, notes = value_range(float(values.min()), float(values.max()), full)
        self.notes += notes
        return black, white

    def _profile(
        self, info: Mapping[Any, Any], mode: str, stated: Stated | None, *, deep: bool
    ) -> tuple[str, ImageCms.ImageCmsTransform | None, Space | None]:
        """The mode that the transform to sRGB takes, the transform, or in its place a space; None where not needed."""
        if mode == "LAB":
            return "LAB", _to_srgb(ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")), "LAB"), None
        data, profile_mode, transform = info.get("icc_profile"), "", None
        if isinstance(data, bytes) and data:
            try:
                profile_mode, transform = _transform_for(data, mode)
            except (OSError, ValueError, ImageCms.PyCMSError) as error:
                self.notes.append(f"ICC profile ignored: {error}")
        elif mode == "CMYK":
            self.notes.append("CMYK without a profile: colours are approximate")
        space, decides, notes = None, False, list[str]()
        if stated is not None and mode != "CMYK":
            space, decides, notes = stated(profile=transform is not None)
        self.notes += notes
        if decides or transform is None or not isinstance(data, bytes):
            return "", None, space
        if deep or profile_mode == "L":
            with suppress(ValueError):  # LittleCMS takes 8 bits of colour, and of grey keeps too few in the shadows
                return "", None, profile_space(data)
        return profile_mode, transform, None


def composited(colors: FloatArray, alpha: FloatArray, background: Color | None) -> tuple[FloatArray, list[str]]:
    """Colours [h, w, 3] of an alpha [h, w, 1] on a background, or without one times alpha, and alpha; notes."""
    if background is None:
        return np.concatenate([colors * alpha, alpha], axis=2), []
    pixels: FloatArray = colors * alpha + np.array(background, np.float32) * (1 - alpha)
    return pixels, ["transparent pixels composited on the background"] if alpha.min() < 1 else []


def value_range(low: float, high: float, full: tuple[float, ...]) -> tuple[float, float, list[str]]:
    """The values that become black and white where none are agreed: ``full`` has those that are usual as white.

    With a note unless they are 0 and 1. Raises :class:`InputError` for values that are not finite.
    """
    if not np.isfinite((low, high)).all():  # a NaN anywhere makes both NaN
        raise InputError(*INFINITE)
    black, white = min(0.0, low), next((white for white in full if high <= white), high)
    unagreed = (black, white) != (0.0, 1.0)
    return black, white, [f"no agreed range: {black:g} taken as black, {white:g} as white"] if unagreed else []


def _transform_for(data: bytes, mode: str) -> tuple[str, ImageCms.ImageCmsTransform]:
    """Raises OSError, ValueError or PyCMSError for a profile that is damaged, huge, or of another kind of picture."""
    if len(data) > MAX_PROFILE_BYTES:
        raise ValueError(f"it has {len(data)} bytes")
    profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
    space = profile.profile.xcolor_space.strip()
    deep, gray, print_ = mode in _DEEP_MODES, mode in _GRAY_MODES, mode == "CMYK"
    fits = {"RGB": not deep and not print_, "GRAY": gray, "CMYK": print_}
    if not fits.get(space, False):
        raise ValueError(f"it is for {space}, the picture is {mode}")
    profile_mode = {"RGB": "RGB", "GRAY": "I;16" if deep else "L", "CMYK": "CMYK"}[space]
    return profile_mode, _to_srgb(profile, profile_mode)


def _to_srgb(profile: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
    intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
    return ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB", intent, flags)


def _applied(transform: ImageCms.ImageCmsTransform, piece: Image.Image) -> Image.Image:
    converted = ImageCms.applyTransform(piece, transform)
    assert converted is not None  # None is its answer to inPlace=True only
    return converted


def _unit(piece: Image.Image) -> FloatArray:
    return np.asarray(piece, np.float32) / np.float32(255)


def _scale_transparency(info: dict[str | tuple[int, int], Any], rawmode: str) -> None:
    """Bring the transparent colour of a PNG from the file's depth, where Pillow leaves it, to that of the pixels."""
    factor = {"L;2": 85, "L;4": 17}.get(rawmode)
    if factor and "transparency" in info:
        info["transparency"] *= factor
