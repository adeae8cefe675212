"""Kinds of picture that packages read which need not be installed: HEIC, JPEG XL, camera raw."""

from __future__ import annotations

import importlib.util
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nst_fast.errors import InputError

if TYPE_CHECKING:
    from nst_fast.images.streaming import Rows

Check = Callable[[int, int, str], None]  # width, height, name; refuses a size before anything is decoded
Opened = tuple[Image.Image, "Rows | None", list[str]]  # a picture before decoding, or its facts and rows; notes

# Tags of a TIFF's first directory by which a camera's raw file is known: Pillow reads its preview for the picture.
_SUBFILE, _PHOTOMETRIC, _MAKE, _DNG_VERSION = 254, 262, 271, 50706
_MOSAICS = (32803, 34892)  # photometric interpretations of DNG: colour filter array, linear raw
_BITS_OF_SIDE = (9, 13, 18, 30)  # JPEG XL's sides but for small ones, ISO/IEC 18181-1, SizeHeader
_RATIOS = ((1, 1), (6, 5), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_SRGB_GAMMA = (2.4, 12.92)


@dataclass(frozen=True)
class Kind:
    """A kind of picture: what it is called, who reads it, how it begins, and its suffixes."""

    title: str
    format: str
    package: str
    module: str
    begins: re.Pattern[bytes]
    suffixes: tuple[str, ...]
    open: Callable[[BinaryIO, str, Check], Opened]

    @property
    def installed(self) -> bool:
        return importlib.util.find_spec(self.module) is not None

    def check_installed(self, name: str) -> None:
        """Raise :class:`InputError` unless the package is installed."""
        if not self.installed:
            message = f"{name} is {self.title}, which needs {self.package}"
            raise InputError(message, f"`pip install {self.package}`, or convert the picture to PNG or JPEG")


def kind_of(stream: BinaryIO) -> Kind | None:
    """The kind, of those here, that a stream holds; None for all others. The stream is left at its start."""
    stream.seek(0)
    head = stream.read(64)
    # These brands of files may also be AVIF's, which name it among those that they are compatible with.
    unnamed = head[4:12] in (b"ftypmif1", b"ftypmsf1") and not re.search(rb"avi[fs]", head)
    raw = head[:4] in (b"II*\0", b"MM\0*") and _is_raw(stream)
    stream.seek(0)
    return HEIF if unnamed else RAW if raw else kind_beginning(head)


def kind_beginning(head: bytes) -> Kind | None:
    """As :func:`kind_of`, by the first 16 bytes alone; of those that other kinds begin with as well, None."""
    return next((kind for kind in KINDS if kind.begins.match(head)), None)


def _open_heif(stream: BinaryIO, name: str, check: Check) -> Opened:
    from pillow_heif import HeifImageFile

    picture = HeifImageFile(stream)
    width, height = claimed = picture.size
    check(width, height, name)
    picture.load()
    if picture.size != claimed:
        raise ValueError(f"its header claims {claimed[0]}x{claimed[1]} pixels")
    return picture, None, []


def _open_jxl(stream: BinaryIO, name: str, check: Check) -> Opened:
    """The package decodes as it opens: the size is taken from the file before."""
    check(*jxl_size(stream.read()), name)
    stream.seek(0)
    from pillow_jxl.JpegXLImagePlugin import JXLImageFile

    picture = JXLImageFile(stream)
    if not picture.jpeg:  # the pixels are upright, whatever the EXIF says
        picture.info.pop("exif", None)
    return picture, None, []


def _open_raw(stream: BinaryIO, name: str, check: Check) -> Opened:
    """Developed by LibRaw with the camera's white balance, in 16 bits, upright."""
    import rawpy

    with rawpy.imread(stream) as raw:
        check(raw.sizes.width, raw.sizes.height, name)
        values: NDArray[np.uint16] = raw.postprocess(use_camera_wb=True, output_bps=16, gamma=_SRGB_GAMMA)
    facts = Image.new("RGB", values.shape[1::-1], None)
    facts.format = "RAW"
    return facts, lambda top, bottom: values[top:bottom], []


def _is_raw(stream: BinaryIO) -> bool:
    """Whether a TIFF's first directory is a camera's: a mosaic, a DNG, or a preview with the camera's name."""
    stream.seek(0)
    order = "<" if stream.read(4)[:1] == b"I" else ">"
    tags: dict[int, int] = {}
    try:
        (start,) = struct.unpack(f"{order}I", stream.read(4))
        stream.seek(start)
        (count,) = struct.unpack(f"{order}H", stream.read(2))
        for _ in range(count):
            tag, kind, _, value = struct.unpack(f"{order}HHI4s", stream.read(12))
            tags[tag] = struct.unpack(f"{order}H", value[:2])[0] if kind == 3 else struct.unpack(f"{order}I", value)[0]
    except struct.error:  # cut short: for the decoder of TIFF to refuse
        return False
    preview = tags.get(_SUBFILE) == 1 and _MAKE in tags
    return preview or _DNG_VERSION in tags or tags.get(_PHOTOMETRIC) in _MOSAICS


def jxl_size(data: bytes) -> tuple[int, int]:
    """Width and height in the header of a JPEG XL file. Raises :class:`ValueError` where there is none."""
    start = 2 if data[:2] == b"\xff\x0a" else _codestream(data) + 2
    bits = int.from_bytes(data[start : start + 9], "little")

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << count) - 1), bits >> count
        return value

    small = take(1)

    def side() -> int:
        return 8 * (take(5) + 1) if small else take(_BITS_OF_SIDE[take(2)]) + 1

    height = side()
    if ratio := take(3):
        across, down = _RATIOS[ratio - 1]
        return height * across // down, height
    return side(), height


def _codestream(data: bytes) -> int:
    """Where the codestream begins in a container of boxes."""
    at = 0
    while len(head := data[at : at + 16]) == 16:
        length, kind = struct.unpack(">I4s", head[:8])
        inner = 16 if length == 1 else 8
        if kind in (b"jxlc", b"jxlp"):
            return at + inner + (4 if kind == b"jxlp" else 0)
        length = struct.unpack(">Q", head[8:])[0] if length == 1 else length
        if length < inner:
            break
        at += length
    raise ValueError("no codestream")


HEIF = Kind(
    "a HEIC picture",
    "HEIF",
    "pillow-heif",
    "pillow_heif",
    re.compile(rb".{4}ftyp(?:hei[cxms]|hev[cxms])", re.DOTALL),
    (".heic", ".heif", ".hif"),
    _open_heif,
)
JXL = Kind(
    "a JPEG XL picture",
    "JXL",
    "pillow-jxl-plugin",
    "pillow_jxl",
    re.compile(rb"\xff\x0a|\0\0\0\x0cJXL "),
    (".jxl",),
    _open_jxl,
)
RAW = Kind(
    "a camera's raw file",
    "RAW",
    "rawpy",
    "rawpy",
    re.compile(rb"FUJIFILMCCD-RAW|.{4}ftypcrx |II(?:RO|RS|U\0)|MMOR|II\*\0.{4}CR\x02", re.DOTALL),
    (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".pef", ".srw"),
    _open_raw,
)
KINDS: tuple[Kind, ...] = (HEIF, JXL, RAW)
