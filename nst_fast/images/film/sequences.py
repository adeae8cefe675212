"""Numbered pictures (``frames/%04d.png``) as a film."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from nst_fast.errors import InputError
from nst_fast.images import from_uint8, load_image, save_image, to_uint8
from nst_fast.images.decoding import Limits
from nst_fast.images.film.facts import Film, FilmInfo, Frame, Part, Pixels
from nst_fast.system.files import make_folder, remove, shown

RATE = Fraction(25)  # frames a second
_NUMBER = re.compile(r"%(?:0(\d))?d")


def is_pattern(path: Path) -> bool:
    """Whether a path stands for numbered pictures."""
    return len(_NUMBER.findall(path.name)) == 1 and not path.exists()


def open_sequence(path: Path, part: Part, limits: Limits) -> Film:
    """See :func:`nst_fast.images.film.open_film`; the numbers begin anywhere and have no gap."""
    paths = _without_gap(path)
    clock = [at / RATE for at in range(len(paths) + 1)]
    first, stop = part.of(clock, shown(path))
    shape = _picture(paths[0], limits.max_megapixels).shape
    info = FilmInfo.of_clock(clock[first : stop + 1], shape[:2], alpha=shape[2] == 4)
    return Film(info, first, partial(_read, paths, shape, limits.max_megapixels))


def write_sequence(path: Path, frames: Iterable[Frame], quality: int) -> None:
    """Write frames as pictures numbered from 1, each whole or not at all; those of a longer film before are removed."""
    make_folder(path.parent)
    count = 0
    for count, frame in enumerate(frames, 1):
        save_image(from_uint8(frame.pixels), _named(path, count), quality=quality)
    for number, entry in numbered(path).items():
        if number > count and entry == _named(path, number):
            remove(entry)


def _named(path: Path, number: int) -> Path:
    return path.with_name(_NUMBER.sub(lambda found: str(number).zfill(int(found[1] or 0)), path.name))


def numbered(path: Path) -> dict[int, Path]:
    """The pictures that a pattern stands for by their numbers, in order, whatever zeros these begin with."""
    before, after = (re.escape(text) for text in re.split(_NUMBER.pattern, path.name)[::2])
    name = re.compile(f"{before}(\\d+){after}")
    try:
        entries = [(name.fullmatch(entry.name), entry) for entry in path.parent.iterdir()]
    except OSError:  # no folder, no pictures
        return {}
    return dict(sorted((int(found[1]), entry) for found, entry in entries if found))


def _without_gap(path: Path) -> list[Path]:
    found = numbered(path)
    if not found:
        raise InputError(f"{shown(path)}: there is no such picture", "Give the pattern of the names: frames/%04d.png")
    for number, after in pairwise(found):
        if after != number + 1:
            raise InputError(f"{shown(path)}: number {number + 1} is missing", "Number the pictures without a gap")
    return list(found.values())


def _picture(path: Path, max_megapixels: float) -> Pixels:
    image = load_image(path, background=None, max_megapixels=max_megapixels)
    return to_uint8(image.tensor if image.alpha is None else torch.cat([image.tensor, image.alpha], 1))


def _read(
    paths: list[Path], shape: tuple[int, int, int], max_megapixels: float, first: int, stop: int
) -> Generator[Pixels]:
    height, width, channels = shape
    for path in paths[first:stop]:
        pixels = _picture(path, max_megapixels)
        if channels > pixels.shape[2]:
            pixels = np.dstack([pixels, np.full((height, width), 255, np.uint8)])
        if pixels.shape != shape:
            has = f"{pixels.shape[1]}x{pixels.shape[0]} pixels" + " with alpha" * (pixels.shape[2] == 4)
            raise InputError(f"{shown(path)} has {has}, the first {width}x{height}", "Make all pictures alike")
        yield pixels
