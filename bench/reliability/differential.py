"""Sound pictures of every depth and layout with the pixels that are in them, for the fuzzing campaign.

The same pixels are stored as PNG, TIFF and lossless WebP. Pillow, tifffile and libvips must find them in each file that
they read, and ``load_image`` must load all files alike.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from nst_fast.errors import InputError
from nst_fast.images import load_image

Pixels = NDArray[Any]
BACKGROUND = (0.0, 1.0, 0.0)
KEYED = "keyed.png"
COLOR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(pixels: Pixels, *chunks: bytes) -> bytes:
    """[H, W, C] of 8 or 16 bits; ``chunks`` come before the pixels."""
    height, width, channels = pixels.shape
    depth = 8 * pixels.itemsize
    rows = b"".join(b"\0" + row.astype(f">u{pixels.itemsize}").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, depth, COLOR_TYPES[channels], 0, 0, 0)
    body = (chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(rows, 1)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def tiff(pixels: Pixels, chance: Random, **options: Any) -> bytes:
    """[H, W, C] of any depth: strips or tiles, by pixel or by plane, packed or not, either byte order, or BigTIFF."""
    channels = pixels.shape[2]
    layout: dict[str, Any] = {"planarconfig": chance.choice(("contig", "separate"))} if channels > 1 else {}
    layout |= chance.choice(({}, {"rowsperstrip": chance.randrange(1, 40)}, {"tile": (16, 16)}, {"tile": (32, 16)}))
    if pixels.dtype.kind == "u" or layout.get("planarconfig") != "separate":
        layout |= chance.choice(({}, {"compression": "zlib"}, {"compression": "zlib", "predictor": True}))
    if pixels.dtype.kind == "f":
        layout.pop("predictor", None)  # tifffile alone cannot write it
    values = np.moveaxis(pixels, 2, 0) if layout.get("planarconfig") == "separate" else pixels
    sink = io.BytesIO()
    kind = "rgb" if channels > 2 else "minisblack"
    extra = {"extrasamples": ["unassalpha"]} if channels in {2, 4} else {}
    order, big = chance.choice("<>"), chance.random() < 0.1
    values = values[..., 0] if channels == 1 else values
    tifffile.imwrite(
        sink, values, photometric=kind, byteorder=order, bigtiff=big, metadata=None, **layout, **extra, **options
    )
    return sink.getvalue()


def saved(pixels: Pixels, kind: str, **options: Any) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(sink, kind, **options)
    return sink.getvalue()


def by_vips(pixels: Pixels, suffix: str, **options: Any) -> bytes:
    import pyvips

    image = pyvips.Image.new_from_array(pixels)
    meaning = {(1, 1): "b-w", (1, 3): "srgb", (2, 1): "grey16", (2, 3): "rgb16"}
    image = image.copy(interpretation=meaning[pixels.itemsize, pixels.shape[2] - 1 + pixels.shape[2] % 2])
    return bytes(image.write_to_buffer(suffix, **options))


def noise(chance: Random, dtype: Any, channels: int) -> Pixels:
    """Steps, gradients and noise, with both ends of the range."""
    random = np.random.default_rng(chance.randrange(2**32))
    height, width = chance.randrange(16, 41), chance.randrange(16, 41)
    unit = random.random((height, width, channels))
    if chance.random() < 0.5:
        unit = np.broadcast_to(np.linspace(0, 1, width)[None, :, None], unit.shape) * unit[:1, :1]
    unit = np.array(unit)
    unit[0, 0], unit[0, 1] = 0, 1
    if np.issubdtype(dtype, np.floating):
        return np.asarray(unit, dtype)
    return np.asarray(np.rint(unit * np.iinfo(dtype).max), dtype)


def archive(chance: Random) -> bytes:
    """Some pixels and the files that hold them."""
    channels, dtype = chance.choice((1, 2, 3, 3, 4)), chance.choice((np.uint8, np.uint16, np.uint16, np.float32))
    pixels = noise(chance, dtype, channels)
    files = {f"tiff-{number}.tif": tiff(pixels, chance) for number in range(3)}
    if dtype is not np.float32:
        files["png.png"] = png(pixels)
        if channels in {1, 3}:
            files[KEYED] = png(pixels, chunk(b"tRNS", key_of(pixels).astype(">u2").tobytes()))
        files["vips.png"] = by_vips(pixels, ".png", interlace=chance.random() < 0.5)
        packing: dict[str, Any] = chance.choice(({"compression": "lzw"}, {"compression": "deflate"}, {}))
        if packing:
            packing |= {"predictor": chance.choice(("none", "horizontal"))}
        files["vips.tif"] = by_vips(pixels, ".tif", tile=chance.random() < 0.5, **packing)
    if dtype is np.uint8:
        files["pillow.tif"] = saved(pixels, "TIFF", compression=chance.choice((None, "tiff_lzw", "packbits")))
        shown = pixels if channels > 2 else np.concatenate([pixels[..., :1]] * 3 + [pixels[..., 1:]], 2)
        files["webp.webp"] = saved(shown, "WEBP", lossless=True, exact=True)
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as zipped:
        values = io.BytesIO()
        np.save(values, pixels)
        zipped.writestr("pixels.npy", values.getvalue())
        for name, data in files.items():
            zipped.writestr(name, data)
    return sink.getvalue()


def key_of(pixels: Pixels) -> Pixels:
    """The colour that the keyed PNG of an archive makes transparent."""
    return np.asarray(pixels[5, 7])


def expected(pixels: Pixels, *, keyed: bool = False) -> Pixels:
    """What is to be loaded: [H, W, 3] in [0, 1]."""
    channels = pixels.shape[2]
    unit = pixels.astype(np.float64) / (np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else 1)
    colors = unit[..., :3] if channels > 2 else np.repeat(unit[..., :1], 3, 2)
    alpha = unit[..., -1:] if channels in {2, 4} else np.ones((1, 1, 1))
    if keyed:
        alpha = (pixels != key_of(pixels)).any(2, keepdims=True)
    return np.asarray(colors * alpha + np.array(BACKGROUND) * (1 - alpha))


def check(path: Path) -> None:
    """Load every file of an archive and compare. Raises AssertionError."""
    loaded = {}
    with zipfile.ZipFile(path) as zipped:
        pixels = np.load(io.BytesIO(zipped.read("pixels.npy")))
        for name in zipped.namelist()[1:]:
            file = path.parent / name
            file.write_bytes(zipped.read(name))
            others_agree(file, pixels)
            try:
                image = load_image(file, background=BACKGROUND)
            except InputError as error:
                if "of a kind that is not read" not in str(error) or "lzw" not in str(error):
                    raise
                continue
            loaded[name] = image.tensor[0].permute(1, 2, 0).numpy()
            assert set(image.notes) <= {"transparent pixels composited on the background"}, (name, image.notes)
    for name, found in loaded.items():
        wanted = expected(pixels, keyed=name == KEYED)
        assert found.shape == wanted.shape, name
        assert np.abs(found - wanted).max() < (1e-6 if pixels.dtype.kind == "u" else 2e-5), name
        exact = pixels.dtype.kind == "u" and name != KEYED
        assert not exact or np.array_equal(found, loaded["tiff-0.tif"]), name


def others_agree(path: Path, pixels: Pixels) -> None:
    """Pillow, tifffile and libvips find the pixels in a file: it is sound, so our reader must find them too.

    What each of them is known to read wrongly, or not at all, is left out: 16 bits (Pillow), LZW (tifffile), planes of
    grey and alpha (Pillow and libvips), planes in tiles (libvips), BigTIFF in big-endian order (Pillow).
    """
    import pyvips

    found: dict[str, Pixels] = {}
    grey_with_alpha = path.suffix == ".tif" and pixels.shape[2] == 2
    if path.suffix == ".tif":
        try:
            array = tifffile.imread(path)
            apart = array.ndim == 3 and array.shape[0] == pixels.shape[2] and array.shape[1:] == pixels.shape[:2]
            found["tifffile"] = np.moveaxis(array, 0, 2) if apart else array
        except ValueError as error:
            if "imagecodecs" not in str(error):
                raise
    if not grey_with_alpha:
        try:
            found["libvips"] = pyvips.Image.new_from_buffer(path.read_bytes(), "").numpy()
        except pyvips.Error as error:
            if "separate planes not supported" not in str(error):
                raise
    if pixels.dtype == np.uint8 and not grey_with_alpha and not path.read_bytes().startswith(b"MM\0+"):
        with Image.open(path) as picture:
            found["Pillow"] = np.asarray(picture.convert("RGBA") if path.name == KEYED else picture)
    for name, given in found.items():
        values = given.reshape(*given.shape[:2], -1)
        if path.name == KEYED:
            hidden = (pixels == key_of(pixels)).all(2)
            assert np.array_equal(values[..., -1] == 0, hidden), f"{name}: {path.name}"
            values = values[..., : pixels.shape[2]]
        elif path.suffix == ".webp" and pixels.shape[2] <= 2:  # WebP has no grey
            values = values[..., :: 3 if pixels.shape[2] == 2 else 4]
        assert np.array_equal(values.astype(pixels.dtype), pixels), f"{name}: {path.name}"
