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
from nst_fast.system.files import make_folder, shown

RATE = Fraction(25)
_NUMBER = re.compile(r"%(?:0(\d))?d")


def is_pattern(path: Path) -> bool:
    """Whether a path stands for numbered pictures."""
    return len(_NUMBER.findall(path.name)) == 1 and not path.exists()


def open_sequence(path: Path, part: Part, limits: Limits, rate: Fraction | None) -> Film:
    """See :func:`nst_fast.images.film.open_film`; the numbers begin anywhere and have no gap."""
    paths, rate = _numbered(path), rate or RATE
    pixels = _picture(paths[0], limits.max_megapixels)
    first, stop = part.of([at / rate for at in range(len(paths))], len(paths) / rate, shown(path))
    count = stop - first
    times = tuple(at / rate for at in range(count))
    height, width, channels = pixels.shape
    info = FilmInfo((height, width), times, rate, count / rate, alpha=channels == 4, begin=first / rate)
    return Film(info, first, partial(_read, paths, (height, width, channels), limits.max_megapixels))


def write_sequence(path: Path, frames: Iterable[Frame], quality: int) -> int:
    """Write frames as pictures numbered from 1, each whole or not at all; how many there were."""
    make_folder(path.parent)
    count = 0
    for count, frame in enumerate(frames, 1):
        target = path.with_name(_NUMBER.sub(lambda found: str(count).zfill(int(found[1] or 0)), path.name))  # noqa: B023
        save_image(from_uint8(frame.pixels), target, quality=quality)
    return count


def _numbered(path: Path) -> list[Path]:
    before, after = (re.escape(text) for text in re.split(_NUMBER.pattern, path.name)[::2])
    numbered = re.compile(f"{before}(\\d+){after}")
    try:
        names = [(int(found[1]), entry) for entry in path.parent.iterdir() if (found := numbered.fullmatch(entry.name))]
    except OSError as error:
        raise InputError(f"{shown(path.parent)} cannot be read: {(error.strerror or str(error)).lower()}") from error
    if not names:
        raise InputError(f"{shown(path)}: there is no such picture", "Give the pattern of the names: frames/%04d.png")
    names.sort()
    for (number, _), (after_it, _) in pairwise(names):
        if after_it != number + 1:
            raise InputError(f"{shown(path)}: number {number + 1} is missing", "Number the pictures without a gap")
    return [entry for _, entry in names]


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
