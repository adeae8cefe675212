"""What files say of their colours otherwise than by a profile, against values known beforehand or by LittleCMS."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import encoded, gray_profile, load, png, png_chunk, rgb_profile
from PIL import ExifTags, Image, ImageCms, TiffImagePlugin

from nst_fast.images.color import SRGB_PROFILE
from nst_fast.images.spaces import ADOBE_RGB, SRGB, png_space, profile_space

GRAY, RGB = 0, 2
P3 = (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)


def gama(value: int) -> bytes:
    return png_chunk(b"gAMA", struct.pack(">I", value))


def chrm(primaries: tuple[float, ...]) -> bytes:
    return png_chunk(b"cHRM", struct.pack(">8I", *(round(value * 100_000) for value in primaries)))


def cicp(*code: int) -> bytes:
    return png_chunk(b"cICP", bytes(code))


def iccp(profile: bytes) -> bytes:
    return png_chunk(b"iCCP", b"profile\0\0" + zlib.compress(profile))


SRGB_CHUNK = png_chunk(b"sRGB", b"\0")
LINEAR, LINEAR_PROFILE = gama(100_000), iccp(rgb_profile(1.0))
PQ = (9, 16, 0, 1)


def plain(
    folder: Path, color: tuple[float, ...], *chunks: bytes, depth: int = 8
) -> tuple[list[float], tuple[str, ...]]:
    """What a PNG of one colour, of 0 to 255, loads as, in [0, 1], and its notes."""
    values = np.rint(np.array(color) * (257 if depth == 16 else 1)).astype(">u2" if depth == 16 else "u1")
    kind = GRAY if len(color) == 1 else RGB
    image = load(folder, png(16, 16, depth, kind, values.tobytes() * 256, *chunks))
    return image.tensor[0, :, 3, 3].tolist(), image.notes


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize(
    ("color", "chunks", "expected"),
    [
        ((55,), [LINEAR], [0.50177] * 3),
        ((55, 55, 55), [LINEAR], [0.50177] * 3),
        ((186,), [gama(45_455)], [186 / 255] * 3),
        ((186, 9, 80), [gama(45_455), chrm(SRGB)], [186 / 255, 9 / 255, 80 / 255]),
        ((100, 100, 100), [gama(55_556)], [0.4677] * 3),  # the Macintosh's 1.8
        ((200, 60, 60), [gama(45_470), chrm(ADOBE_RGB)], [0.9079, 0.2252, 0.2252]),
        ((200, 60, 60), [chrm(P3)], [0.8529, 0.1633, 0.2051]),
        ((200, 60, 60), [cicp(12, 13, 0, 1)], [0.8529, 0.1633, 0.2051]),
        ((200, 60, 60), [cicp(1, 13, 0, 1)], [200 / 255, 60 / 255, 60 / 255]),
        ((16, 126, 235), [cicp(1, 13, 0, 0)], [0, 110 / 219, 1]),
        ((55,), [cicp(1, 8, 0, 1)], [0.50177] * 3),
    ],
)
def test_what_the_chunks_of_a_png_say_is_converted(
    tmp_path: Path, color: tuple[float, ...], chunks: list[bytes], expected: list[float], depth: int
) -> None:
    found, notes = plain(tmp_path, color, *chunks, depth=depth)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert notes == ()


@pytest.mark.parametrize(
    ("chunks", "linear"),
    [
        ([SRGB_CHUNK, LINEAR], False),
        ([LINEAR, iccp(SRGB_PROFILE)], False),
        ([LINEAR_PROFILE, gama(45_455), SRGB_CHUNK], True),
        ([cicp(1, 13, 0, 1), LINEAR_PROFILE, LINEAR], False),
        ([LINEAR_PROFILE, cicp(1, 8, 0, 1), SRGB_CHUNK], True),
        ([SRGB_CHUNK, cicp(1, 8, 0, 1)], True),
        ([LINEAR, gama(45_455)], True),  # the first counts
    ],
)
def test_the_order_is_that_of_the_specification(tmp_path: Path, chunks: list[bytes], linear: bool) -> None:
    found, notes = plain(tmp_path, (55, 55, 55), *chunks)
    np.testing.assert_allclose(found, [0.50177 if linear else 55 / 255] * 3, atol=6e-3)  # LittleCMS' 8 bits
    assert notes == ()


@pytest.mark.parametrize(("transfer", "white"), [(16, 0.58069), (18, 0.75)])
def test_hdr_is_brought_to_its_reference_white(tmp_path: Path, transfer: int, white: float) -> None:
    for level, expected in ((0, 0.0), (white * 255, 1.0), (255, 1.0)):
        found, notes = plain(tmp_path, (level,) * 3, cicp(9, transfer, 0, 1), depth=16)
        np.testing.assert_allclose(found, [expected] * 3, atol=2e-3)
        assert notes == ("HDR: light above 203 cd/m² clipped to white",)
    half, _ = plain(tmp_path, (255 * 0.5081, 0, 0), cicp(1, 16, 0, 1), depth=16)  # 100 cd/m² of 203
    assert half[0] == pytest.approx(1.055 * (100 / 203) ** (1 / 2.4) - 0.055, abs=2e-3)


@pytest.mark.parametrize(
    ("chunks", "note"),
    [
        ([cicp(1, 13, 9, 1)], "cICP ignored: it is not RGB"),
        ([cicp(200, 13, 0, 1)], "cICP ignored: unknown colour primaries 200 or transfer 13"),
        ([cicp(2, 2, 0, 1)], "cICP ignored: unknown colour primaries 2 or transfer 2"),
        ([cicp(1, 13)], "cICP ignored: it is not RGB"),
        ([gama(0)], "gAMA and cHRM ignored: they describe no colours"),
        ([LINEAR, chrm((0,) * 8)], "gAMA and cHRM ignored: they describe no colours"),
        ([chrm((0.3, 0.3) * 4)], "gAMA and cHRM ignored: they describe no colours"),
    ],
)
def test_what_says_nothing_is_noted(tmp_path: Path, chunks: list[bytes], note: str) -> None:
    found, notes = plain(tmp_path, (55, 70, 90), *chunks)
    np.testing.assert_allclose(found, np.array([55, 70, 90]) / 255, atol=1e-6)
    assert notes == (note,)
    assert plain(tmp_path, (55,), cicp(1, 13), LINEAR)[0] == pytest.approx([0.50177] * 3, abs=1e-3)  # the next in order


def test_damaged_metadata_does_not_cost_the_colours(tmp_path: Path) -> None:
    found, notes = plain(tmp_path, (55,), LINEAR, png_chunk(b"zTXt", b"Comment\0\7hello"))
    assert found == pytest.approx([0.50177] * 3, abs=1e-3)
    assert notes == ("damaged or oversized metadata ignored",)
    assert plain(tmp_path, (55,), png_chunk(b"tEXt", b"gamma\0" + b"1.0"))[0] == pytest.approx([55 / 255] * 3)


def test_palettes_and_transparent_colours_are_converted_too(tmp_path: Path) -> None:
    chunks = [LINEAR, png_chunk(b"PLTE", bytes((55, 55, 55, 0, 0, 0))), png_chunk(b"tRNS", b"\xff\0")]
    rows = (bytes(8) + b"\1" * 8) * 16
    image = load(tmp_path, png(16, 16, 8, 3, rows, *chunks), background="#336699")
    torch.testing.assert_close(image.tensor[0, :, 0, 0], torch.full((3,), 0.50177), atol=1e-3, rtol=0)
    torch.testing.assert_close(image.tensor[0, :, 0, 9], torch.tensor([0.2, 0.4, 0.6]))  # which is sRGB already


def test_primaries_are_converted_as_littlecms_does() -> None:
    """Adobe RGB as chunks against Adobe RGB as a profile, converted by LittleCMS."""
    columns = [(0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)]
    profile = rgb_profile(563 / 256)
    for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True):
        at = struct.unpack_from(">I", profile, profile.index(name) + 4)[0]
        profile = profile[: at + 8] + struct.pack(">3i", *(round(v * 65536) for v in column)) + profile[at + 20 :]
    colors = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    source, target = ImageCms.getOpenProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    by_cms = ImageCms.profileToProfile(
        Image.fromarray(colors), source, target, renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC
    )
    space, decides, notes = png_space(
        {b"gAMA": struct.pack(">I", 45_470), b"cHRM": struct.pack(">8I", *(round(v * 1e5) for v in ADOBE_RGB))},
        profile=False,
    )
    assert space is not None
    assert (decides, notes) == (False, [])
    unit = colors.astype(np.float32) / 255
    for found in (space.to_srgb(unit), profile_space(profile).to_srgb(unit)):  # type: ignore[union-attr]
        assert np.abs(found * 255 - np.asarray(by_cms)).max() < 0.7  # its rounding


def test_profiles_that_are_srgb_change_nothing_and_others_are_left_to_littlecms() -> None:
    assert profile_space(SRGB_PROFILE) is None
    assert profile_space(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()) is None
    for profile in (ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(), b"", gray_profile(1.0)[:200]):
        with pytest.raises(ValueError, match="it has"):
            profile_space(profile)


# --- other files


@pytest.mark.parametrize(
    ("code", "expected", "notes"),
    [
        ((1, 13), [200, 60, 60], ()),
        ((1, 1), [200, 60, 60], ()),
        ((2, 2), [200, 60, 60], ()),
        ((12, 13), [217.5, 41.6, 52.3], ()),
        ((9, 16), [255, 0, 0], ("HDR: light above 203 cd/m² clipped to white",)),
        ((10, 13), [200, 60, 60], ("colour description ignored: unknown colour primaries 10 or transfer 13",)),
    ],
)
def test_the_numbers_of_an_avif_are_converted(
    tmp_path: Path, code: tuple[int, int], expected: list[float], notes: tuple[str, ...]
) -> None:
    data = encoded(Image.new("RGB", (32, 32), (200, 60, 60)), "AVIF", quality=100, subsampling="4:4:4")
    at = data.index(b"colrnclx") + 8
    image = load(tmp_path, data[:at] + struct.pack(">2H", *code) + data[at + 4 :])
    np.testing.assert_allclose(image.tensor[0, :, 3, 3] * 255, expected, atol=1.5)
    assert image.notes == notes


@pytest.mark.parametrize(("index", "expected"), [("R03", [231.5, 57.4, 57.4]), ("R98", [200, 60, 60])])
def test_adobe_rgb_of_a_camera_is_converted_unless_there_is_a_profile(
    tmp_path: Path, index: str, expected: list[float]
) -> None:
    exif = Image.Exif()
    exif[ExifTags.IFD.Exif] = {0xA001: 65535, ExifTags.IFD.Interop: {1: index}}
    picture = Image.new("RGB", (32, 32), (200, 60, 60))
    options = {"quality": 100, "subsampling": 0, "exif": exif}
    image = load(tmp_path, encoded(picture, "JPEG", **options))
    np.testing.assert_allclose(image.tensor[0, :, 3, 3] * 255, expected, atol=1.5)
    image = load(tmp_path, encoded(picture, "JPEG", icc_profile=SRGB_PROFILE, **options))
    np.testing.assert_allclose(image.tensor[0, :, 3, 3] * 255, [200, 60, 60], atol=1.5)


def test_primaries_of_a_tiff_are_converted(tmp_path: Path) -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[318], tags[319] = P3[:2], P3[2:]
    image = load(tmp_path, encoded(Image.new("RGB", (32, 32), (200, 60, 60)), "TIFF", tiffinfo=tags))
    np.testing.assert_allclose(image.tensor[0, :, 3, 3] * 255, [217.5, 41.6, 52.3], atol=0.3)
    tags[318] = (0.0, 0.0)
    image = load(tmp_path, encoded(Image.new("RGB", (32, 32), (200, 60, 60)), "TIFF", tiffinfo=tags))
    assert image.notes == ("colour description ignored: primaries without luminance",)


@pytest.mark.parametrize(
    ("kind", "endpoints", "noted"),
    [(b"DEBM", 0, True), (b"\0\0\0\0", 1, True), (b"\0\0\0\0", 0, False), (b"BGRs", 1, False)],
)
def test_colours_of_a_bmp_are_noted(tmp_path: Path, kind: bytes, endpoints: int, noted: bool) -> None:
    plain = encoded(Image.new("RGB", (32, 32), (200, 60, 60)), "BMP")
    header = struct.pack("<I", 108) + plain[18:54] + bytes(16) + kind + bytes((endpoints,)) * 36 + bytes(12)
    data = plain[:10] + struct.pack("<I", 14 + len(header)) + header + plain[54:]
    assert len(header) == 108
    image = load(tmp_path, data)
    np.testing.assert_allclose(image.tensor[0, :, 3, 3] * 255, [200, 60, 60], atol=1e-3)
    assert image.notes == (("colour description of the BMP not converted",) if noted else ())
