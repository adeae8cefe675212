"""Colour spaces of three curves and a matrix to sRGB, in NumPy at any depth: what a PNG's chunks, an AVIF's nclx box,
EXIF, TIFF tags or a simple ICC profile say. LittleCMS, for all other profiles, takes and gives 8 bits of colour.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, TiffImagePlugin

from nst_fast.images.sources import COLOR_CHUNKS, chunks

FloatArray = NDArray[np.float32]
Curve = Callable[[FloatArray], FloatArray]
Primaries = tuple[float, ...]  # x and y of white, red, green and blue

D65 = (0.3127, 0.3290)
_C = (0.310, 0.316)
SRGB: Primaries = (*D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
ADOBE_RGB: Primaries = (*D65, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
ADOBE_GAMMA = 563 / 256
# ITU-T H.273, table 2. What is not listed is not converted, and noted.
_PRIMARIES: dict[int, Primaries] = {
    1: SRGB,
    4: (*_C, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    8: (*_C, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),
    9: (*D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (*D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    22: (*D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),
}
_PQ, _HLG = 16, 18
_REFERENCE_WHITE = 203  # cd/m², ITU-R BT.2408: what becomes white; brighter highlights are clipped
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_D50 = np.array([0.96422, 1.0, 0.82521])
_ALIKE = 2e-3  # half a level of 8 bits
_GAMMA_ALIKE = 0.05  # libpng's threshold: with sRGB's primaries 2.2 stands for sRGB's curve
_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)  # BT.2100
_NCLX = re.compile(rb"colrnclx(.{4})", re.DOTALL)
_NCLX_WITHIN = 2**16
_TIFF_PRIMARIES = {318, 319}  # white point and the other three


@dataclass(frozen=True, eq=False)
class Space:
    """``curves`` make light of stored values of red, green and blue in [0, 1], ``matrix`` makes sRGB's light of it."""

    curves: tuple[Curve, Curve, Curve]
    matrix: FloatArray
    full_range: bool = True

    def to_srgb(self, rgb: FloatArray) -> FloatArray:
        """[..., 3] in [0, 1] to the same in sRGB; colours outside its gamut are clipped."""
        if not self.full_range:
            rgb = np.clip((rgb * 255 - 16) / 219, 0, 1)
        light = np.stack([curve(rgb[..., at]) for at, curve in enumerate(self.curves)], -1)
        if self.curves[0] is _hlg:
            # The display's own gamma (BT.2100), here of 1000 cd/m².
            light *= np.maximum(light @ _LUMINANCE, 1e-9)[..., None] ** np.float32(0.2) * (1000 / _REFERENCE_WHITE)
        light = np.clip(light @ self.matrix.T, 0, 1)
        return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055).astype(np.float32)


def space_of(primaries: Primaries, curve: Curve, *, full_range: bool = True) -> Space | None:
    """The space; None where it is sRGB. Raises ValueError for primaries that span nothing."""
    matrix = np.eye(3) if _is_srgb(primaries) else np.linalg.solve(_to_d50(SRGB), _to_d50(primaries))
    return _unless_srgb(Space((curve,) * 3, matrix.astype(np.float32), full_range))


def _is_srgb(primaries: Primaries) -> bool:
    return bool(np.abs(np.subtract(primaries, SRGB)).max() < _ALIKE)


def gamma_curve(gamma: float) -> Curve:
    return lambda values: values ** np.float32(gamma)


def stated_space(picture: Image.Image, stream: BinaryIO, *, profile: bool) -> tuple[Space | None, bool, list[str]]:
    """The colours that a file states otherwise than by a profile: the space, None where it is sRGB or nothing is said;
    whether it goes before a profile; notes. ``profile``: there is a usable one.
    """
    if picture.format == "PNG":
        before = [chunk for chunk in chunks(stream, behind_pixels=False) if chunk[0] in COLOR_CHUNKS]
        return png_space(dict(reversed(before)), profile=profile)  # the first of each kind
    space, notes = None, list[str]()
    if profile:
        return None, False, []
    try:
        if picture.format == "AVIF":
            space, notes = _avif_space(stream)
        elif isinstance(picture, TiffImagePlugin.TiffImageFile) and picture.tag_v2.keys() >= _TIFF_PRIMARIES:
            white, primaries = (picture.tag_v2[tag] for tag in sorted(_TIFF_PRIMARIES))
            space = space_of((*map(float, white), *map(float, primaries)), _srgb_curve)
        elif picture.format == "BMP" and _bmp_says_colors(stream):
            notes = ["colour description of the BMP not converted"]
        elif picture.format in {"JPEG", "MPO"} and _interoperability(picture) == "R03":
            space = space_of(ADOBE_RGB, gamma_curve(ADOBE_GAMMA))
    except (ValueError, ArithmeticError) as error:
        notes = [f"colour description ignored: {error}"]
    return space, False, notes


