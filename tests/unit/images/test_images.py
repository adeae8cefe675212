"""Loading and saving as a whole: round trips, text inside pictures, errors, the user's old file."""

from __future__ import annotations

import hashlib
import io
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encoded, png_chunk, sample, with_chunk
from PIL import Image

from nst_fast import images
from nst_fast.errors import InputError, NumericsError, UsageError

LOSSLESS = (".png", ".tif", ".tiff", ".bmp")
TEXT = {"nst-fast": '{"seed": 0, "name": "[red] é 日本"}', "Comment": "two\nlines"}


def all_bytes() -> torch.Tensor:
    """An image that holds every value of 8 bits in every channel: [1, 3, 16, 48]."""
    values = np.stack([np.roll(np.arange(768, dtype=np.uint8).reshape(16, 48), shift) for shift in (0, 5, 77)], axis=-1)
    return images.from_uint8(values)


def test_values_are_rounded_to_the_nearest_and_clamped() -> None:
    values = torch.tensor([-0.5, 0.49 / 255, 0.51 / 255, 254.49 / 255, 254.51 / 255, 1.5])
    image = values.view(1, 1, 1, 6).expand(1, 3, 1, 6)
    assert images.to_uint8(image)[0, :, 1].tolist() == [0, 0, 1, 254, 255, 255]
    image = all_bytes()
    assert image.is_contiguous()
    assert torch.equal(images.from_uint8(images.to_uint8(image)), image)
    for value in (float("nan"), float("inf")):
        image[0, 1, 2, 3] = value
        with pytest.raises(NumericsError):
            images.to_uint8(image)


@pytest.mark.parametrize("suffix", images.WRITABLE)
def test_equal_images_are_equal_files_with_a_profile_and_every_channel_at_full_resolution(suffix: str) -> None:
    first, second = (images.encode_image(all_bytes(), suffix, text=TEXT) for _ in range(2))
    assert first == second
    with Image.open(io.BytesIO(first)) as picture:
        assert suffix == ".bmp" or picture.info["icc_profile"] == images.SRGB_PROFILE
        assert picture.format != "JPEG" or [layer[1:3] for layer in picture.layer] == [(1, 1)] * 3  # type: ignore[attr-defined]


@settings(max_examples=25)
@given(
    width=st.integers(16, 70),
    height=st.integers(16, 70),
    suffix=st.sampled_from(LOSSLESS),
    mode=st.sampled_from(["RGB", "L", "1", "P"]),
    seed=st.integers(0, 99),
)
def test_any_size_and_mode_is_read_as_pillow_shows_it(
    tmp_path_factory: pytest.TempPathFactory, width: int, height: int, suffix: str, mode: str, seed: int
) -> None:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).convert(mode)
    path = tmp_path_factory.mktemp("any") / f"a{suffix}"
    picture.save(path)
    loaded = images.load_image(path)
    assert (loaded.notes, loaded.sha256) == ((), hashlib.sha256(path.read_bytes()).hexdigest())
    np.testing.assert_array_equal(images.to_uint8(loaded.tensor), np.asarray(picture.convert("RGB")))
    images.save_image(loaded.tensor, path)
    assert torch.equal(images.load_image(path).tensor, loaded.tensor)


def test_a_wrong_suffix_is_noted(tmp_path: Path) -> None:
    for name, kind, notes in (
        ("a.jpg", "PNG", ("suffix says jpg, content is PNG",)),
        ("a.JPEG", "JPEG", ()),
        ("a.jpg", "MPO", ()),
        ("a.dat", "PNG", ()),
    ):
        (tmp_path / name).write_bytes(encoded(sample(), kind))
        assert images.load_image(tmp_path / name).notes == notes


# --- text


@pytest.mark.parametrize("suffix", images.WRITABLE)
def test_text_is_given_back_by_all_formats_but_bmp(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    long = TEXT | {"long": "0123456789é" * 30_000}  # several JPEG comments, a compressed PNG chunk
    images.save_image(all_bytes(), path, text=long)
    assert images.read_text(path) == (long if suffix != ".bmp" else {})
    images.save_image(all_bytes(), path)
    assert images.read_text(path) == {}


def test_text_beyond_pillows_limit_or_utf8_is_stored_so_that_it_can_be_read(tmp_path: Path) -> None:
    given = {"long": "x" * 3_000_000, "name": os.fsdecode(b"caf\xe9")}
    images.save_image(all_bytes(), tmp_path / "a.png", text=given)
    assert images.read_text(tmp_path / "a.png") == given | {"name": r"caf\udce9"}
    assert torch.equal(images.load_image(tmp_path / "a.png").tensor, all_bytes())


def test_text_bombs_and_damaged_text_are_input_errors_and_other_comments_no_text(tmp_path: Path) -> None:
    chunk = png_chunk(b"zTXt", b"nst-fast\0\0" + zlib.compress(bytes(2_000_000)))
    (tmp_path / "a.png").write_bytes(with_chunk(encoded(sample(), "PNG"), chunk))
    (tmp_path / "a.jpg").write_bytes(encoded(sample(), "JPEG", comment=b"nst-fast:{not json"))
    (tmp_path / "b.jpg").write_bytes(encoded(sample(), "JPEG", comment=b"nst-fast:[1]"))
    for name in ("a.png", "a.jpg", "b.jpg", "missing.png"):
        with pytest.raises(InputError):
            images.read_text(tmp_path / name)
    (tmp_path / "c.jpg").write_bytes(encoded(sample(), "JPEG", comment="made by a camera"))
    assert images.read_text(tmp_path / "c.jpg") == {}


# --- refusals


@pytest.mark.parametrize("name", ["a.xyz", "a", "a.gif", "a.png.bak", ".png"])
def test_a_suffix_that_cannot_be_written_is_wrong_use(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"Use \.png, \.jpg"):
        images.check_output_suffix(tmp_path / name)
    with pytest.raises(UsageError):
        images.save_image(all_bytes(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []
    assert images.check_output_suffix("A.PNG") == "PNG"


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".avif"])
def test_a_lower_quality_makes_a_smaller_and_less_faithful_file(suffix: str, tmp_path: Path) -> None:
    picture = images.from_uint8(np.asarray(sample(size=(64, 64)).effect_spread(3)))
    sizes, errors = [], []
    for quality in (20, 80, 95):
        path = tmp_path / f"{quality}{suffix}"
        images.save_image(picture, path, quality=quality)
        sizes.append(path.stat().st_size)
        errors.append((images.load_image(path).tensor - picture).abs().mean().item())
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.03
    images.save_image(picture, tmp_path / f"default{suffix}")
    assert (tmp_path / f"default{suffix}").read_bytes() == (tmp_path / f"95{suffix}").read_bytes()


def test_without_an_encoder_of_avif_it_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nst_fast.images.encoding.features.check", lambda name: False)
    with pytest.raises(UsageError, match=r"built without AVIF. Use \.png"):
        images.check_output_suffix("a.avif")
