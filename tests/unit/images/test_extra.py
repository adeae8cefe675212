"""Pictures of phones and cameras: HEIC, JPEG XL and raw, made by code and read by the packages of the extras."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pictures import encoded, load, sample, turned
from PIL import Image

from nst_fast.errors import InputError
from nst_fast.images import extra

SIZE = (96, 64)
HEAD_OF_HEIC = b"\0\0\0\x24ftypheic\0\0\0\0mif1"


def needs(kind: extra.Kind) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not kind.installed, reason=f"{kind.package} is not installed")


def heic(picture: Image.Image, **options: object) -> bytes:
    from pillow_heif import from_pillow

    sink = io.BytesIO()
    from_pillow(picture).save(sink, quality=95, **options)
    return sink.getvalue()


def jxl(picture: Image.Image, **options: object) -> bytes:
    importlib.import_module("pillow_jxl")
    return encoded(picture, "JXL", **options)


def dng(picture: Image.Image) -> bytes:
    """A mosaic of a picture as a camera's raw file: 12 bits, RGGB, primaries of sRGB."""
    from tifffile import imwrite

    linear = (np.asarray(picture, np.float64) / 255) ** 2.2
    mosaic = np.zeros(linear.shape[:2], np.uint16)
    for row, column, channel in ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2)):
        mosaic[row::2, column::2] = linear[row::2, column::2, channel] * 4000
    to_camera = (3.2406, -1.5372, -0.4986, -0.9689, 1.8758, 0.0415, 0.0557, -0.2040, 1.0570)
    matrix = tuple(number for value in to_camera for number in (int(value * 10000), 10000))
    tags = [
        (271, "s", 0, "Test", False),
        (272, "s", 0, "Test", False),
        (33421, "H", 2, (2, 2), False),  # the mosaic repeats after
        (33422, "B", 4, b"\0\1\1\2", False),  # its colours
        (50706, "B", 4, b"\1\4\0\0", False),  # version of DNG
        (50708, "s", 0, "Test", False),
        (50717, "H", 1, 4000, False),  # white
        (50721, "2i", 9, matrix, False),
        (50728, "2I", 3, (1,) * 6, False),  # neutral
        (50778, "H", 1, 21, False),  # D65
    ]
    sink = io.BytesIO()
    imwrite(sink, mosaic, photometric=32803, extratags=tags, metadata=None, software=False)
    return sink.getvalue()


MAKERS = {"HEIF": (extra.HEIF, heic), "JXL": (extra.JXL, jxl), "RAW": (extra.RAW, dng)}
EACH = [pytest.param(kind, make, marks=needs(kind), id=name) for name, (kind, make) in MAKERS.items()]


@pytest.mark.parametrize(("kind", "make"), EACH)
def test_each_kind_is_read_at_the_size_wanted(kind: extra.Kind, make: object, tmp_path: Path) -> None:
    picture = sample(size=SIZE)
    data = make(picture)  # type: ignore[operator]
    whole = load(tmp_path, data, f"a{kind.suffixes[0]}")
    assert (whole.format, whole.original_size, whole.notes, whole.alpha) == (kind.format, SIZE, (), None)
    wanted = np.asarray(picture, np.float64) / 255
    found = whole.tensor[0].permute(1, 2, 0).numpy()
    likeness = [np.corrcoef(wanted[..., c].ravel(), found[..., c].ravel())[0, 1] for c in range(3)]
    assert min(likeness) > 0.95  # channels in their order, and upright; a raw file is developed, not copied
    small = load(tmp_path, data, "a", longest_side=24)
    assert small.tensor.shape == (1, 3, 16, 24)