def png_space(chunks: Mapping[bytes, bytes], *, profile: bool) -> tuple[Space | None, bool, list[str]]:
    """As :func:`stated_space`, by a PNG's chunks in the order of its specification: cICP, iCCP, sRGB, gAMA and cHRM."""
    notes: list[str] = []
    if b"cICP" in chunks:
        try:
            space, notes = _coded(chunks[b"cICP"])
            return space, True, notes
        except ValueError as error:
            notes.append(f"cICP ignored: {error}")
    if profile or b"sRGB" in chunks or not chunks.keys() & {b"gAMA", b"cHRM"}:
        return None, False, notes
    try:
        primaries = SRGB
        if b"cHRM" in chunks:
            primaries = tuple(value / 100_000 for value in struct.unpack(">8I", chunks[b"cHRM"]))
        if b"gAMA" in chunks:
            gamma = 100_000 / struct.unpack(">I", chunks[b"gAMA"])[0]
            if not _is_srgb(primaries) or abs(gamma / 2.2 - 1) >= _GAMMA_ALIKE:
                return space_of(primaries, gamma_curve(gamma)), False, notes
        return space_of(primaries, _srgb_curve), False, notes
    except (ValueError, ZeroDivisionError, struct.error):
        return None, False, [*notes, "gAMA and cHRM ignored: they describe no colours"]


def _avif_space(stream: BinaryIO) -> tuple[Space | None, list[str]]:
    """Pillow undoes the coding by luminance only. Raises ValueError."""
    at = stream.tell()
    stream.seek(0)
    found = _NCLX.search(stream.read(_NCLX_WITHIN))
    stream.seek(at)
    if not found:
        return None, []
    primaries, transfer = struct.unpack(">2H", found[1])
    unspecified = 2
    primaries, transfer = (1 if primaries == unspecified else primaries), (13 if transfer == unspecified else transfer)
    return _coded(bytes((min(primaries, 255), min(transfer, 255), 0, 1)))


def _bmp_says_colors(stream: BinaryIO) -> bool:
    """Whether a BMP has a profile, or endpoints of its own."""
    at = stream.tell()
    stream.seek(14)
    header = stream.read(96)
    stream.seek(at)
    kind = header[56:60] if int.from_bytes(header[:4], "little") >= 108 else b"none"
    return kind in {b"DEBM", b"KNIL"} or (kind == bytes(4) and any(header[60:96]))  # embedded, linked, calibrated


def _interoperability(picture: Image.Image) -> object:
    """EXIF's index: R03 is how cameras say Adobe RGB."""
    try:
        return Image.Image.getexif(picture).get_ifd(ExifTags.IFD.Interop).get(1)
    except Exception:  # as broad as the damage that metadata can have; _orientation notes it
        return None


