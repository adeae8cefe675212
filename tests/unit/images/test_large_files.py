"""Large pictures: read in bands as if read whole, written strip by strip, 16 bits, BigTIFF; with small pictures."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
import pytest
import tifffile
import torch
from faulty_disk import FullDisk
from in_process import imported
from pictures import encoded, png, png_chunk, rgb_profile, sample, tiff, turned
from PIL import Image
from places import ROOT
from tiny import TINY

from nst_fast import images
from nst_fast.api import stylize
from nst_fast.errors import InputError, NstFastError, NumericsError, OutputError, UsageError
from nst_fast.images import decoding, encoding, streaming
from nst_fast.options.config import StylizeConfig
from nst_fast.run.outputs import OutputFiles
from nst_fast.run.record import RunRecord, read_record

SIZE = (301, 203)
DEEP = (".png", ".tif")
TEXT = {"nst-fast": '{"seed": 0, "name": "é"}'}


def gradient(width: int = 1024, height: int = 40) -> torch.Tensor:
    """Smooth from left to right, another in every channel: [1, 3, H, W]."""
    line = torch.linspace(0, 1, width)
    return torch.stack([line, line.flip(0), line**2])[None, :, None].expand(1, 3, height, width)


def pixels_of(path: Path) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """The pixels of a 16-bit file, read by nothing that wrote it."""
    pyvips = pytest.importorskip("pyvips", reason="the extra large is not installed", exc_type=ImportError)
    pixels = pyvips.Image.new_from_file(str(path)).numpy()
    assert pixels.dtype == np.uint16
    return pixels


# --- 16 bits


@pytest.mark.parametrize("suffix", DEEP)
def test_a_gradient_keeps_its_levels_in_16_bits(tmp_path: Path, suffix: str) -> None:
    images.save_image(gradient(), tmp_path / f"a{suffix}", bit_depth=16)
    pixels = pixels_of(tmp_path / f"a{suffix}")
    expected = np.floor(gradient()[0].permute(1, 2, 0).double().numpy() * 65535 + 0.5)
    assert np.abs(pixels - expected).max() <= 1 / 128  # float32's own rounding aside, to the nearest
    assert len(np.unique(pixels[..., 0])) == 1024
    images.save_image(gradient(), tmp_path / f"b{suffix}")
    assert len(np.unique(images.to_uint8(images.load_image(tmp_path / f"b{suffix}").tensor)[..., 0])) == 256


@pytest.mark.parametrize("suffix", DEEP)
def test_noise_in_16_bits_is_stored_exactly_whatever_the_strips(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = torch.rand(1, 3, 23, 37, generator=torch.Generator().manual_seed(0)) * 1.2 - 0.1
    noise[:, :, :8] = noise[:, :, :1]  # rows alike, and pixels: each of the filters is the best somewhere
    noise[:, :, 8:12] = noise[:, :, 8:12, :1]
    noise[:, :, 12:16] = noise[:, :, 12:16, :1] + torch.linspace(0, 0.3, 37)
    expected = np.rint(noise[0].permute(1, 2, 0).clamp(0, 1).numpy() * np.float32(65535)).astype(np.uint16)
    for pixels in (1, 37 * 5, 10**6):
        monkeypatch.setattr(encoding, "STRIP_PIXELS", pixels)
        images.save_image(noise, tmp_path / f"a{suffix}", bit_depth=16)
        np.testing.assert_array_equal(pixels_of(tmp_path / f"a{suffix}"), expected)


@pytest.mark.parametrize("suffix", DEEP)
def test_a_16_bit_file_has_profile_text_and_always_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    images.save_image(gradient(), path, bit_depth=16, text=TEXT)
    assert images.read_text(path) == TEXT
    assert path.read_bytes() == images.encode_image(gradient(), suffix, text=TEXT, bit_depth=16)
    with Image.open(path) as picture:
        profile = picture.info["icc_profile"]
    assert profile == images.SRGB_PROFILE
    if suffix == ".tif":
        with tifffile.TiffFile(io.BytesIO(images.encode_image(gradient(), suffix))) as file:
            assert not {tag.name for tag in file.pages[0].tags} & {"DateTime", "Software", "ImageDescription"}
    loaded = images.load_image(path)
    assert (loaded.tensor - gradient()).abs().max() <= 0.51 / 65535
    assert loaded.notes == ()


def test_bits_and_sides_that_the_format_cannot_hold_are_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        images.check_output_suffix("a.png", 12)
    for name in ("a.jpg", "a.webp", "a.bmp"):
        with pytest.raises(
            UsageError, match=r"8 bits per channel, not 16\. Use \.png, \.tif, \.tiff, or `bit_depth` 8"
        ):
            images.save_image(gradient(), tmp_path / name, bit_depth=16)
    assert list(tmp_path.iterdir()) == []
    sides = r"WEBP holds no side of 16384 pixels, the most are 16383\. Use \.png or \.tif"
    with pytest.raises(UsageError, match=sides):
        stylize("missing", "missing", SMALL.replace(image_size=16_384), output=tmp_path / "out.webp")
    with pytest.raises(UsageError, match="WEBP holds 8 bits"):
        stylize("missing", "missing", SMALL, output=tmp_path / "out.webp", bit_depth=16)
    for suffix, longest in encoding.LONGEST_SIDE.items():
        assert images.check_output_suffix(f"a.{suffix.lower()}", side=longest) == suffix
        beyond = 65_536 if suffix == "AVIF" else longest  # its decoder takes less than its encoder
        with pytest.raises(OutputError, match="cannot be stored"):  # by the encoder itself
            images.encode_image(torch.zeros(1, 3, 1, beyond + 1), f".{suffix.lower()}")
        images.encode_image(torch.zeros(1, 3, 1, longest), f".{suffix.lower()}")


SMALL = StylizeConfig(**TINY)


def test_a_run_writes_16_bits_with_its_record_inside_and_8_if_the_record_is_older_than_the_choice(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    pastiche = stylize(*pair, SMALL, output=tmp_path / "out.tif", bit_depth=16, overwrite=True)
    values = np.rint(pastiche.image[0].permute(1, 2, 0).clamp(0, 1).numpy() * np.float32(65535))
    np.testing.assert_array_equal(pixels_of(tmp_path / "out.tif"), values)
    inside, beside = (read_record(tmp_path / name) for name in ("out.tif", "out.json"))
    assert inside["options"]["bit_depth"] == beside["options"]["bit_depth"] == 16
    with pytest.raises(UsageError, match="JPEG holds 8 bits"):
        pastiche.save(tmp_path / "again.jpg")
    record = RunRecord(options={}, inputs={}, weights={}, machine={}, device="", engine="", precision="")
    OutputFiles(tmp_path / "a.png").save_picture(gradient(), record)
    assert len(np.unique(np.asarray(Image.open(tmp_path / "a.png"))[..., 0])) == 256


# --- BigTIFF


@pytest.mark.parametrize("bit_depth", [8, 16])
def test_a_tiff_becomes_a_bigtiff_when_4_gib_do_not_hold_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bit_depth: int
) -> None:
    image = gradient(100, 20)
    size = 100 * 20 * 3 * bit_depth // 8
    for limit, first in ((size, b"II*\0"), (size - 1, b"II+\0")):
        monkeypatch.setattr(encoding, "BIGTIFF_BYTES", limit)
        monkeypatch.setattr(encoding, "STRIP_PIXELS", 700)
        path = tmp_path / "a.tif"
        images.save_image(image, path, bit_depth=bit_depth, text=TEXT)
        assert path.read_bytes()[:4] == first
        with tifffile.TiffFile(path) as file:
            assert file.is_bigtiff == (first == b"II+\0")
            np.testing.assert_array_equal(file.asarray(), encoding.quantised(image, bit_depth))
        assert images.read_text(path) == TEXT
        assert (images.load_image(path).tensor - image).abs().max() <= 1 / 255
    assert encoding.BIGTIFF_BYTES < 2**32


# --- writing in strips


class Counted(io.BytesIO):
    """A stream that remembers its largest write."""

    largest = 0

    def write(self, data: Any) -> int:
        self.largest = max(self.largest, len(data))
        return super().write(data)


@pytest.mark.parametrize(("suffix", "bit_depth"), [(".png", 8), (".png", 16), (".tif", 8), (".tif", 16), (".bmp", 8)])
def test_no_write_is_larger_than_some_strips(suffix: str, bit_depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "STRIP_PIXELS", 4000)
    noise = torch.rand(1, 3, 400, 400, generator=torch.Generator().manual_seed(0))
    stream = Counted()
    encoding.write_image(stream, noise, encoding.WRITABLE[suffix], {}, bit_depth)
    whole = 400 * 400 * 3 * bit_depth // 8
    assert len(stream.getvalue()) > 0.9 * whole
    assert stream.largest < 0.2 * whole


def test_a_value_that_is_not_finite_in_the_last_strip_costs_nothing_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "STRIP_PIXELS", 1)
    image = gradient().clone()
    image[0, 2, -1, -1] = float("nan")
    (tmp_path / "a.png").write_bytes(b"old")
    with pytest.raises(NumericsError):
        images.save_image(image, tmp_path / "a.png")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


@pytest.mark.parametrize("suffix", [suffix for suffix in encoding.WRITABLE if suffix != ".tiff"])
def test_a_disk_that_fills_up_while_writing_is_named_as_such(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow, given a descriptor, would say "encoder error -2"."""
    write = encoding.write_image
    monkeypatch.setattr(images, "write_image", lambda stream, *rest: write(FullDisk(stream, 1000), *rest))
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with pytest.raises(OutputError, match="no space left"):
        images.save_image(noise, tmp_path / f"a{suffix}")
    assert list(tmp_path.iterdir()) == []


