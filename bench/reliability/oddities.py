"""Pictures with colour chunks, deep and planar layouts and odd EXIF, sound or nearly so, for the fuzzing campaign."""

from __future__ import annotations

import struct
import zlib
from random import Random

import numpy as np
from differential import COLOR_TYPES, chunk, noise, png, saved, tiff
from PIL import ImageCms

WORDS = (0, 1, 45_455, 100_000, 31_270, 32_900, 64_000, 33_000, 2**31 - 1, 2**32 - 1)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
TURN, INTEROPERABILITY, EXIF_POINTER = 274, 0xA005, 0x8769


def color_chunk(chance: Random) -> bytes:
    """One of the chunks that describe colours: as the specification has it, with odd numbers, or of a wrong length."""
    match chance.randrange(6):
        case 0:
            kind, body = b"gAMA", struct.pack(">I", chance.choice((*WORDS, chance.randrange(2**32))))
        case 1:
            srgb = [31_270, 32_900, 64_000, 33_000, 30_000, 60_000, 15_000, 6_000]
            for _ in range(chance.randrange(4)):
                srgb[chance.randrange(8)] = chance.choice((*WORDS, chance.randrange(100_000)))
            kind, body = b"cHRM", struct.pack(">8I", *srgb)
        case 2:
            primaries, transfer = chance.choice((1, 2, 9, 11, 12, 255)), chance.choice((1, 2, 4, 8, 13, 16, 18, 255))
            kind, body = b"cICP", bytes((primaries, transfer, chance.choice((0, 0, 0, 9)), chance.choice((1, 1, 0, 7))))
        case 3:
            kind, body = b"sRGB", bytes((chance.choice((0, 1, 3, 200)),))
        case 4:
            profile = bytearray(PROFILE)
            for _ in range(chance.choice((0, 1, 8))):
                profile[chance.randrange(len(profile))] = chance.randrange(256)
            kind, body = b"iCCP", b"name\0\0" + zlib.compress(bytes(profile))
        case _:
            kind, body = b"tRNS", chance.randbytes(chance.choice((0, 1, 2, 6, 6, 256)))
    return chunk(kind, body if chance.random() < 0.9 else body[: chance.randrange(len(body) + 1)])


def color_png(chance: Random) -> bytes:
    """A PNG of 8 or 16 bits with up to four such chunks, sometimes behind its pixels."""
    pixels = noise(chance, chance.choice((np.uint8, np.uint16)), chance.choice(tuple(COLOR_TYPES)))
    data = png(pixels, *(color_chunk(chance) for _ in range(chance.randrange(5))))
    return data if chance.random() < 0.9 else data[:-12] + color_chunk(chance) + data[-12:]


def deep_tiff(chance: Random) -> bytes:
    """A TIFF of 8 to 64 bits, whole numbers or floats, also such as are not finite."""
    dtype = chance.choice((np.uint8, np.uint16, np.uint16, np.uint32, np.int16, np.float16, np.float32, np.float64))
    pixels = noise(chance, dtype, chance.choice((1, 2, 3, 4)))
    if pixels.dtype.kind == "f" and chance.random() < 0.3:
        pixels[3, 3] = chance.choice((float("nan"), float("inf"), -1.0, 7.0, 6e4))
    profile = {"iccprofile": PROFILE} if chance.random() < 0.3 else {}
    return tiff(pixels, chance, **profile)


def exif(chance: Random) -> bytes:
    """EXIF whose orientation has any type, count and value, in either byte order; directories may be circular."""
    order = chance.choice("<>")
    tag = chance.choice((TURN, TURN, TURN, EXIF_POINTER, INTEROPERABILITY, 1, 0))
    entries = [
        (tag, chance.randrange(14), chance.choice((0, 1, 1, 1, 2, 2**32 - 1)), chance.choice((*range(10), *WORDS)))
    ]
    for _ in range(chance.randrange(3)):
        kind = chance.choice((TURN, EXIF_POINTER, INTEROPERABILITY))
        entries.append((kind, chance.choice((1, 3, 4)), 1, chance.choice((*range(10), 8, 8, 2**32 - 1))))
    body = b"".join(
        # A short value lies in the first half of its four bytes.
        struct.pack(order + "HHI", tag, kind, count)
        + (struct.pack(order + "HH", value % 2**16, 0) if kind == 3 else struct.pack(order + "I", value))
        for tag, kind, count, value in entries
    )
    following = chance.choice((0, 0, 8, 2**32 - 1))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(entries))
    return b"Exif\0\0" + head + body + struct.pack(order + "I", following)


def turned(chance: Random) -> bytes:
    """A JPEG, PNG or WebP with such EXIF; Pillow writes no AVIF with it."""
    pixels, data = noise(chance, np.uint8, 3), exif(chance)
    kind = chance.choice(("JPEG", "JPEG", "PNG", "WEBP"))
    if kind == "PNG":
        return png(pixels, chunk(b"eXIf", data[6:]))
    return saved(pixels, kind, exif=data)