def profile_space(data: bytes) -> Space | None:
    """The space of an ICC profile of RGB or grey that consists of curves and a matrix; None for sRGB.

    Raises ValueError for another kind, or damage. Then LittleCMS is to decide.
    """
    try:
        count = struct.unpack_from(">I", data, 128)[0]
        entries = [struct.unpack_from(">4sII", data, 132 + 12 * at) for at in range(min(count, 100))]
        tags = {name: data[start : start + length] for name, start, length in entries}
        if any(name.startswith((b"A2B", b"D2B")) for name in tags) or data[20:24] != b"XYZ ":
            raise ValueError("it has tables")
        if data[16:20] == b"GRAY":
            return _unless_srgb(Space((_icc_curve(tags[b"kTRC"]),) * 3, np.eye(3, dtype=np.float32)))
        red, green, blue = (_icc_curve(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC"))
        columns = [struct.unpack_from(">3i", tags[name], 8) for name in (b"rXYZ", b"gXYZ", b"bXYZ")]
        matrix = np.linalg.solve(_to_d50(SRGB), np.array(columns).T / 65536)
    except (KeyError, IndexError, struct.error) as error:
        raise ValueError("it has no curves and matrix") from error
    return _unless_srgb(Space((red, green, blue), matrix.astype(np.float32)))


def _coded(code: bytes) -> tuple[Space | None, list[str]]:
    """A space by the numbers of H.273: primaries, transfer, matrix and full range. Raises ValueError."""
    if len(code) != 4 or code[2] != 0:
        raise ValueError("it is not RGB")
    primaries, transfer, _, full_range = code
    if primaries not in _PRIMARIES or transfer not in _TRANSFERS:
        raise ValueError(f"unknown colour primaries {primaries} or transfer {transfer}")
    high = transfer in {_PQ, _HLG}
    space = space_of(_PRIMARIES[primaries], _TRANSFERS[transfer], full_range=bool(full_range))
    return space, [f"HDR: light above {_REFERENCE_WHITE} cd/m² clipped to white"] if high else []


def _to_d50(primaries: Primaries) -> NDArray[np.float64]:
    """Light of red, green and blue to XYZ, adapted to D50 as ICC profiles are; columns."""
    x, y = np.array(primaries[0::2]), np.array(primaries[1::2])
    if not np.isfinite(primaries).all() or (y <= 0).any():
        raise ValueError("primaries without luminance")
    white, *corners = np.stack([x / y, np.ones(4), (1 - x - y) / y], 1)
    try:
        columns = np.array(corners).T
        matrix = columns * np.linalg.solve(columns, white)
    except np.linalg.LinAlgError as error:
        raise ValueError("primaries on a line") from error
    adapted: NDArray[np.float64] = (
        np.linalg.solve(_BRADFORD, np.diag(_BRADFORD @ _D50 / (_BRADFORD @ white))) @ _BRADFORD @ matrix
    )
    if not np.isfinite(adapted).all() or np.abs(adapted).max() > 100:
        raise ValueError("primaries on a line")
    return adapted


def _unless_srgb(space: Space) -> Space | None:
    """None for a space in which colours look as they do in sRGB."""
    ramp = np.linspace(0, 1, 33, dtype=np.float32)
    colors = np.stack(np.meshgrid(ramp, ramp[::8], ramp[::4], indexing="ij"), -1)
    with np.errstate(all="ignore"):
        converted = space.to_srgb(colors)
    if not np.isfinite(converted).all():
        raise ValueError("its curves are not finite")
    return None if np.abs(converted - colors).max() < _ALIKE else space


def _icc_curve(tag: bytes) -> Curve:
    """Of a ``curv`` or ``para`` tag of ICC. Raises ValueError."""
    kind = tag[:4]
    if kind == b"curv":
        count = struct.unpack_from(">I", tag, 8)[0]
        if count == 0:
            return lambda values: values
        points = np.frombuffer(tag, ">u2", count, 12).astype(np.float32)
        if count == 1:
            return gamma_curve(float(points[0]) / 256)
        places = np.linspace(0, 1, count, dtype=np.float32)
        return lambda values: np.interp(values, places, points / 65535).astype(np.float32)
    form = struct.unpack_from(">H", tag, 8)[0]
    if kind != b"para" or form not in {0, 3}:
        raise ValueError(f"a curve of another kind: {kind!r}")
    given = [value / 65536 for value in struct.unpack_from(">5i" if form else ">i", tag, 12)]
    gamma, a, b, c, d = given if form else (given[0], 1.0, 0.0, 0.0, 0.0)
    return lambda values: np.where(values >= d, np.maximum(a * values + b, 0) ** np.float32(gamma), c * values).astype(
        np.float32
    )


def _srgb_curve(values: FloatArray) -> FloatArray:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4).astype(np.float32)


def _pq(values: FloatArray) -> FloatArray:
    """SMPTE ST 2084, relative to the reference white."""
    power = values.astype(np.float64) ** (32 / 2523)
    light = np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)
    return (light ** (16384 / 2610) * 10_000 / _REFERENCE_WHITE).astype(np.float32)


def _hlg(values: FloatArray) -> FloatArray:
    """ARIB STD-B67: the scene's light in [0, 1]."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(values <= 0.5, values**2 / 3, (np.exp((values - c) / a) + b) / 12).astype(np.float32)


# ITU-T H.273, table 3. Pictures that are called BT.709 (and its kin) are made and seen on displays of sRGB.
_TRANSFERS: dict[int, Curve] = {
    **dict.fromkeys((1, 6, 13, 14, 15), _srgb_curve),
    4: gamma_curve(2.2),
    5: gamma_curve(2.8),
    8: gamma_curve(1.0),
    _PQ: _pq,
    _HLG: _hlg,
}
