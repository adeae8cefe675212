"""Pictures of more than 8 bits in every layout: all their bits, or a refusal that says what is not read."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from pictures import cmyk_profile, encoded, gray_profile, load, png, png_chunk, rgb_profile, sample, tiff
from PIL import Image, TiffImagePlugin

from nst_fast.errors import InputError
from nst_fast.images import LoadedImage

LAYOUTS: dict[str, dict[str, Any]] = {
    "strips": {"rowsperstrip": 5},
    "tiles": {"tile": (16, 16)},
    "packed strips": {"rowsperstrip": 7, "compression": "zlib"},
    "packed tiles": {"tile": (16, 32), "compression": "zlib"},
}


def noise(channels: int, dtype: Any = np.uint16) -> np.ndarray[Any, Any]:
    values = np.random.default_rng(channels).random((21, 37, channels))
    values[0, :2] = [[0.0], [1.0]]
    if np.issubdtype(dtype, np.floating):
        return values.astype(dtype)
    return np.rint(values * np.iinfo(dtype).max).astype(dtype)


def expected(pixels: np.ndarray[Any, Any]) -> torch.Tensor:
    """Over white."""
    full = np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else 1
    unit = pixels.astype(np.float64) / full
    colors = unit[..., :3] if pixels.shape[2] > 2 else np.repeat(unit[..., :1], 3, 2)
    alpha = unit[..., -1:] if pixels.shape[2] in {2, 4} else 1.0
    return torch.from_numpy(colors * alpha + 1 - alpha).permute(2, 0, 1)[None].float()


def assert_loads(image: LoadedImage, pixels: np.ndarray[Any, Any], within: float = 1e-6) -> None:
    torch.testing.assert_close(image.tensor, expected(pixels), atol=within, rtol=0)
    assert set(image.notes) <= {"transparent pixels composited on the background"}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_of_a_tiff_are_read_in_every_layout(
    tmp_path: Path, channels: int, order: str, planar: bool, layout: str
) -> None:
    pixels = noise(channels)
    assert_loads(load(tmp_path, tiff(pixels, planar=planar, byteorder=order, **LAYOUTS[layout])), pixels)
    assert_loads(load(tmp_path, tiff(pixels, planar=planar, byteorder=order, bigtiff=True)), pixels)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint32])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_floats_and_32_bits_of_colour_are_read(tmp_path: Path, dtype: Any, order: str, planar: bool) -> None:
    for channels in (2, 3, 4):
        pixels = noise(channels, dtype)
        assert_loads(load(tmp_path, tiff(pixels, planar=planar, byteorder=order)), pixels, 2.1 / 65535)


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.int16])
def test_packed_numbers_in_the_other_byte_order_are_not_turned_twice(tmp_path: Path, dtype: Any) -> None:
    pixels = np.abs(noise(1, np.float32) if dtype is np.float32 else noise(1, dtype))
    plain, packed = (load(tmp_path, tiff(pixels, byteorder=">", compression=packing)) for packing in (None, "zlib"))
    assert torch.equal(plain.tensor, packed.tensor)
    assert plain.tensor[0, 0, 0, :2].tolist() == [0, 1] or dtype is np.int16  # the white of which is 65535


def test_floats_beyond_white_are_scaled_with_a_note_and_none_may_be_infinite(tmp_path: Path) -> None:
    pixels = noise(3, np.float32) * 4
    image = load(tmp_path, tiff(pixels))
    torch.testing.assert_close(image.tensor, expected(pixels / 4), atol=1 / 65535, rtol=0)
    assert image.notes == ("no agreed range: 0 taken as black, 4 as white",)
    pixels[3, 3, 1] = np.nan
    with pytest.raises(InputError, match="NaN or infinite"):
        load(tmp_path, tiff(pixels))


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_16_bit_cmyk_is_read_as_8_in_every_layout(tmp_path: Path, layout: str, planar: bool) -> None:
    pixels = noise(4)
    image = load(tmp_path, tiff(pixels, planar=planar, kind="separated", **LAYOUTS[layout]))
    plain = Image.frombytes("CMYK", (37, 21), (pixels >> 8).astype(np.uint8).tobytes()).convert("RGB")
    torch.testing.assert_close(image.tensor, expected(np.asarray(plain)))
    assert "16 bits per channel read as 8" in image.notes


@pytest.mark.parametrize("white", ["black is 0", "white is 0"])
@pytest.mark.parametrize("mode", ["1", "L", "I;16", "I;16B", "F", "P"])
def test_one_plane_is_no_other_than_one_channel(tmp_path: Path, mode: str, white: str) -> None:
    """PlanarConfiguration 2 of grey, where Pillow takes the first letter of its packing for that of the plane."""
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16) * 256
    made = {
        "I;16": Image.fromarray(ramp),
        "I;16B": Image.frombytes("I;16B", (16, 16), ramp.astype(">u2").tobytes()),
        "F": Image.fromarray(ramp.astype(np.float32) / 65535),
    }
    loaded = []
    for planes in (1, 2):
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[284] = planes
        if white == "white is 0" and mode in {"1", "L"}:
            tags[262] = 0
        loaded.append(load(tmp_path, encoded(made.get(mode) or sample(mode), "TIFF", tiffinfo=tags)).tensor)
    assert torch.equal(*loaded)


def test_turns_profiles_pages_and_premultiplied_alpha_come_with_them(tmp_path: Path) -> None:
    pixels = noise(3, np.float32)
    image = load(tmp_path, tiff(pixels, extratags=[(274, 3, 1, 6, True)], iccprofile=rgb_profile(1.0)))
    light = expected(pixels).rot90(-1, (2, 3))
    curved = torch.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    assert image.original_size == (21, 37)
    torch.testing.assert_close(image.tensor, curved, atol=2e-3, rtol=0)
    sink = io.BytesIO()
    with tifffile.TiffWriter(sink) as writer:
        for _ in range(2):
            writer.write(pixels, photometric="rgb")
    assert load(tmp_path, sink.getvalue()).notes == ("first of several frames used",)
    for dtype in (np.uint16, np.float32):
        pixels = np.full((16, 16, 4), 0.2, np.float64)
        pixels = (pixels * 65535).astype(dtype) if dtype is np.uint16 else pixels.astype(dtype)
        image = load(tmp_path, tiff(pixels, extrasamples=["assocalpha"]), background="black")
        torch.testing.assert_close(image.tensor, torch.full((1, 3, 16, 16), 0.2), atol=1e-4, rtol=0)


def test_what_is_not_read_is_named(tmp_path: Path) -> None:
    packed = bytearray(tiff(noise(3, np.float32)))
    packed[packed.index(b"\3\1\3\0\1\0\0\0") + 8] = 5  # the tag Compression
    for data, layout in (
        (tiff(noise(3, np.int32)), r"32 bits \(signed, rgb, packing none\)\. Save it as RGB"),
        (tiff(noise(3), kind="cielab"), r"16 bits \(unsigned, cielab, packing none\)"),
        (bytes(packed), r"32 bits \(floating point, rgb, packing lzw\)"),
    ):
        with pytest.raises(InputError, match=rf"a TIFF of a kind that is not read: 3 channels of {layout}"):
            load(tmp_path, data)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_cut_short_is_refused(tmp_path: Path, layout: str, share: float) -> None:
    data = tiff(noise(3, np.float32), **LAYOUTS[layout])
    with pytest.raises(InputError, match="damaged"):
        load(tmp_path, data[: int(share * len(data))])


def test_a_claim_of_more_than_the_file_can_hold_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    data = tiff(noise(3, np.float32))
    for tag in (b"\0\1\4\0", b"\1\1\4\0"):  # width and height
        at = data.index(tag) + 8
        data = data[:at] + (12_000).to_bytes(4, "little") + data[at + 4 :]
    with pytest.raises(InputError, match="fewer pixels"):
        load(tmp_path, data)
    with pytest.raises(InputError, match="megapixels"):
        load(tmp_path, data, max_megapixels=100)


# --- PNG


@pytest.mark.parametrize("channels", [1, 3])
def test_a_key_of_16_bits_hides_its_own_colour_only(tmp_path: Path, channels: int) -> None:
    """Also colours that differ in the lower half alone: a sky of one upper half is no background."""
    key = np.array([0x1234, 0x5678, 0x9ABC][:channels], np.uint16)
    pixels = np.tile(key, (16, 16, 1))
    pixels[:, 8:, -1] += 1
    rows = pixels.astype(">u2").tobytes()
    data = png(16, 16, 16, 0 if channels == 1 else 2, rows, png_chunk(b"tRNS", key.astype(">u2").tobytes()))
    image = load(tmp_path, data, background="#00ff00")
    assert image.tensor[0, :, :, :8].permute(1, 2, 0).reshape(-1, 3).unique(dim=0).tolist() == [[0, 1, 0]]
    assert torch.equal(image.tensor[..., 8:], expected(pixels)[..., 8:])


def adam7(pixels: np.ndarray[Any, Any]) -> bytes:
    pyvips = pytest.importorskip("pyvips", reason="the extra nst-fast[large] is not installed", exc_type=ImportError)
    image = pyvips.Image.new_from_array(pixels).copy(interpretation="rgb16" if pixels.shape[2] > 2 else "grey16")
    return bytes(image.pngsave_buffer(interlace=True))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_interlaced_pictures_keep_their_bits(tmp_path: Path, channels: int) -> None:
    pixels = noise(channels)
    assert_loads(load(tmp_path, adam7(pixels)), pixels)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_profile_is_applied_to_all_16_bits(tmp_path: Path, channels: int) -> None:
    """A linear ramp of 1024 steps: LittleCMS, in 8 bits, would give at most 256."""
    ramp = np.repeat(np.linspace(0, 65535, 1024).astype(np.uint16)[:, None], channels, 1)
    if channels in {2, 4}:
        ramp[:, -1] = 65535
    profile = gray_profile(1.0) if channels < 3 else rgb_profile(1.0)
    chunk = png_chunk(b"iCCP", b"linear\0\0" + zlib.compress(profile))
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    image = load(tmp_path, png(1024, 16, 16, kind, ramp.astype(">u2").tobytes() * 16, chunk))
    light = ramp[:, 0] / 65535
    curved = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(image.tensor[0, 0, 0], curved, atol=2e-4)
    assert len(image.tensor[0, 1, 0].unique()) > 1000
    assert image.notes == ()


def test_a_profile_of_tables_is_applied_in_8_bits_and_noted(tmp_path: Path) -> None:
    table = (
        cmyk_profile(lambda c, m, y, k: (255 * (1 - c), 128, 128)).replace(b"CMYK", b"RGB ").replace(b"prtr", b"mntr")
    )
    at = table.index(b"mft1")
    three = table[:at] + table[at : at + 8] + bytes((3, 3, 2, 0)) + table[at + 12 : at + 48 + 3 * 256]
    three += b"".join(bytes((255 * r, 128, 128)) for r in (0, 1) for _ in range(4)) + bytes(range(256)) * 3
    chunk = png_chunk(b"iCCP", b"tables\0\0" + zlib.compress(three + bytes(len(table) - len(three))))
    image = load(tmp_path, png(16, 16, 16, 2, noise(3)[:16, :16].astype(">u2").tobytes(), chunk))
    assert image.notes == ("16 bits per channel read as 8",)
