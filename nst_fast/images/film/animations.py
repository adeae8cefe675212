"""Animated GIF, PNG and WebP, by Pillow."""

from __future__ import annotations

from collections.abc import Generator
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from nst_fast.errors import InputError
from nst_fast.images.decoding import FORMATS, Limits, pillow_guarded
from nst_fast.images.film.facts import Film, FilmInfo, Part, Pixels
from nst_fast.system.files import shown

_HASTE = Fraction(1, 100)  # a delay of a GIF that browsers take for "no matter", and for a tenth of a second
_NO_DELAY = Fraction(1, 10)


def open_animation(path: Path, part: Part, limits: Limits) -> Film:
    """See :func:`nst_fast.images.film.open_film`. All frames are decoded once, as only that tells their times."""
    name = shown(path)
    with path.open("rb") as file, pillow_guarded(name, limits.max_megapixels):
        picture = Image.open(file, formats=FORMATS)
        limits.check(*picture.size, name)
        if not getattr(picture, "is_animated", False):
            raise InputError(f"{name} is a still picture", "Give it to `nst-fast stylize`")
        offset = int(picture.info.get("default_image", False))  # of an APNG: shown where animations are not
        count = getattr(picture, "n_frames", 1) - offset
        clock, opaque = [Fraction(0)], []
        for index in range(count):
            picture.seek(offset + index)
            opaque.append(bool(np.asarray(picture.convert("RGBA"))[..., 3].min() == 255))
            clock.append(clock[-1] + _delay(picture))
    first, stop = part.of(clock, name)
    alpha = not all(opaque[first:stop])
    info = FilmInfo.of_clock(clock[first : stop + 1], picture.size[::-1], alpha=alpha)
    return Film(info, first, partial(_read, path, limits.max_megapixels, offset, "RGBA" if alpha else "RGB"))


def _delay(picture: Image.Image) -> Fraction:
    """Seconds for which the frame that was just decoded is shown."""
    delay = Fraction(picture.info.get("duration") or 0).limit_denominator(10**6) / 1000
    return delay if delay > (_HASTE if picture.format == "GIF" else 0) else _NO_DELAY


def _read(path: Path, max_megapixels: float, offset: int, mode: str, first: int, stop: int) -> Generator[Pixels]:
    """Every frame builds on those before it: reading starts at the first one whatever is wanted."""
    with path.open("rb") as file:
        picture = None
        for index in range(stop):
            with pillow_guarded(shown(path), max_megapixels):
                picture = picture or Image.open(file, formats=FORMATS)
                picture.seek(offset + index)
                pixels = np.asarray(picture.convert(mode))
            if index >= first:
                yield pixels
