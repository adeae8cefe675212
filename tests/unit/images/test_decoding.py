"""Limits, damage, frames, orientation and reducing while decoding."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import encoded, load, png_chunk, sample, turned, with_chunk
from PIL import Image, ImageFilter, ImageOps

from nst_fast.errors import InputError
from nst_fast.images.decoding import Limits

KINDS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF")


def plain(picture: Image.Image) -> torch.Tensor:
    array = np.asarray(picture.convert("RGB"), np.float32) / 255
    return torch.from_numpy(array).permute(2, 0, 1)[None]


# --- kinds and names


@pytest.mark.parametrize("kind", [*KINDS, "MPO"])
def test_every_kind_of_picture_is_read(tmp_path: Path, kind: str) -> None:
    image = load(tmp_path, encoded(sample(), kind))
    assert image.format in {kind, "JPEG"}
    assert image.notes == ()
    assert image.tensor.is_contiguous()
    tolerance = 0 if kind in {"PNG", "TIFF", "BMP"} else 0.2
    torch.testing.assert_close(image.tensor, plain(sample()), atol=tolerance, rtol=0)


@pytest.mark.parametrize("kind", ["ICO", "PPM", "JPEG2000", "TGA", "EPS", "PDF", "PCX"])
def test_no_other_kind_is_read_whatever_its_suffix(tmp_path: Path, kind: str) -> None:
    with pytest.raises(InputError):
        load(tmp_path, encoded(sample(), kind), "a.png")


# --- damage


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", [0.02, 0.3, 0.7, 0.95])
def test_a_truncated_file_is_refused(tmp_path: Path, kind: str, part: float) -> None:
    data = encoded(sample(size=(96, 64)), kind)
    with pytest.raises(InputError, match=r"damaged|not an image"):
        load(tmp_path, data[: max(4, int(len(data) * part))])


DAMAGED_METADATA = {
    "text that unpacks to 2 MB": png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2_000_000))),
    "profile that unpacks to 50 MB": png_chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(50_000_000))),
    "text with a wrong checksum": png_chunk(b"tEXt", b"Comment\0hello")[:-1] + b"!",
    "text that claims to be transparency": png_chunk(b"tEXt", b"transparency\0hello"),
    "text of an unknown compression": png_chunk(b"zTXt", b"Comment\0\7hello"),
}


@pytest.mark.parametrize("name", DAMAGED_METADATA)
def test_damaged_png_metadata_is_ignored_with_a_note(tmp_path: Path, name: str) -> None:
    image = load(tmp_path, with_chunk(encoded(sample(), "PNG"), DAMAGED_METADATA[name]))
    assert torch.equal(image.tensor, plain(sample()))
    assert image.notes == ("damaged or oversized metadata ignored",)
    other = with_chunk(encoded(sample(), "PNG", exif=turned(6)), DAMAGED_METADATA[name])
    # A damaged profile costs the orientation too: only the pixels are kept.
    assert load(tmp_path, other).original_size == ((48, 32) if "profile" in name else (32, 48))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_damaged_exif_is_ignored_with_a_note(tmp_path: Path, kind: str) -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01" * 40
    image = load(tmp_path, encoded(sample(), kind, exif=exif))
    assert image.tensor.shape == (1, 3, 32, 48)
    assert len(image.notes) == 1
    assert "EXIF" in image.notes[0]


# --- limits


def bomb(width: int, height: int) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b"")) + png_chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(100_000, 100_000), (20_000, 20_000), (17_901, 10_000)])
def test_a_header_that_claims_too_much_is_refused_before_decoding(tmp_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"179 megapixels\. If you trust the file, raise `max_megapixels`"):
        load(tmp_path, bomb(*size))


def test_the_limit_can_be_raised_and_lowered_holds_for_the_size_wanted_and_leaves_pillows_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InputError, match="cut short"):  # past the limit, on to the missing pixels
        load(tmp_path, bomb(20_000, 20_000), max_megapixels=500)
    with pytest.raises(InputError, match=r"0\.001 megapixels"):
        load(tmp_path, encoded(sample(), "PNG"), max_megapixels=0.001)
    assert load(tmp_path, encoded(sample(), "PNG"), max_megapixels=48 * 32 / 1e6).original_size == (48, 32)
    with pytest.raises(InputError, match=r"becomes 100000x66667 pixels at this size; the limit is 179 megapixels"):
        load(tmp_path, encoded(sample(), "PNG"), longest_side=100_000)
    assert Image.MAX_IMAGE_PIXELS == 1000


@pytest.mark.parametrize(("size", "longest_side"), [((1, 1), None), ((1, 1), 512), ((15, 400), None), ((400, 15), 512)])
def test_pictures_under_16_pixels_are_refused(tmp_path: Path, size: tuple[int, int], longest_side: int | None) -> None:
    with pytest.raises(InputError, match="The smallest usable picture is 16x16"):
        load(tmp_path, encoded(sample(size=size), "PNG"), longest_side=longest_side)  # type: ignore[arg-type]


def test_the_refusal_of_a_thin_picture_names_a_size_that_is_enough(tmp_path: Path) -> None:
    data = encoded(sample(size=(20, 800)), "PNG")
    with pytest.raises(InputError, match=r"becomes 6x256 pixels.*use `image_size` 640 or more"):
        load(tmp_path, data, longest_side=256)
    assert load(tmp_path, data, longest_side=640).tensor.shape == (1, 3, 640, 16)


# --- frames


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "AVIF", "MPO"])
def test_the_first_of_several_frames_is_used_with_a_note(tmp_path: Path, kind: str) -> None:
    frames = [Image.new("RGB", (32, 32), color) for color in ("red", "lime", "blue")]
    image = load(tmp_path, encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert (image.tensor - plain(frames[0])).abs().max() < 0.03
    assert image.notes == ("first of 3 frames used",)


@pytest.mark.parametrize("kind", ["GIF", "TIFF"])
def test_damage_in_later_frames_does_not_cost_the_first(tmp_path: Path, kind: str) -> None:
    frames = [sample(), sample("L").convert("RGB")]
    alone = encoded(frames[0], kind)
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    image = load(tmp_path, data[: len(alone) + 60])
    assert image.tensor.shape == (1, 3, 32, 48)
    assert "first frame used; later ones are damaged" in image.notes or kind == "GIF"


# --- orientation


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 65535])
def test_exif_orientation_is_applied(tmp_path: Path, kind: str, orientation: int) -> None:
    quality = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}, "AVIF": {"quality": 100}}
    data = encoded(sample(), kind, exif=turned(orientation), **quality.get(kind, {}))
    tagged = sample()
    tagged.getexif()[274] = orientation
    expected = plain(ImageOps.exif_transpose(tagged))
    image = load(tmp_path, data)
    assert image.original_size == (expected.shape[3], expected.shape[2])
    assert image.tensor.shape == expected.shape
    assert image.tensor.is_contiguous()
    assert (image.tensor - expected).abs().mean() < 0.01


# --- reducing


def photograph(width: int, height: int) -> Image.Image:
    noise = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise).filter(ImageFilter.GaussianBlur(3))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "MPO"])
@pytest.mark.parametrize("size", [(1003, 701), (640, 961)])
def test_reducing_while_decoding_is_as_good_as_resizing_the_whole(
    tmp_path: Path, kind: str, size: tuple[int, int]
) -> None:
    data = encoded(photograph(*size), kind)
    whole = load(tmp_path, data)
    reduced = load(tmp_path, data, longest_side=64)
    expected = torch.nn.functional.interpolate(
        whole.tensor, reduced.tensor.shape[2:], mode="bicubic", antialias=True, align_corners=False
    )
    assert max(reduced.tensor.shape[2:]) == 64
    assert reduced.original_size == size
    assert (reduced.tensor - expected).abs().max() < 4 / 255
    assert (reduced.tensor - expected).abs().mean() < 0.7 / 255


def test_reduction_leaves_three_pixels_for_each_wanted() -> None:
    limits = Limits(longest_side=100, max_megapixels=179)
    assert [limits.reduction(side, 50) for side in (100, 599, 600, 899, 900, 5000)] == [1, 1, 2, 2, 3, 16]
    assert Limits(None, 179).reduction(10_000, 10_000) == 1


def test_bands_join_without_a_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(photograph(301, 200), "PNG")
    whole, reduced = load(tmp_path, data), load(tmp_path, data, longest_side=30)
    monkeypatch.setattr("nst_fast.images.resizing.BAND_PIXELS", 1)
    assert torch.equal(load(tmp_path, data).tensor, whole.tensor)
    assert torch.equal(load(tmp_path, data, longest_side=30).tensor, reduced.tensor)