# --- text of files that are too large to be decoded


def behind_pixels(data: bytes, chunk: bytes) -> bytes:
    return data[:-12] + chunk + data[-12:]


def png_of(width: int, height: int, *chunks: bytes) -> bytes:
    """A PNG whose header claims a size and that has hardly any pixels."""
    return png(width, height, 8, 2, bytes(height), *chunks)


def test_text_is_read_without_decoding_and_behind_the_pixels_within_the_limit(tmp_path: Path) -> None:
    path, chunk = tmp_path / "a.png", png_chunk(b"tEXt", b"nst-fast\0{}")
    path.write_bytes(png_of(32_768, 32_768, chunk))
    assert images.read_text(path) == {"nst-fast": "{}"}
    with pytest.raises(InputError, match="megapixels"):
        images.load_image(path)
    path.write_bytes(behind_pixels(encoded(sample(), "PNG"), chunk))
    assert images.read_text(path) == {"nst-fast": "{}"}
    path.write_bytes(behind_pixels(png_of(32_768, 32_768), chunk))
    with pytest.raises(InputError, match="megapixels"):
        images.read_text(path)


# --- reading in bands


@pytest.fixture
def bands(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every picture counts as large; the formats that libvips has read to the end."""
    pytest.importorskip("pyvips", reason="the extra large is not installed", exc_type=ImportError)
    read: list[str] = []
    original = decoding.rows_of

    def spied(picture: Any, stream: BinaryIO) -> Any:
        rows = original(picture, stream)
        assert rows is not None

        def counted(top: int, bottom: int) -> Image.Image:
            piece = rows(top, bottom)
            if bottom == picture.height:
                read.append(picture.format)
            return piece

        return counted

    monkeypatch.setattr(streaming, "LARGE_PIXELS", 0)
    monkeypatch.setattr("nst_fast.images.resizing.BAND_PIXELS", 8000)
    monkeypatch.setattr(decoding, "rows_of", spied)
    yield read


def transparent(mode: str) -> Image.Image:
    picture = sample(size=SIZE)
    picture.putalpha(Image.linear_gradient("L").resize(SIZE))
    return picture.convert(mode)


def deep() -> np.ndarray[Any, np.dtype[np.uint16]]:
    noise = np.random.default_rng(0).integers(0, 250, (SIZE[1], SIZE[0], 3))
    return (np.asarray(sample(size=SIZE)).astype(np.uint16) * 256 + noise).astype(np.uint16)


READ_BY_VIPS: dict[str, Callable[[], bytes]] = {
    "png": lambda: encoded(sample(size=SIZE), "PNG"),
    "png turned": lambda: encoded(sample(size=SIZE), "PNG", exif=turned(6)),
    "png with profile": lambda: encoded(sample(size=SIZE), "PNG", icc_profile=rgb_profile(1.4, red_is_blue=True)),
    "png with alpha": lambda: encoded(transparent("RGBA"), "PNG"),
    "png of grey with alpha": lambda: encoded(transparent("LA"), "PNG"),
    "png of 16 bits": lambda: png(*SIZE, 16, 2, deep().astype(">u2").tobytes()),
    "jpeg turned": lambda: encoded(sample(size=SIZE), "JPEG", exif=turned(8)),
    "progressive jpeg": lambda: encoded(sample(size=SIZE), "JPEG", progressive=True, icc_profile=rgb_profile(2.4)),
    "tiff": lambda: encoded(sample(size=SIZE), "TIFF", compression="tiff_lzw"),
    "tiff with alpha": lambda: encoded(transparent("RGBA"), "TIFF"),
    "tiff of jpeg": lambda: encoded(sample(size=SIZE), "TIFF", compression="jpeg"),
    "tiff of 16 bits in tiles": lambda: tiff(deep(), tile=(64, 64), compression="zlib"),
    "tiff of 16 bits, big-endian": lambda: tiff(deep(), byteorder=">"),
    "bigtiff": lambda: tiff(deep(), bigtiff=True, rowsperstrip=7),
    "tiff of pages": lambda: encoded(sample(size=SIZE), "TIFF", save_all=True, append_images=[sample(size=SIZE)]),
}


@pytest.mark.parametrize("name", READ_BY_VIPS)
@pytest.mark.parametrize("side", [None, 97, 500])
def test_a_picture_read_in_bands_is_that_read_whole(
    tmp_path: Path, bands: list[str], name: str, side: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_bytes(READ_BY_VIPS[name]())
    banded = images.load_image(path, longest_side=side, background="lime")
    assert len(bands) == 1
    monkeypatch.setattr(streaming, "LARGE_PIXELS", 10**9)
    whole = images.load_image(path, longest_side=side, background="lime")
    assert len(bands) == 1
    assert (banded.tensor - whole.tensor).abs().max() <= 1.01 / 255
    assert (banded.original_size, banded.notes, banded.sha256) == (whole.original_size, whole.notes, whole.sha256)


def test_a_picture_that_ends_within_its_last_square_is_placed_exactly(tmp_path: Path) -> None:
    """A ramp of 600 pixels averaged by sevens: 85 5/7 squares become 28 pixels."""
    ramp = np.broadcast_to(np.rint((np.arange(600) + 0.5) / 600 * 65535).astype(np.uint16), (600, 600))
    Image.fromarray(np.ascontiguousarray(ramp)).save(tmp_path / "a.png")
    line = images.load_image(tmp_path / "a.png", longest_side=28).tensor[0, 0, 14]
    torch.testing.assert_close(line[3:-3], ((torch.arange(28) + 0.5) / 28)[3:-3], atol=5e-4, rtol=0)


def late_turn() -> bytes:
    turn = png_chunk(b"eXIf", turned(6).tobytes().removeprefix(b"Exif\0\0"))
    return behind_pixels(encoded(sample(size=SIZE), "PNG"), turn)


READ_BY_PILLOW: dict[str, Callable[[], bytes]] = {
    "palette": lambda: encoded(sample("P", SIZE), "PNG"),
    "grey": lambda: encoded(sample("L", SIZE), "PNG"),
    "colour key": lambda: encoded(sample(size=SIZE), "PNG", transparency=(1, 2, 3)),
    "turned behind its pixels": late_turn,
    "several frames": lambda: encoded(sample(size=SIZE), "PNG", save_all=True, append_images=[transparent("RGB")]),
    "turned tiff": lambda: encoded(sample(size=SIZE), "TIFF", exif=turned(6)),
    "premultiplied": lambda: tiff(np.asarray(transparent("RGBA")), extrasamples=["assocalpha"]),
    "printer's jpeg": lambda: encoded(sample("CMYK", SIZE), "JPEG"),
    "webp": lambda: encoded(sample(size=SIZE), "WEBP"),
    "reduced by the decoder": lambda: encoded(sample(size=(600, 400)), "JPEG"),
}


@pytest.mark.parametrize("name", READ_BY_PILLOW)
def test_what_libvips_would_read_differently_is_left_to_pillow(
    tmp_path: Path, bands: list[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_bytes(READ_BY_PILLOW[name]())
    banded = images.load_image(path, longest_side=97)
    monkeypatch.setattr(streaming, "LARGE_PIXELS", 10**9)
    whole = images.load_image(path, longest_side=97)
    stream = io.BytesIO(encoded(sample(size=SIZE), "PNG"))
    decoding.decode(stream, "a pipe", decoding.Limits(None, 1), (1, 1, 1))
    assert bands == []
    assert torch.equal(banded.tensor, whole.tensor)
    assert banded.original_size == whole.original_size


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("PNG", "a[page=2].png"),  # which libvips could take for options
        ("JPEG", os.fsdecode(b"caf\xe9.jpg")),
        ("TIFF", "a.tif"),
    ],
)
def test_damage_is_reported_in_the_words_of_the_other_reader(
    tmp_path: Path, bands: list[str], kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(sample(size=SIZE), kind)
    path = tmp_path / name
    try:
        path.write_bytes(data)
    except OSError:
        pytest.skip("this disk takes no such names")
    with pytest.raises(NstFastError, match=r"raise `max_megapixels`"):
        images.load_image(path, max_megapixels=0.01)
    assert bands == []
    images.load_image(path)
    assert bands == ([kind] if "caf" not in name else [])
    path.write_bytes(data[: len(data) // 2])
    reports = []
    for pixels in (0, 10**9):
        monkeypatch.setattr(streaming, "LARGE_PIXELS", pixels)
        with pytest.raises(InputError) as caught:
            images.load_image(path)
        reports.append(str(caught.value))
    assert reports[0] == reports[1]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system does not list open files")
def test_a_picture_that_was_read_is_closed(tmp_path: Path, bands: list[str]) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(sample(size=SIZE), "PNG"))
    images.load_image(path)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(InputError):
        images.load_image(path)
    assert str(path) not in {os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()}


@pytest.mark.parametrize("name", ["png", "jpeg", "tiff"])
def test_damaged_files_are_read_in_bands_or_refused_in_one_line(
    name: str, bands: list[str], tmp_path: Path, fuzz: ModuleType
) -> None:
    sound = [make() for title, make in READ_BY_VIPS.items() if name in title and "big" not in title]
    deep = {"png": fuzz.m.png_below_the_checksums, "tiff": fuzz.m.tiff_tags}.get(name, fuzz.m.damaged)
    tally = fuzz.Tally()
    for number in range(60):
        chance = Random(f"{name} {number}")
        data = chance.choice((fuzz.m.damaged, deep))(chance.choice(sound), chance)
        assert fuzz.feed(name, data, tmp_path, tally) == "", f"number {number}"
    assert bands
    assert tally.refused


@pytest.fixture(scope="module")
def fuzz() -> Iterator[ModuleType]:
    with imported(ROOT / "bench" / "reliability", ["fuzz"]) as found:
        yield found["fuzz"]


def test_without_pyvips_a_large_picture_is_read_whole_with_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(sample(size=SIZE), "PNG"))
    monkeypatch.setattr(streaming, "_pyvips", lambda: pytest.fail("loaded for a small picture"))
    plain = images.load_image(path)
    assert plain.notes == ()
    monkeypatch.setattr(streaming, "_pyvips", lambda: None)
    monkeypatch.setattr(streaming, "LARGE_PIXELS", 0)
    large = images.load_image(path)
    assert torch.equal(large.tensor, plain.tensor)
    assert large.notes == (streaming.HINT,)


def test_the_benchmark_reads_and_writes_every_kind_of_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "bench" / "memory"))
    import files as benchmark  # type: ignore[import-not-found]

    def run(arguments: list[str]) -> float:
        with monkeypatch.context() as patch:
            patch.setattr("sys.argv", ["-c", *arguments[2:]])
            exec(arguments[1], {})
        return 1.0

    for name, value in {"WIDTH": 64, "HEIGHT": 40, "READ_SIDES": (32, 80), "peak_mib": run}.items():
        monkeypatch.setattr(benchmark, name, value)
    monkeypatch.setattr(benchmark.subprocess, "run", lambda command, **_: benchmark.make_file(Path(command[-1])))
    rows = benchmark.rows_of(tmp_path, old=False)
    assert [row.get("read") for row in rows if "read" in row] == [n for n in benchmark.FILES for _ in range(2)]
    assert {path.name for path in tmp_path.iterdir()} == {row["write"] for row in rows if "write" in row}