@pytest.mark.parametrize(("kind", "make"), EACH)
def test_the_limit_of_pixels_holds_before_they_are_decoded(
    kind: extra.Kind, make: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make(sample(size=SIZE))  # type: ignore[operator]
    for module, decoder in (("pillow_heif", "HeifImageFile.load"), ("pillow_jxl.JpegXLImagePlugin", "JXLImageFile")):
        if importlib.util.find_spec(module.partition(".")[0]):
            monkeypatch.setattr(f"{module}.{decoder}", lambda *given: pytest.fail("decoded"))
    if extra.RAW.installed:
        import rawpy

        with rawpy.imread(io.BytesIO(dng(sample(size=SIZE)))) as raw:
            undeveloped = SimpleNamespace(sizes=raw.sizes)
        monkeypatch.setattr(rawpy, "imread", lambda stream: contextlib.nullcontext(undeveloped))
    with pytest.raises(InputError, match=r"has 96x64 pixels; the limit is 0\.001 megapixels"):
        load(tmp_path, data, max_megapixels=0.001)


@pytest.mark.parametrize(("kind", "make"), EACH)
def test_a_damaged_one_is_an_input_error(kind: extra.Kind, make: object, tmp_path: Path) -> None:
    data = make(sample(size=SIZE))  # type: ignore[operator]
    for length in (20, 60, len(data) // 2):
        with pytest.raises(InputError):
            load(tmp_path, data[:length])
    with pytest.raises(InputError):
        load(tmp_path, data[:64] + b"\xff" * (len(data) - 64))


@needs(extra.HEIF)
def test_a_heic_keeps_its_profile_and_its_orientation_is_applied_once(tmp_path: Path) -> None:
    loaded = load(tmp_path, heic(sample(size=SIZE), exif=turned(6).tobytes()))
    assert loaded.original_size == SIZE[::-1]
    upright = np.asarray(sample(size=SIZE).transpose(Image.Transpose.ROTATE_270), np.float32) / 255
    assert abs(loaded.tensor[0].permute(1, 2, 0).numpy() - upright).mean() < 0.05


@needs(extra.HEIF)
def test_a_heic_whose_brand_may_also_be_avifs_is_read(tmp_path: Path) -> None:
    data = heic(sample(size=SIZE)).replace(b"ftypheic", b"ftypmif1", 1)
    assert load(tmp_path, data).format == "HEIF"
    assert load(tmp_path, encoded(sample(size=SIZE), "AVIF")).format == "AVIF"


@needs(extra.JXL)
@pytest.mark.parametrize(
    "size", [(96, 64), (64, 64), (300, 200), (1000, 17), (17, 1000), (640, 360), (500, 400), (9000, 16)]
)
def test_the_size_of_a_jpeg_xl_is_read_from_its_header(size: tuple[int, int]) -> None:
    picture = Image.new("RGB", size, "red")
    assert extra.jxl_size(jxl(picture)) == size
    assert extra.jxl_size(jxl(picture, use_container=True)) == size


def test_a_header_of_jpeg_xl_without_a_picture_has_no_size() -> None:
    with pytest.raises(ValueError, match="no codestream"):
        extra.jxl_size(b"\0\0\0\x0cJXL \r\n\x87\n" + struct.pack(">I4s", 0, b"abcd") + bytes(20))


@pytest.mark.parametrize(
    ("name", "kind", "data"),
    [
        ("a.heic", extra.HEIF, HEAD_OF_HEIC),
        ("a.jxl", extra.JXL, b"\xff\x0a" + bytes(20)),
        ("a.cr3", extra.RAW, b"\0\0\0\x18ftypcrx " + bytes(20)),
        ("a.dng", extra.RAW, dng(sample(size=SIZE))),
    ],
)
def test_without_its_package_a_kind_is_refused_with_the_line_that_installs_it(
    name: str, kind: extra.Kind, data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == kind.module else found(name))
    with pytest.raises(InputError) as refused:
        load(tmp_path, data, name)
    remedy = f"`pip install {kind.package}`, or convert the picture to PNG or JPEG"
    assert str(refused.value) == f"{tmp_path / name} is {kind.title}, which needs {kind.package}. {remedy}"
