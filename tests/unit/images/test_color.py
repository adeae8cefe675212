"""Modes, depths, profiles and transparency, each against values known beforehand."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import cmyk_profile, encoded, gray_profile, load, png, png_chunk, rgb_profile, sample, tiff
from PIL import Image, ImageCms

from nst_fast.errors import InputError, UsageError
from nst_fast.images import LoadedImage, load_image
from nst_fast.images.color import MAX_PROFILE_BYTES, SRGB_PROFILE, parse_color

MAGENTA = (255, 0, 255)
TABLE = np.array([0, 1, 127, 128, 255, 256, 257, 4095, 32767, 32768, 65534, 65535] + [9] * 4)


def first_row(image: LoadedImage) -> np.ndarray:
    return image.tensor[0, 0, 0].numpy()


def solid(mode: str, color: object) -> Image.Image:
    return Image.new(mode, (16, 16), color)  # type: ignore[arg-type]


def pixel(image: LoadedImage) -> list[int]:
    """The one colour of a plain picture in 0-255."""
    color = image.tensor[0, :, :1, :1]
    assert torch.allclose(image.tensor[0], color.expand(3, 16, 16))
    return [round(float(value) * 255) for value in color.flatten()]


# --- depth


def test_16_bit_gray_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    gray = np.tile(TABLE.astype(np.uint16), (16, 1))
    big_endian = Image.frombytes("I;16B", (16, 16), gray.astype(">u2").tobytes())
    for picture, kind in ((Image.fromarray(gray), "PNG"), (Image.fromarray(gray), "TIFF"), (big_endian, "TIFF")):
        row = first_row(load(tmp_path, encoded(picture, kind)))
        np.testing.assert_allclose(row, TABLE / 65535, atol=1e-7)
    inverted = tiff(gray, kind="miniswhite")  # white is zero
    np.testing.assert_allclose(first_row(load(tmp_path, inverted)), 1 - TABLE / 65535, atol=1e-6)


def test_12_bit_grey_has_its_own_white(tmp_path: Path) -> None:
    packed = bytes.fromhex("fff000800" + "fff" * 13)[: 16 * 12 // 8]
    data = tiff(np.frombuffer(packed * 16, np.uint8).reshape(16, 24))
    for tag, kind, value in ((256, 4, 16), (258, 3, 12)):  # pretend: 16 pixels of 12 bits instead of 24 of 8
        at = data.index(struct.pack("<HHI", tag, kind, 1))
        data = data[: at + 8] + struct.pack("<I", value) + data[at + 12 :]
    np.testing.assert_allclose(first_row(load(tmp_path, data))[:4], [1, 0, 2048 / 4095, 1], atol=1e-6)


@pytest.mark.parametrize(("color_type", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_16_bit_colour_is_scaled_and_not_clipped(tmp_path: Path, color_type: int, channels: int) -> None:
    values = np.repeat(TABLE[:, None], channels, axis=1)
    if channels in {2, 4}:
        values[:, -1] = 65535
    rows = np.tile(values.astype(">u2")[None], (16, 1, 1)).tobytes()
    image = load(tmp_path, png(16, 16, 16, color_type, rows))
    np.testing.assert_allclose(first_row(image), TABLE / 65535, atol=1e-7)
    assert image.notes == ()


@pytest.mark.parametrize(
    ("dtype", "values", "black", "white"),
    [
        ("<u4", [0, 2**31, 2**32 - 1], 0, 2**32 - 1),
        ("<i4", [0, 2**30, 2**31 - 1], 0, 2**31 - 1),
        ("<i4", [0, 300, 65535], 0, 65535),
        ("<i4", [0, 30, 200], 0, 255),
        ("<i2", [-32768, 0, 32767], -32768, 65535),
        ("<f4", [0.0, 0.25, 1.0], 0, 1),
        ("<f4", [0.0, 0.5, 4.0], 0, 4),
        ("<f4", [-1.0, 0.5, 0.75], -1, 1),
    ],
)
def test_integers_and_floats_are_scaled_by_a_range_that_is_noted(
    tmp_path: Path, dtype: str, values: list[float], black: float, white: float
) -> None:
    array = np.zeros((16, 16), dtype)
    array[:, :3] = values
    image = load(tmp_path, tiff(array))
    expected = (np.array(values, np.float64) - black) / (white - black)
    np.testing.assert_allclose(first_row(image)[:3], expected, atol=1e-6)
    assert bool(image.notes) == ((black, white) != (0, 1))


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_not_finite_are_refused(tmp_path: Path, poison: float) -> None:
    array = np.zeros((16, 16), np.float32)
    array[7, 3] = poison
    with pytest.raises(InputError, match="NaN or infinite"):
        load(tmp_path, encoded(Image.fromarray(array), "TIFF"))


# --- modes


@pytest.mark.parametrize(
    ("kind", "mode", "color", "expected"),
    [
        ("PNG", "1", 1, [255, 255, 255]),
        ("PNG", "L", 100, [100, 100, 100]),
        ("PNG", "LA", (100, 255), [100, 100, 100]),
        ("PNG", "P", 0, [0, 0, 0]),
        ("TIFF", "1", 0, [0, 0, 0]),
        ("TIFF", "YCbCr", (255, 128, 128), [255, 255, 255]),
        ("TIFF", "LAB", (255, 128, 128), [255, 255, 255]),
        ("TIFF", "LAB", (138, 209, 198), [255, 0, 0]),
        ("BMP", "RGB", (1, 2, 3), [1, 2, 3]),
        ("GIF", "L", 100, [100, 100, 100]),
        ("WEBP", "RGB", (255, 255, 255), [255, 255, 255]),
    ],
)
def test_every_mode_becomes_srgb(tmp_path: Path, kind: str, mode: str, color: object, expected: list[int]) -> None:
    actual = pixel(load(tmp_path, encoded(solid(mode, color), kind)))
    assert np.abs(np.subtract(actual, expected)).max() <= (5 if mode == "LAB" else 2)  # 8-bit Lab is coarse


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_shallow_grey_reaches_black_and_white(tmp_path: Path, depth: int) -> None:
    rows = (b"\xff" + b"\x00" * (2 * depth - 1)) * 16
    row = first_row(load(tmp_path, png(16, 16, depth, 0, rows)))
    assert row[0] == 1
    assert row[-1] == 0


def test_cmyk_without_a_profile_is_converted_plainly_and_noted(tmp_path: Path) -> None:
    image = load(tmp_path, encoded(solid("CMYK", (255, 0, 0, 0)), "JPEG"))
    assert np.abs(np.subtract(pixel(image), [0, 255, 255])).max() <= 2
    assert image.notes == ("CMYK without a profile: colours are approximate",)


# --- profiles


def red_ink(c: int, m: int, y: int, k: int) -> tuple[int, int, int]:
    """A press whose cyan ink prints red: no plain conversion comes near it. Lab in 8 bits."""
    if not (c or m or y or k):
        return 255, 128, 128
    return (138, 209, 198) if c and not k else (0, 128, 128)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_goes_through_its_profile(tmp_path: Path, kind: str) -> None:
    data = encoded(solid("CMYK", (255, 0, 0, 0)), kind, icc_profile=cmyk_profile(red_ink))
    image = load(tmp_path, data)
    assert np.abs(np.subtract(pixel(image), [255, 0, 0])).max() <= 4
    assert image.notes == ()


@pytest.mark.parametrize(
    ("mode", "color", "profile", "expected"),
    [
        ("RGB", (255, 128, 0), rgb_profile(1.0, red_is_blue=True), [0, 188, 255]),
        ("RGBA", (255, 128, 0, 255), rgb_profile(1.0, red_is_blue=True), [0, 188, 255]),
        ("P", 0, rgb_profile(1.0), [0, 0, 0]),
        ("L", 128, gray_profile(1.0), [188, 188, 188]),
        ("LA", (128, 255), gray_profile(1.0), [188, 188, 188]),
        ("L", 128, rgb_profile(1.0), [188, 188, 188]),
        ("I;16", 128 * 257, gray_profile(1.0), [188, 188, 188]),
    ],
)
def test_colours_go_through_their_profile(
    tmp_path: Path, mode: str, color: object, profile: bytes, expected: list[int]
) -> None:
    image = load(tmp_path, encoded(solid(mode, color), "PNG", icc_profile=profile))
    assert pixel(image) == expected
    assert image.notes == ()


def test_profiles_are_converted_as_littlecms_does(tmp_path: Path) -> None:
    picture, profile = sample(), rgb_profile(1.8)
    expected = ImageCms.profileToProfile(
        picture,
        ImageCms.getOpenProfile(io.BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    image = load(tmp_path, encoded(picture, "PNG", icc_profile=profile))
    actual = (image.tensor[0].permute(1, 2, 0) * 255).round().numpy().astype(np.uint8)
    np.testing.assert_array_equal(actual, np.asarray(expected))


@pytest.mark.parametrize(
    ("mode", "profile", "reason"),
    [
        ("RGB", b"no profile at all", "cannot open profile"),
        ("RGB", rgb_profile(1.0)[:300], "cannot"),
        ("RGB", gray_profile(1.0), "it is for GRAY, the picture is RGB"),
        ("L", cmyk_profile(red_ink), "it is for CMYK, the picture is L"),
        ("I;16", rgb_profile(1.0), "it is for RGB, the picture is I;16"),
        ("RGB", rgb_profile(1.0) + bytes(MAX_PROFILE_BYTES), "bytes"),
    ],
)
def test_a_damaged_or_foreign_profile_is_ignored_with_a_note(
    tmp_path: Path, mode: str, profile: bytes, reason: str
) -> None:
    picture = sample(mode) if mode != "I;16" else solid(mode, 77)
    plain = load(tmp_path, encoded(picture, "TIFF"))
    image = load(tmp_path, encoded(picture, "TIFF", icc_profile=profile))
    assert torch.equal(image.tensor, plain.tensor)
    assert len(image.notes) == 1
    assert image.notes[0].startswith("ICC profile ignored: ")
    assert reason in image.notes[0]


def test_our_own_profile_changes_nothing_and_is_always_the_same(tmp_path: Path) -> None:
    image = load(tmp_path, encoded(sample(), "PNG", icc_profile=SRGB_PROFILE))
    assert torch.equal(image.tensor, load(tmp_path, encoded(sample(), "PNG")).tensor)
    assert SRGB_PROFILE[24:36] == bytes((7, 234, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0))
    profile = ImageCms.getOpenProfile(io.BytesIO(SRGB_PROFILE))
    assert ImageCms.getProfileDescription(profile).startswith("sRGB")


# --- transparency


def half_hidden(mode: str) -> Image.Image:
    """White with a fully transparent half whose hidden colour is magenta (or its grey)."""
    picture = Image.new("RGBA", (32, 32), (255, 255, 255, 255))
    picture.paste((*MAGENTA, 0), (0, 0, 16, 32))
    return picture if mode == "RGBA" else picture.convert(mode)


def transparent_corpus() -> dict[str, bytes]:
    """Pictures, white or transparent everywhere, in every way in which a file can say so."""
    palette = Image.new("P", (32, 32), 1)
    palette.putpalette([*MAGENTA, 255, 255, 255, 9, 9, 9])
    palette.paste(0, (0, 0, 16, 32))
    hidden = np.full((32, 32, 3), 255, np.uint8)
    hidden[:, :16] = MAGENTA
    deep = hidden.astype(">u2") * 257
    gray = np.full((32, 32), 0xFFFF, ">u2")
    gray[:, :16] = 0x8000
    two_bits = (b"\xaa" * 4 + b"\xff" * 4) * 32
    premultiplied = np.full((32, 32, 4), 255, np.uint8)
    premultiplied[:, :16] = 0
    two_colors = png_chunk(b"PLTE", bytes(MAGENTA) + b"\xff\xff\xff")
    return {
        "PNG RGBA": encoded(half_hidden("RGBA"), "PNG"),
        "PNG LA": encoded(half_hidden("LA"), "PNG"),
        "PNG P, one entry": encoded(palette, "PNG", transparency=0),
        "PNG P, alpha per entry": encoded(palette, "PNG", transparency=b"\0\xff\x80"),
        "PNG P, partial": png(32, 32, 8, 3, np.asarray(palette).tobytes(), two_colors, png_chunk(b"tRNS", b"\0")),
        "PNG RGB, colour key": encoded(Image.fromarray(hidden), "PNG", transparency=MAGENTA),
        "PNG 16-bit RGB, colour key": png(32, 32, 16, 2, deep.tobytes(), png_chunk(b"tRNS", deep[0, 0].tobytes())),
        "PNG 16-bit grey, key": png(32, 32, 16, 0, gray.tobytes(), png_chunk(b"tRNS", b"\x80\0")),
        "PNG 2-bit grey, key": png(32, 32, 2, 0, two_bits, png_chunk(b"tRNS", b"\0\2")),
        "PNG L, key": encoded(Image.fromarray(hidden[..., 1]), "PNG", transparency=0),
        "PNG 1-bit, key": encoded(Image.fromarray(hidden[..., 1]).convert("1"), "PNG", transparency=0),
        "GIF": encoded(palette, "GIF", transparency=0),
        "WebP": encoded(half_hidden("RGBA"), "WEBP", lossless=True, exact=True),
        "TIFF RGBA": encoded(half_hidden("RGBA"), "TIFF"),
        "TIFF PA": encoded(half_hidden("PA"), "TIFF"),
        "TIFF LA": encoded(half_hidden("LA"), "TIFF"),
        "TIFF premultiplied RGBA": tiff(premultiplied, extrasamples=["assocalpha"]),
        "TIFF premultiplied grey": tiff(premultiplied[..., :2], extrasamples=["assocalpha"]),
    }  # fmt: skip


@pytest.mark.parametrize("name", transparent_corpus())
def test_hidden_colours_never_leak(tmp_path: Path, name: str) -> None:
    """Also not through the filter: any resized pixel lies between white and the background."""
    (tmp_path / "picture").write_bytes(transparent_corpus()[name])
    for longest_side in (None, 21, 50):
        image = load_image(tmp_path / "picture", background="#00ff00", longest_side=longest_side)
        red, green, blue = image.tensor[0]
        assert green.min() > 0.999
        assert (red - blue).abs().max() < 1e-6
        assert red[:, 0].max() < 1e-3
        assert red[:, -1].min() > 0.999
        assert image.notes == ("transparent pixels composited on the background",)


def test_half_transparent_pixels_are_mixed_with_the_background_premultiplied_or_not(tmp_path: Path) -> None:
    plain = encoded(solid("RGBA", (255, 0, 0, 51)), "PNG")
    premultiplied = tiff(np.full((16, 16, 4), (51, 0, 0, 51), np.uint8), extrasamples=["assocalpha"])
    for data, tolerance in ((plain, 1e-6), (premultiplied, 0.01)):
        image = load(tmp_path, data, background="#0000ff")
        np.testing.assert_allclose(image.tensor[0, :, 3, 3], [0.2, 0.0, 0.8], atol=tolerance)
    assert load(tmp_path, encoded(sample("RGBA"), "PNG")).notes == ()  # opaque


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("white", (1, 1, 1)),
        ("#336699", (0.2, 0.4, 0.6)),
        ("rgb(0, 255, 0)", (0, 1, 0)),
        ((0.1, 0.2, 0.3), (0.1, 0.2, 0.3)),
    ],
)
def test_colours_are_understood(given: str | tuple[float, float, float], expected: tuple[float, float, float]) -> None:
    assert parse_color(given) == pytest.approx(expected)


@pytest.mark.parametrize("given", ["whiteish", "", "#12345", "#ff000080", (0, 0, 2), (float("nan"), 0, 0), (1, 1)])
def test_other_colours_are_wrong_use(given: str) -> None:
    with pytest.raises(UsageError):
        parse_color(given)
